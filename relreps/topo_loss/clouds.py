"""Two clouds of the same samples: checks, and the pairs of points that set their units."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps.topo_loss.metric import Metric, embed, on_host, pairwise, parse_metric
from relreps.topo_loss.trees import check_points


def check_same_samples(names: tuple[str, str], x: Tensor, y: Tensor, metric: Metric) -> None:
    """Refuse two clouds without the same number of points, and distances that are not finite."""
    for name, cloud in zip(names, (x, y), strict=True):
        check_points(name, cloud, metric)
        if parse_metric(metric)[0] == "precomputed" and on_host(cloud):
            off = ~torch.eye(cloud.shape[-1], dtype=torch.bool)
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


@torch.no_grad()
def distance_matrix(x: Tensor, metric: Metric) -> Tensor:
    """Distances ``(..., n, n)`` in some unit of each cloud, without gradient."""
    name, _ = parse_metric(metric)
    points, p = embed(x, metric)
    if name == "precomputed":
        return points / 2 + points.mT / 2
    d = pairwise(points, points, p)
    power = p if name == "fp" else {"sqeuclidean": 2.0, "cosine": 2.0}.get(name, 1.0)
    power /= min(p, 1) or 1  # what `pairwise` has raised it to
    return d if power == 1 else d**power


@torch.no_grad()
def longest_pairs(d: Tensor, count: int) -> Tensor:
    """The ``count`` pairs ``(..., count, 2)`` of the largest distances, the largest first."""
    i, j = torch.triu_indices(d.shape[-2], d.shape[-1], 1, device=d.device)
    at = d[..., i, j].topk(count).indices
    return torch.stack((i[at], j[at]), -1)


def nonzero(unit: Tensor) -> Tensor:
    """A unit of length to divide by; 1 where it is 0, as then is everything measured in it."""
    return torch.where(unit > 0, unit, 1)


def no_loss(*clouds: Tensor) -> Tensor:
    """Zero for every cloud, connected to the graph."""
    return torch.stack([x[..., :0, :].sum((-2, -1)) for x in clouds]).sum(0)


def mean(values: Tensor) -> Tensor:
    """Mean over clouds; of none it is zero, connected to the graph."""
    return values.sum() / max(values.numel(), 1)
