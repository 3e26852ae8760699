"""Projections onto anchors: dense, sparse, by parts, and along the decoder.

Two networks trained apart place the same data in spaces that differ by a transformation. Encode
the *same* anchor samples in both, and describe every sample by how it relates to them: what the
similarity is invariant to disappears, and the two codes can be compared, or exchanged.
"""

from relreps.projection.blocks import (
    AnchorAttention,
    Quantize,
    StratifiedMean,
    SubspaceProjection,
)
from relreps.projection.dense import RelativeProjection, relative_projection
from relreps.projection.encoder import RelativeEncoder
from relreps.projection.geodesic import GraphGeodesic, RelativeGeodesic
from relreps.projection.parseval import ParsevalFrame
from relreps.projection.product import ProductProjection
from relreps.projection.running import RunningRelativeProjection
from relreps.projection.sparse import SparseRelativeProjection, sparse_scores

__all__ = [
    "AnchorAttention",
    "GraphGeodesic",
    "ParsevalFrame",
    "ProductProjection",
    "Quantize",
    "RelativeEncoder",
    "RelativeGeodesic",
    "RelativeProjection",
    "RunningRelativeProjection",
    "SparseRelativeProjection",
    "StratifiedMean",
    "SubspaceProjection",
    "relative_projection",
    "sparse_scores",
]
