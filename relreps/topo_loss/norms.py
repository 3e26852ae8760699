"""Distances from differences of coordinates: of all pairs, and of chosen ones with gradient.

A matrix product would be cheaper, but its rounding is that of the squared norms, which buries every
distance below a thousandth of the radius in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relreps._core.linalg import unit_rows
from relreps._core.rounding import safe_divisor, safe_norm, safe_power, safe_reciprocal

#: Exponents of which torch has a norm that neither overflows nor vanishes near one.
KERNELS = (1.0, 2.0, math.inf)


def pairwise(x: Tensor, y: Tensor, p: float) -> Tensor:
    """Distances ``(..., n, m)`` of points ``(..., n, D)`` and ``(..., m, D)``, 0 meaning f0.

    For p < 1 it is the p-th power of the norm, which does not overflow where the norm does.
    """
    if p in KERNELS:
        return torch.cdist(x, y, p, compute_mode="donot_use_mm_for_euclid_dist")
    # With the largest coordinate u of a difference, |v|_p = u (sum_k |v_k / u|^p)^(1/p): the sum is
    # from 1 to D, whatever the unit. For p < 1 the root of D may be huge, so it is not taken.
    total = x.new_zeros(*x.shape[:-1], y.shape[-2])
    largest = torch.cdist(x, y, math.inf) if p else total
    unit = safe_divisor(largest)
    for k in range(x.shape[-1]):  # one coordinate at a time: no (n, m, D) tensor
        gap = (x[..., :, None, k] - y[..., None, :, k]).abs()
        total = total + ((gap / unit) ** p if p else _saturated(gap))
    if not p:
        return total
    return largest * total ** (1 / p) if p > 1 else largest**p * total


def directions(x: Tensor) -> Tensor:
    """Unit rows and one more coordinate, 1 for a row of zeros.

    Half the squared distance of two such rows is one minus their cosine, where a zero row has
    cosine 0 with all but its like: so a cosine distance is also a Euclidean one, and is measured
    without the cancellation of ``1 - cos``.
    """
    zero = (x == 0).all(-1, keepdim=True).to(x.dtype)
    return torch.cat((unit_rows(x), zero), -1)


def norm(gap: Tensor, p: float) -> Tensor:
    """The p-norm of each difference ``(..., D)``, of any size, with gradient 0 at 0."""
    if p == 1 or gap.shape[-1] == 0:
        return gap.abs().sum(-1)
    size = gap.abs()
    if p == math.inf:
        return size.amax(-1)
    # Divided by its largest coordinate, which is a constant to autograd: a norm is homogeneous.
    largest = size.detach().amax(-1, keepdim=True)
    if p == 2:
        return safe_norm(gap / safe_divisor(largest)) * largest[..., 0]
    return safe_power(power_sum(size / safe_divisor(largest), p), 1 / p) * largest[..., 0]


def square_sum(gap: Tensor) -> Tensor:
    """Sum of squares of each difference ``(..., D)``."""
    return gap.square().sum(-1)


def half_square_sum(gap: Tensor) -> Tensor:
    """Half of it."""
    return square_sum(gap) / 2


def power_sum(gap: Tensor, p: float) -> Tensor:
    """Sum of p-th powers of each difference, with gradient 0 at 0, also where p < 1."""
    return safe_power(gap.abs(), p).sum(-1)


def saturated_sum(gap: Tensor) -> Tensor:
    """Sum of ``|v| / (1 + |v|)`` over the coordinates of each difference."""
    return _saturated(gap.abs()).sum(-1)


def _saturated(size: Tensor) -> Tensor:
    """``size / (1 + size)``, 1 at infinity."""
    size = size.clamp(max=torch.finfo(size.dtype).max)
    return size / (1 + size)


def ends_of(x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Points of all clouds one after the other, and the rows of all first and all second ends."""
    *batch, n, width = x.shape
    clouds = math.prod(batch)
    if batch:
        edges = edges + torch.arange(clouds, device=x.device).view(*batch, 1, 1) * n
    return x.reshape(clouds * n, width), edges.reshape(-1, 2).mT.reshape(-1)


def both_ends(points: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """First and second end ``(m, D)`` of every edge, by one indexed read."""
    each = points.index_select(0, ends).view(2, ends.shape[0] // 2, points.shape[1])
    first, second = each.unbind()
    return first, second


def euclidean(points: Tensor, ends: Tensor) -> Tensor:
    """The 2-norm of the differences, for eager mode, where no compiler joins the passes of `norm`.

    Half the passes over the memory; of any size, with gradient 0 at 0.
    """
    lengths: Tensor = _Euclidean.apply(points, ends)  # type: ignore[no-untyped-call]
    return lengths


class _Euclidean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, ends: Tensor) -> Tensor:
        first, second = both_ends(points, ends)
        gap = first - second
        if not gap.shape[-1]:
            length = gap.sum(-1)
        else:
            largest = gap.abs().amax(-1, keepdim=True)  # far faster than the norm
            length = torch.linalg.vector_norm(gap / safe_divisor(largest), dim=-1) * largest[..., 0]
        ctx.save_for_backward(points, ends, gap, length)
        return length

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        points, ends, gap, length = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, back to the points
            first, second = both_ends(points, ends)
            gap = first - second
            length = norm(gap, 2.0)
        # An end moves its edge by the unit vector along it, the other end by the opposite one.
        slope = gap * (grad * safe_reciprocal(length))[..., None]
        out = grad.new_zeros(points.shape)  # of `grad`, which may be a batch of gradients
        return out.index_add_(0, ends, torch.cat((slope, -slope))), None
