"""Anchors: which samples become anchors, and anchors that are made rather than chosen."""

from relreps.anchors.convex import ConvexAnchors, coverage_loss, diversity_loss
from relreps.anchors.geometric import (
    BestAlignedAnchors,
    FarthestAnchors,
    LeverageAnchors,
    leverage_scores,
)
from relreps.anchors.kmeans import ClusterAnchors, KMeansAnchors, cluster_labels
from relreps.anchors.made import EMAAnchors, prototypes
from relreps.anchors.report import AnchorReport, anchor_report
from relreps.anchors.samplers import Sampler, StratifiedAnchors, TopKAnchors, UniformAnchors
from relreps.anchors.subset import pivoted_anchors, prune_anchors

__all__ = [
    "AnchorReport",
    "BestAlignedAnchors",
    "ClusterAnchors",
    "ConvexAnchors",
    "EMAAnchors",
    "FarthestAnchors",
    "KMeansAnchors",
    "LeverageAnchors",
    "Sampler",
    "StratifiedAnchors",
    "TopKAnchors",
    "UniformAnchors",
    "anchor_report",
    "cluster_labels",
    "coverage_loss",
    "diversity_loss",
    "leverage_scores",
    "pivoted_anchors",
    "prototypes",
    "prune_anchors",
]
