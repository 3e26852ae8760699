"""Which row of one space is which row of another: pairs that are known, and pairs found.

Everything here gives `Pairs`, and takes them, or two index tensors, as ``seeds``.
"""

from relreps.correspondence.discovery import discover_parallel_anchors
from relreps.correspondence.functional import functional_map
from relreps.correspondence.neighbors import csls, mutual_nearest
from relreps.correspondence.pairs import Pairs, Seeds
from relreps.correspondence.unsupervised import discover_parallel_anchors_unsupervised

__all__ = [
    "Pairs",
    "Seeds",
    "csls",
    "discover_parallel_anchors",
    "discover_parallel_anchors_unsupervised",
    "functional_map",
    "mutual_nearest",
]
