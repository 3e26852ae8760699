"""Death times of the connected components of a cloud, with gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision
from relreps.topo_loss.kinds import MetricLike, resolve_metric
from relreps.topo_loss.metric import Metric
from relreps.topo_loss.trees import check_method, spanning_lengths


def death_times(
    x: Tensor, metric: MetricLike = "l2", method: str = "auto", *, mask: Tensor | None = None
) -> Tensor:
    r"""Scales at which the connected components of each cloud merge, ascending.

    The finite deaths of the 0-dimensional persistent homology of the Vietoris-Rips filtration,
    where an edge enters at its length: the lengths :math:`d_e` of the edges of a minimum spanning
    tree. There are always n - 1, ties and duplicates included. The tree is selected without
    gradient; its edges are then measured with gradient,

    .. math:: \partial d_e / \partial x_i = (x_i - x_j) / d_e \quad\text{for the metric } l_2,

    which is exact where no two pairs tie. An edge of length zero has gradient zero.

    Distances come from differences of coordinates, never from a matrix product, in float32 at
    least, so near-duplicates keep their distance. Selection tells pairs apart down to 1e-19 of the
    radius of a float32 cloud (1e-154 in float64); nearer ones tie, and are measured as they are. On
    the CPU about a thousand points cost less than ``torch.cdist(x, x)`` forward and backward.
    Memory is O(nD) and a block that does not grow with n, except that ``"closure"``, precomputed
    distances and a callable take :math:`O(n^2)`.

    Args:
        x: Points, or distances where the metric is ``"precomputed"``.
        metric: ``"l1"``, ``"l2"`` (or ``"euclidean"``), ``"sqeuclidean"``, ``"linf"``,
            ``("lp", p)`` (or a list) with p > 0, ``("fp", p)`` :math:`= \sum_k |u_k|^p`, ``"f0"``
            :math:`= \sum_k |u_k| / (1 + |u_k|)`, ``"cosine"`` (one minus the cosine; a zero row is
            at distance 1 from all others and 0 from its like), ``"precomputed"``, or a callable
            ``metric(a, b)`` that gives the distance of each row of ``a`` to the same row of ``b``,
            :math:`(*, D), (*, D) \to (*)`. It is called on all :math:`n (n - 1) / 2` pairs, once
            each, in blocks and without gradient; then on the chosen edges with gradient. That one
            is its own: where points may coincide, take a norm whose gradient is finite there.
        method: All give the same death times, eager and compiled, up to rounding; and the same
            edges, unless distances tie but for their rounding. ``"closure"`` (:math:`O(n^3)`, n
            short steps), ``"prim"`` (n - 1 steps of O(nD)) and ``"boruvka"`` (:math:`O(n^2 \log n)`
            in few steps) are static in shape, never wait for the device, compile and run on meta.
            ``"single_linkage"`` is SciPy's, on the eager CPU only. ``"auto"`` takes the closure up
            to 32 points; above, single linkage on the eager CPU and Boruvka elsewhere.
        mask: True where a point exists, for clouds of unequal sizes. Where a cloud has fewer
            deaths, the places left over, the last ones, hold infinity without a gradient. Take
            them out before any arithmetic: with points, the first ``mask.sum(-1) - 1`` are deaths.

    Shape:
        - x: :math:`(*, n, D)` or :math:`(*, n, n)`; mask: :math:`(*, n)`. Output:
          :math:`(*, n - 1)`, dtype of ``x``.

    Raises:
        TypeError, ValueError: Shapes or types that do not fit, an unknown metric or method; on the
            eager CPU also NaN, infinite points, negative or asymmetric distances.

    Example:
        >>> death_times(torch.tensor([[0.0], [5.0], [1.0]]))
        tensor([1., 4.])

    References:
        Hofer et al., arXiv:2002.04805, section 2.
    """
    rule = resolve_metric(metric)
    check_method(method)
    groups = None
    if mask is not None:
        rule.check_shape("x", x)
        _check_mask(mask, x)
        x, groups = _hidden(x, mask, rule)
    rule.check("x", x)
    with full_precision(x):
        lengths, exist = spanning_lengths(at_least_float32(x), rule, method, groups)
    if groups is not None:
        lengths = torch.where(exist, lengths, math.inf)
    return _ascending(lengths).to(x.dtype)


def check_deaths(name: str, d: Tensor) -> None:
    """Refuse what is no set of death times; NaN, infinite and negative ones on the host."""
    checks.check_floating(name, d)
    if d.dim() == 0:
        raise ValueError(f"`{name}` must have shape (..., m), one death time an entry, got ().")
    if checks.on_host(d) and not bool(((d >= 0) & (d < math.inf)).all()):
        raise ValueError(
            f"`{name}` must hold death times, finite and not negative. Those of a masked cloud are "
            "infinite where an edge is missing: leave them out."
        )


def check_scale(scale: float) -> None:
    """Refuse what is no length to draw death times to."""
    checks.check_number("scale", scale, 0, math.inf)
    if scale == math.inf:
        raise ValueError("`scale` must be finite, got inf.")


def _hidden(x: Tensor, mask: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Clouds where points that are masked out are zero, and groups in which each is alone.

    What stands in their place may be anything, and must not reach gradients.
    """
    exists = mask[..., None] & mask[..., None, :] if metric.precomputed else mask[..., None]
    groups = torch.where(mask, -1, torch.arange(mask.shape[-1], device=x.device))
    return x.masked_fill(~exists, 0), groups


def _ascending(lengths: Tensor) -> Tensor:
    """Sorted lengths of edges, which are in order but for the rounding of their measurement."""
    if checks.on_host(lengths) and bool((lengths[..., 1:] >= lengths[..., :-1]).all()):
        return lengths
    return lengths.sort(-1).values


def _check_mask(mask: Tensor, x: Tensor) -> None:
    """Refuse what is not one bool a point."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`mask` must be a bool tensor, True where a point exists, got {got}.")
    if mask.shape != x.shape[:-1]:
        raise ValueError(
            f"`mask` must have one entry for each point, shape {tuple(x.shape[:-1])}, "
            f"got {tuple(mask.shape)}."
        )
