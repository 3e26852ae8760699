"""How far two clouds differ in their connected components."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision
from relreps.topo_loss.clouds import (
    check_same_samples,
    distance_matrix,
    longest_pairs,
    mean,
    no_loss,
    nonzero,
)
from relreps.topo_loss.deaths import check_deaths
from relreps.topo_loss.metric import Metric, measure, parse_metric
from relreps.topo_loss.trees import spanning_edges


def rtd_lite(x: Tensor, y: Tensor, *, metric: Metric = "l2", quantile: float = 0.9) -> Tensor:
    r"""Divergence of two clouds of the same samples, by the weights of their spanning trees.

    .. math:: R = \tfrac12 \bigl(W(r_x) + W(r_y)\bigr) - W\bigl(\min(r_x, r_y)\bigr)

    with W the total length of a minimum spanning tree and :math:`r` the distances of a cloud over
    their quantile (over pairs; interpolated linearly, as in `torch.quantile`). R is at least 0,
    symmetric, and 0 for clouds that agree up to isometry and scale: it grows as one cloud needs
    long edges where the other has short ones. Edges and the pairs at the quantile are selected
    without gradient and measured with it. Where the quantile is 0 the largest distance takes its
    place; clouds of fewer than two points have R = 0. O(n² D) time, O(n²) memory.

    Args:
        x: Points.
        y: The same samples in another space.
        metric: Metric of both, see `death_times`; ``"precomputed"`` takes distances for both.
        quantile: Which quantile is the unit of length, in [0, 1].

    Shape:
        - x: :math:`(*, n, D_1)`; y: :math:`(*, n, D_2)`. Output: :math:`(*)`.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> rtd_lite(x, 5 * x), rtd_lite(x, x**2)
        (tensor(0.), tensor(0.2588))

    References:
        Tulchinskii et al., arXiv:2503.11910. The released code takes the quantile over the whole
        matrix, with its diagonal of zeros.
    """
    checks.check_number("quantile", quantile, 0, 1)
    check_same_samples(("x", "y"), x, y, metric)
    if x.shape[-2] < 2:
        return no_loss(x, y)
    clouds = at_least_float32(x), at_least_float32(y)
    with full_precision(x):
        matrices = [distance_matrix(cloud, metric) for cloud in clouds]
        units = [_Quantile(d, quantile) for d in matrices]
        nearer = torch.minimum(
            *(
                d / unit.of(d, "precomputed")[..., None]
                for d, unit in zip(matrices, units, strict=True)
            )
        )
        trees = [spanning_edges(cloud, metric) for cloud in clouds]
        edges = torch.cat((*trees, spanning_edges(nearer, "precomputed")), -2)
        in_x, in_y = (
            (measure(cloud, edges, metric) / unit.of(cloud, metric)).unflatten(-1, (3, -1))
            for cloud, unit in zip(clouds, units, strict=True)
        )
        alone = (in_x[..., 0, :] + in_y[..., 1, :]) / 2
        together = torch.minimum(in_x[..., 2, :], in_y[..., 2, :])
        total: Tensor = (alone - together).sum(-1)
        return total.to(x.dtype)


class RTDLiteLoss(nn.Module):
    r"""Draws two clouds of the same samples to the same connected structure: `rtd_lite` as a loss.

    The mean over clouds is taken. The unit of length, a quantile of the distances, is
    differentiated through, so the loss cannot be lowered by growing one of the clouds.

    Args:
        metric: Metric of both clouds, see `death_times`; ``"precomputed"`` takes distances.
        quantile: Which quantile of the distances is the unit of length, in [0, 1].

    Shape:
        - x: :math:`(*, n, D_1)`; y: :math:`(*, n, D_2)`. Output: scalar.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> RTDLiteLoss()(x, 3 * x + 1)
        tensor(0.)

    References:
        Tulchinskii et al., arXiv:2503.11910.
    """

    def __init__(self, *, metric: Metric = "l2", quantile: float = 0.9) -> None:
        super().__init__()
        parse_metric(metric)
        checks.check_number("quantile", quantile, 0, 1)
        self.metric = metric
        self.quantile = quantile

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean divergence of the clouds."""
        values = rtd_lite(
            at_least_float32(x), at_least_float32(y), metric=self.metric, quantile=self.quantile
        )
        return mean(values).to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"metric={self.metric!r}, quantile={self.quantile}"


