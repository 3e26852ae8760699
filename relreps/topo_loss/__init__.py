"""Topological losses: death times of connected components, measured with gradient."""

from relreps.topo_loss.deaths import death_times
from relreps.topo_loss.densification import (
    TopologicalDensificationLoss,
    topological_densification_loss,
)
from relreps.topo_loss.divergence import RTDLiteLoss, rtd_lite
from relreps.topo_loss.edges import edge_lengths
from relreps.topo_loss.kinds import MetricLike
from relreps.topo_loss.metric import Metric
from relreps.topo_loss.persistence import (
    ConnectivityLoss,
    death_time_quantiles,
    persistent_entropy,
    total_persistence,
)
from relreps.topo_loss.signatures import SignatureLoss, signature_loss
from relreps.topo_loss.theory import mass_concentration_bound
from relreps.topo_loss.trees import minimum_spanning_tree
from relreps.topo_loss.wasserstein import wasserstein_h0

__all__ = [
    "ConnectivityLoss",
    "Metric",
    "MetricLike",
    "RTDLiteLoss",
    "SignatureLoss",
    "TopologicalDensificationLoss",
    "death_time_quantiles",
    "death_times",
    "edge_lengths",
    "mass_concentration_bound",
    "minimum_spanning_tree",
    "persistent_entropy",
    "rtd_lite",
    "signature_loss",
    "topological_densification_loss",
    "total_persistence",
    "wasserstein_h0",
]
