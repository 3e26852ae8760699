"""Relative representations and latent translation: networks trained apart speak to each other.

Here is what people put inside their models. Everything else is importable from its package:
`relreps.similarity`, `relreps.anchors`, `relreps.correspondence`, `relreps.translate`,
`relreps.topo_loss`, `relreps.metrics`, `relreps.plots`, `relreps.testing`, `relreps.parity`.
"""

from typing import NoReturn

from relreps import metrics, similarity
from relreps._core.moved import home_of as _home_of
from relreps._core.warnings import NumericalWarning, PerformanceWarning
from relreps.anchors import (
    ConvexAnchors,
    EMAAnchors,
    FarthestAnchors,
    KMeansAnchors,
    LeverageAnchors,
    StratifiedAnchors,
    TopKAnchors,
    UniformAnchors,
    anchor_report,
    prototypes,
    prune_anchors,
)
from relreps.correspondence import discover_parallel_anchors
from relreps.metrics import compare_layers
from relreps.moments import Moments
from relreps.normalization import (
    Center,
    IsotropicScale,
    NormalizerChain,
    StandardScale,
    UnitNorm,
    Whiten,
)
from relreps.projection import (
    AnchorAttention,
    ParsevalFrame,
    ProductProjection,
    Quantize,
    RelativeEncoder,
    RelativeProjection,
    SparseRelativeProjection,
    StratifiedMean,
    SubspaceProjection,
    relative_projection,
)
from relreps.sampling import ClassBatchSampler
from relreps.similarity import GraphGeodesic, RelativeGeodesic
from relreps.spectral_loss import SpectralGapLoss
from relreps.stitching import StitchedModel, stitching_matrix
from relreps.topo_loss import (
    RTDLiteLoss,
    SignatureLoss,
    TopologicalDensificationLoss,
    death_times,
    mass_concentration_bound,
    minimum_spanning_tree,
    topological_densification_loss,
)
from relreps.translate import (
    AffineTranslator,
    CCATranslator,
    FunctionalMapTranslator,
    GeneralizedProcrustes,
    InverseRelativeTranslator,
    LinearTranslator,
    LOrthoTranslator,
    ProcrustesTranslator,
    RefinedProcrustesTranslator,
    Translator,
    TransportTranslator,
    linear_map,
    procrustes,
    translation_report,
)

__version__ = "0.1.0.dev0"

__all__ = [
    "AffineTranslator",
    "AnchorAttention",
    "CCATranslator",
    "Center",
    "ClassBatchSampler",
    "ConvexAnchors",
    "EMAAnchors",
    "FarthestAnchors",
    "FunctionalMapTranslator",
    "GeneralizedProcrustes",
    "GraphGeodesic",
    "InverseRelativeTranslator",
    "IsotropicScale",
    "KMeansAnchors",
    "LOrthoTranslator",
    "LeverageAnchors",
    "LinearTranslator",
    "Moments",
    "NormalizerChain",
    "NumericalWarning",
    "ParsevalFrame",
    "PerformanceWarning",
    "ProcrustesTranslator",
    "ProductProjection",
    "Quantize",
    "RTDLiteLoss",
    "RefinedProcrustesTranslator",
    "RelativeEncoder",
    "RelativeGeodesic",
    "RelativeProjection",
    "SignatureLoss",
    "SparseRelativeProjection",
    "SpectralGapLoss",
    "StandardScale",
    "StitchedModel",
    "StratifiedAnchors",
    "StratifiedMean",
    "SubspaceProjection",
    "TopKAnchors",
    "TopologicalDensificationLoss",
    "Translator",
    "TransportTranslator",
    "UniformAnchors",
    "UnitNorm",
    "Whiten",
    "anchor_report",
    "compare_layers",
    "death_times",
    "discover_parallel_anchors",
    "linear_map",
    "mass_concentration_bound",
    "metrics",
    "minimum_spanning_tree",
    "procrustes",
    "prototypes",
    "prune_anchors",
    "relative_projection",
    "similarity",
    "stitching_matrix",
    "topological_densification_loss",
    "translation_report",
]


def __getattr__(name: str) -> NoReturn:
    """Say where a name lives that is not here (any more)."""
    home = _home_of(name)
    if home is not None:
        raise AttributeError(f"`relreps.{name}` is `{home}`: import it from there.")
    raise AttributeError(f"module 'relreps' has no attribute {name!r}")