def wasserstein_h0(a: Tensor, b: Tensor, q: float = 1.0, *, diagonal: bool = True) -> Tensor:
    r"""Wasserstein distance of two sets of death times, as persistence diagrams.

    .. math:: W_q = \Bigl( \min_\gamma \sum_{(i, j) \in \gamma} |a_i - b_j|^q +
              \sum_{i \notin \gamma} (a_i / 2)^q + \sum_{j \notin \gamma} (b_j / 2)^q
              \Bigr)^{1/q}

    over partial matchings :math:`\gamma`: a point of a diagram, with birth 0, is matched to one of
    the other or goes to the diagonal, at half its length (sup norm of the plane). An optimal
    matching keeps the order, so it is found exactly by dynamic programming over the sorted times:
    O(m m') time and memory, in m vector steps. With ``diagonal=False`` all are matched, in order:
    O(m log m). The gradient is that of the matching chosen; where the distance is 0 it is 0.

    Args:
        a: Death times, not negative, in any order.
        b: Death times; as many if ``diagonal=False``.
        q: Order, at least 1.
        diagonal: Whether points may go to the diagonal, as in the usual definition.

    Shape:
        - a: :math:`(*, m)`; b: :math:`(*, m')`. Output: :math:`(*)`.

    Example:
        >>> wasserstein_h0(torch.tensor([1.0, 2.0]), torch.tensor([2.5]))
        tensor(1.)
    """
    checks.check_number("q", q, 1, math.inf)
    checks.check_positive("q", q)
    check_deaths("a", a)
    check_deaths("b", b)
    if a.shape[:-1] != b.shape[:-1] or (not diagonal and a.shape != b.shape):
        wanted = "the same leading axes" if diagonal else "one shape where `diagonal=False`"
        raise ValueError(
            f"`a` and `b` must have {wanted}, got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    first, second = at_least_float32(a).sort(-1).values, at_least_float32(b).sort(-1).values
    # In units (a power of two) near the longest one, so that powers neither overflow nor vanish.
    both = torch.nn.functional.pad(torch.cat((first, second), -1).detach(), (1, 0))
    unit = nonzero(both.amax(-1, keepdim=True)).log2().floor().exp2()
    first, second = first / unit, second / unit
    if diagonal:
        total = _cheapest_matching(first, second, q)
    else:
        total = ((first - second).abs() ** q).sum(-1)
    root = torch.where(total > 0, torch.where(total > 0, total, 1) ** (1 / q), 0)
    return (root * unit[..., 0]).to(a.dtype)


def _cheapest_matching(a: Tensor, b: Tensor, q: float) -> Tensor:
    """Cost of the best partial matching of two ascending sets."""
    # Entry j is the least cost of what was seen of `a` with the first j of `b`. Sending further
    # ones of `b` to the diagonal adds differences of `gone`, hence a running minimum.
    gone = torch.nn.functional.pad((b / 2).pow(q).cumsum(-1), (1, 0))
    cost = gone
    for i in range(a.shape[-1]):
        point = a[..., i : i + 1]
        dropped = cost + (point / 2) ** q
        matched = cost[..., :-1] + (point - b).abs() ** q
        cost = torch.cat((dropped[..., :1], torch.minimum(dropped[..., 1:], matched)), -1)
        cost = gone + (cost - gone).cummin(-1).values
    return cost[..., -1]


class _Quantile:
    """Unit of length of a cloud: the pairs between which a quantile of its distances lies."""

    def __init__(self, d: Tensor, quantile: float) -> None:
        n = d.shape[-1]
        pairs = n * (n - 1) // 2
        position = quantile * (pairs - 1)
        low, high = math.floor(position), math.ceil(position)
        self.fraction = position - low
        longest = longest_pairs(d, pairs - low)
        # By slices: a list of indices would be copied to the device, which waits for it.
        at = (longest[..., -1, :], longest[..., low - high - 1, :], longest[..., 0, :])
        self.pairs = torch.stack(at, -2)

    def of(self, x: Tensor, metric: Metric) -> Tensor:
        """The quantile, ``(..., 1)``, with gradient; the largest distance where it is 0."""
        low, high, top = measure(x, self.pairs, metric).unbind(-1)
        middle = low + self.fraction * (high - low)
        return nonzero(torch.where(middle > 0, middle, top))[..., None]
