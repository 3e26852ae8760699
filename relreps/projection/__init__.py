"""Projections onto anchors: dense, sparse, by parts, and along the decoder.

Two networks trained apart place the same data in spaces that differ by a transformation. Encode
the *same* anchor samples in both, and describe every sample by how it relates to them: what the
similarity is invariant to disappears, and the two codes can be compared, or exchanged.
"""

from relreps.projection.codes import (
    AnchorAttention,
    Quantize,
    StratifiedMean,
    SubspaceProjection,
)
from relreps.projection.encoder import RelativeEncoder
from relreps.projection.parseval import ParsevalFrame
from relreps.projection.product import ProductProjection
from relreps.projection.relative import RelativeProjection, relative_projection
from relreps.projection.sparse import SparseRelativeProjection, sparse_scores

__all__ = [
    "AnchorAttention",
    "ParsevalFrame",
    "ProductProjection",
    "Quantize",
    "RelativeEncoder",
    "RelativeProjection",
    "SparseRelativeProjection",
    "StratifiedMean",
    "SubspaceProjection",
    "relative_projection",
    "sparse_scores",
]
