"""Anchors: which samples become anchors, and anchors that are made rather than chosen."""

from relreps.anchors.clustering import ClusterAnchors, KMeansAnchors, cluster_labels
from relreps.anchors.convex import ConvexAnchors, coverage_loss, diversity_loss
from relreps.anchors.discovery import (
    ParallelAnchors,
    UnsupervisedAnchors,
    discover_parallel_anchors,
    discover_parallel_anchors_unsupervised,
)
from relreps.anchors.geometric import (
    BestAlignedAnchors,
    FarthestAnchors,
    LeverageAnchors,
    leverage_scores,
)
from relreps.anchors.means import prototypes
from relreps.anchors.moving import EMAAnchors
from relreps.anchors.pruning import pivoted_anchors, prune_anchors
from relreps.anchors.report import AnchorReport, anchor_report
from relreps.anchors.samplers import (
    AbstractSampler,
    StratifiedAnchors,
    TopKAnchors,
    UniformAnchors,
)

__all__ = [
    "AbstractSampler",
    "AnchorReport",
    "BestAlignedAnchors",
    "ClusterAnchors",
    "ConvexAnchors",
    "EMAAnchors",
    "FarthestAnchors",
    "KMeansAnchors",
    "LeverageAnchors",
    "ParallelAnchors",
    "StratifiedAnchors",
    "TopKAnchors",
    "UniformAnchors",
    "UnsupervisedAnchors",
    "anchor_report",
    "cluster_labels",
    "coverage_loss",
    "discover_parallel_anchors",
    "discover_parallel_anchors_unsupervised",
    "diversity_loss",
    "leverage_scores",
    "pivoted_anchors",
    "prototypes",
    "prune_anchors",
]
