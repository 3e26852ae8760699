"""Two clouds of the same samples: checks, and the pairs of points that set their units."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.rounding import safe_divisor
from relreps.topo_loss.metric import Metric


def check_same_samples(names: tuple[str, str], x: Tensor, y: Tensor, metric: Metric) -> None:
    """Refuse two clouds without the same number of points, and distances that are not finite."""
    for name, cloud in zip(names, (x, y), strict=True):
        metric.check(name, cloud)
        if metric.precomputed and checks.on_host(cloud):
            off = ~torch.eye(cloud.shape[-1], dtype=torch.bool, device=cloud.device)
            if bool((cloud.isinf() & off).any()):
                raise ValueError(
                    f"`{name}` must be finite between every two points: points infinitely far "
                    "apart have no length to compare. Give the distances of connected clouds."
                )
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must be clouds of the same samples, got shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}. Only the last axis may differ."
        )
    checks.check_device(x, y, names)


def longest_pairs(d: Tensor, count: int) -> Tensor:
    """The ``count`` pairs ``(..., count, 2)`` of the largest distances, the largest first."""
    i, j = torch.triu_indices(d.shape[-2], d.shape[-1], 1, device=d.device)
    at = d[..., i, j].topk(count).indices
    return torch.stack((i[at], j[at]), -1)


def diameter(x: Tensor, metric: Metric) -> Tensor:
    """Largest distance of each cloud, ``(..., 1)``, with gradient; 1 where there is none but 0."""
    if x.shape[-2] < 2:
        return x.new_ones(())
    return safe_divisor(metric.measure(x, longest_pairs(metric.distances(x), 1)))


def mean(values: Tensor) -> Tensor:
    """Mean over clouds; of none it is zero, connected to the graph."""
    return values.sum() / max(values.numel(), 1)
