"""How far two clouds differ in their connected components."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision
from relreps._core.rounding import safe_divisor
from relreps.topo_loss.clouds import check_same_samples, longest_pairs, mean
from relreps.topo_loss.kinds import MetricLike, resolve_metric
from relreps.topo_loss.metric import Metric
from relreps.topo_loss.trees import spanning_edges


def rtd_lite(x: Tensor, y: Tensor, *, metric: MetricLike = "l2", quantile: float = 0.9) -> Tensor:
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
    rule = resolve_metric(metric)
    check_same_samples(("x", "y"), x, y, rule)
    return _divergence(x, y, rule, quantile).to(x.dtype)


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

    def __init__(self, *, metric: MetricLike = "l2", quantile: float = 0.9) -> None:
        super().__init__()
        self._metric = resolve_metric(metric)
        checks.check_number("quantile", quantile, 0, 1)
        self.metric = metric
        self.quantile = quantile

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean divergence of the clouds."""
        check_same_samples(("x", "y"), x, y, self._metric)
        return mean(_divergence(x, y, self._metric, self.quantile)).to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"metric={self.metric!r}, quantile={self.quantile}"


def _divergence(x: Tensor, y: Tensor, metric: Metric, quantile: float) -> Tensor:
    x, y = at_least_float32(x), at_least_float32(y)
    if x.shape[-2] < 2:
        return x[..., :0, :].sum((-2, -1)) + y[..., :0, :].sum((-2, -1))  # 0 in the graph
    with full_precision(x):
        x, y = metric.in_own_unit(x), metric.in_own_unit(y)
        matrices = [metric.distances(cloud) for cloud in (x, y)]
        units = [_Quantile(d, quantile) for d in matrices]
        given = resolve_metric("precomputed")
        nearer = torch.minimum(
            *(d / u.of(d, given)[..., None] for d, u in zip(matrices, units, strict=True))
        )
        trees = [spanning_edges(cloud, metric) for cloud in (x, y)]
        edges = torch.cat((*trees, spanning_edges(nearer, given)), -2)
        in_x, in_y = (
            (metric.measure(cloud, edges) / unit.of(cloud, metric)).unflatten(-1, (3, -1))
            for cloud, unit in zip((x, y), units, strict=True)
        )
        # R >= 0: W(min(r_x, r_y)), a minimum over trees, is at most the weight of that minimum on
        # the tree of x, which is at most W(r_x); and so for y. It holds to the last digit: where
        # rounding makes another of the three trees the least, it is taken, and sums in one order
        # of numbers that are not larger are not larger.
        of_x, of_y = in_x.sum(-1)[..., 0], in_y.sum(-1)[..., 1]
        together = torch.minimum(in_x, in_y).sum(-1).amin(-1)
        total: Tensor = (of_x - together) / 2 + (of_y - together) / 2
        return total


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
        low, high, top = metric.measure(x, self.pairs).unbind(-1)
        middle = low + self.fraction * (high - low)
        return safe_divisor(torch.where(middle > 0, middle, top))[..., None]
