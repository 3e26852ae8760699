"""Anchors: which samples become anchors, and anchors that are made rather than chosen."""

from relreps.anchors.moving import EMAAnchors
from relreps.anchors.samplers import (
    AbstractSampler,
    FarthestAnchors,
    KMeansAnchors,
    StratifiedAnchors,
    UniformAnchors,
)

__all__ = [
    "AbstractSampler",
    "EMAAnchors",
    "FarthestAnchors",
    "KMeansAnchors",
    "StratifiedAnchors",
    "UniformAnchors",
]
