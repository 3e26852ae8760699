"""Projections onto anchors: dense, sparse, by parts, and along the decoder.

Two networks trained apart place the same data in spaces that differ by a transformation. Encode
the *same* anchor samples in both, and describe every sample by how it relates to them: what the
similarity is invariant to disappears, and the two codes can be compared, or exchanged.
"""

from relreps.projection.base import Projection
from relreps.projection.codes import AnchorAttention, Quantize, StratifiedMean
from relreps.projection.encoder import RelativeEncoder
from relreps.projection.parseval import ParsevalFrame
from relreps.projection.product import ProductProjection
from relreps.projection.relative import RelativeProjection, relative_projection
from relreps.projection.sparse import SparseRelativeProjection, sparse_scores
from relreps.projection.subspace import SubspaceProjection

__all__ = [
    "AnchorAttention",
    "ParsevalFrame",
    "ProductProjection",
    "Projection",
    "Quantize",
    "RelativeEncoder",
    "RelativeProjection",
    "SparseRelativeProjection",
    "StratifiedMean",
    "SubspaceProjection",
    "relative_projection",
    "sparse_scores",
]
