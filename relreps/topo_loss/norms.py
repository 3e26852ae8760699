"""Distances from differences of coordinates: of all pairs, and of chosen ones with gradient.

A matrix product would be cheaper, but its rounding is that of the squared norms, which buries every
distance below a thousandth of the radius in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relreps._core import checks
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
    if p == math.inf:
        return gap.abs().amax(-1)
    if checks.eager():
        length: Tensor = _Norm.apply(gap, p)  # type: ignore[no-untyped-call]
        return length
    return _in_units(gap, p)  # a compiler does not trace what has a rule for tangents


def _in_units(gap: Tensor, p: float) -> Tensor:
    """The p-norm u |v / u|, u the largest coordinate, a constant to autograd."""
    size = gap.abs()
    unit = size.detach().amax(-1, keepdim=True)
    size = size / safe_divisor(unit)
    if p == 2:
        return safe_norm(size) * unit[..., 0]
    return safe_power(power_sum(size, p), 1 / p) * unit[..., 0]


class _Norm(torch.autograd.Function):
    """The p-norm, whose derivative is found without the length: that may be too small to divide by.

    Differentiated as it is computed, it would be u times a slope over u, of which the first product
    vanishes where u is next to the smallest number.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(gap: Tensor, p: float) -> Tensor:
        return _in_units(gap, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        gap, ctx.p = inputs
        ctx.save_for_backward(gap)
        ctx.save_for_forward(gap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gap,) = ctx.saved_tensors
        return grad[..., None] * slope(gap, ctx.p), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (gap,) = ctx.saved_tensors
        return (tangent * slope(gap, ctx.p)).sum(-1)


def slope(gap: Tensor, p: float) -> Tensor:
    """Gradient ``(..., D)`` of the p-norm of each difference, itself differentiable; 0 at 0."""
    # With v = u s, u the largest coordinate, which the gradient does not depend on,
    #     d|v|_p / dv_k = sign(v_k) (|v_k| / |v|_p)^(p-1) = sign(s_k) |s_k|^(p-1) / |s|_p^(p-1).
    part = gap / safe_divisor(gap.detach().abs().amax(-1, keepdim=True))
    if p == 2:
        return part * safe_reciprocal(torch.linalg.vector_norm(part, dim=-1, keepdim=True))
    size = part.abs()
    total = safe_power(size, p).sum(-1, keepdim=True)
    return part.sign() * safe_power(size, p - 1) * safe_power(total, 1 / p - 1)


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
    # From one on as 1 - 1 / (1 + |v|): the slope 1 / (1 + |v|)^2 is then no difference of two
    # numbers of size 1 / |v|.
    size = gap.abs()
    low = size.clamp(max=1)
    return torch.where(size < 1, low / (1 + low), 1 - 1 / (1 + size)).sum(-1)


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
        part = first - second
        if part.shape[-1]:
            largest = part.abs().amax(-1, keepdim=True)  # far faster than the norm
            part = part / safe_divisor(largest)
            size = torch.linalg.vector_norm(part, dim=-1)
            length: Tensor = size * largest[..., 0]
        else:
            length = size = part.sum(-1)
        ctx.save_for_backward(points, ends, part, size)
        return length

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # An end moves its edge by the unit vector along it, the other end by the opposite one. It
        # is that of the difference in units of its largest coordinate, in which its length is not
        # so small that its reciprocal overflows.
        points, ends, part, size = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, back to the points
            first, second = both_ends(points, ends)
            along = grad[..., None] * slope(first - second, 2.0)
        else:
            along = part * (grad * safe_reciprocal(size))[..., None]
        out = grad.new_zeros(points.shape)  # of `grad`, which may be a batch of gradients
        return out.index_add_(0, ends, torch.cat((along, -along))), None
