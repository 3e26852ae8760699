"""Relative representations and latent translation: networks trained apart speak to each other."""

from relreps import metrics, similarity
from relreps._warnings import NumericalWarning, PerformanceWarning
from relreps.anchors import (
    EMAAnchors,
    FarthestAnchors,
    KMeansAnchors,
    StratifiedAnchors,
    UniformAnchors,
)
from relreps.moments import FeatureMoments, Moments
from relreps.normalization import (
    Center,
    IsotropicScale,
    NormalizerChain,
    RunningScale,
    StandardScale,
    UnitNorm,
    Whiten,
)
from relreps.projection import (
    AnchorAttention,
    GraphGeodesic,
    ParsevalFrame,
    ProductProjection,
    Quantize,
    RelativeEncoder,
    RelativeGeodesic,
    RelativeProjection,
    SparseRelativeProjection,
    StratifiedMean,
    SubspaceProjection,
    relative_projection,
    sparse_scores,
)
from relreps.stitching import StitchedModel, StitchingMatrix, stitching_matrix
from relreps.translate import ProcrustesTranslator, procrustes

__version__ = "0.1.0.dev0"

__all__ = [
    "AnchorAttention",
    "Center",
    "EMAAnchors",
    "FarthestAnchors",
    "FeatureMoments",
    "GraphGeodesic",
    "IsotropicScale",
    "KMeansAnchors",
    "Moments",
    "NormalizerChain",
    "NumericalWarning",
    "ParsevalFrame",
    "PerformanceWarning",
    "ProcrustesTranslator",
    "ProductProjection",
    "Quantize",
    "RelativeEncoder",
    "RelativeGeodesic",
    "RelativeProjection",
    "RunningScale",
    "SparseRelativeProjection",
    "StandardScale",
    "StitchedModel",
    "StitchingMatrix",
    "StratifiedAnchors",
    "StratifiedMean",
    "SubspaceProjection",
    "UniformAnchors",
    "UnitNorm",
    "Whiten",
    "metrics",
    "procrustes",
    "relative_projection",
    "similarity",
    "sparse_scores",
    "stitching_matrix",
]
