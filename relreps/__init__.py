"""Relative representations and latent translation: networks trained apart speak to each other."""

from relreps import metrics, similarity
from relreps._warnings import NumericalWarning, PerformanceWarning
from relreps.anchors import FarthestAnchors, KMeansAnchors, StratifiedAnchors, UniformAnchors
from relreps.moments import FeatureMoments, Moments
from relreps.normalization import Center, StandardScale, UnitNorm
from relreps.projection import RelativeEncoder, RelativeProjection, relative_projection
from relreps.stitching import StitchedModel, StitchingMatrix, stitching_matrix
from relreps.translate import ProcrustesTranslator, procrustes

__version__ = "0.1.0.dev0"

__all__ = [
    "Center",
    "FarthestAnchors",
    "FeatureMoments",
    "KMeansAnchors",
    "Moments",
    "NumericalWarning",
    "PerformanceWarning",
    "ProcrustesTranslator",
    "RelativeEncoder",
    "RelativeProjection",
    "StandardScale",
    "StitchedModel",
    "StitchingMatrix",
    "StratifiedAnchors",
    "UniformAnchors",
    "UnitNorm",
    "metrics",
    "procrustes",
    "relative_projection",
    "similarity",
    "stitching_matrix",
]
