"""Which row of one space is which row of another: pairs that are known, and pairs found."""

from relreps.correspondence.discovery import (
    ParallelAnchors,
    UnsupervisedAnchors,
    discover_parallel_anchors,
    discover_parallel_anchors_unsupervised,
)

__all__ = [
    "ParallelAnchors",
    "UnsupervisedAnchors",
    "discover_parallel_anchors",
    "discover_parallel_anchors_unsupervised",
]
