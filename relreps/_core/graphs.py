"""Graphs of a cloud: who is near whom, in value and in gradient, and the Laplacian of that."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.rounding import safe_divisor, safe_power, unit_of


def squared_distances(z: Tensor, temperature: float | str) -> tuple[Tensor, Tensor]:
    """Squared distances of points ``(..., n, D)``, infinite on the diagonal, ``(..., n, n)`` each.

    First in some unit, without gradient, to tell who is nearer. Then in that of the temperature, a
    number or ``"median"``, with gradient.
    """
    # Brought near one by a power of two u, squares neither overflow nor vanish, nor round anew:
    # |a - b|^2 / T = |a/u - b/u|^2 / (T / u^2), and a median is in units of u^2 already.
    n, width = z.shape[-2:]
    cloud = z.detach()
    spread = (cloud - cloud[..., :1, :]).abs().amax((-2, -1), keepdim=True) if width else z[..., :1]
    unit = unit_of(spread)
    points = z / unit
    d = _squares(points)
    divisor = _median(d.detach()) if isinstance(temperature, str) else temperature / unit.square()
    # Nothing is nearer than the smallest number, or farther than the largest one: no NaN follows.
    top = torch.finfo(d.dtype).max / 8
    heat = (d / divisor.clamp(min=torch.finfo(d.dtype).tiny)).clamp(max=top)
    own = torch.eye(n, dtype=torch.bool, device=d.device)
    return d.detach().masked_fill(own, math.inf), heat.masked_fill(own, math.inf)


def _squares(points: Tensor) -> Tensor:
    """Squared distances ``(..., n, n)``, with all derivatives."""
    if not checks.eager():
        return _distances(points).square()
    if checks.plain():
        squares: Tensor = _Squares.apply(points)  # type: ignore[no-untyped-call]
        return squares
    return _gaps(points).square().sum(-1)


def _distances(points: Tensor) -> Tensor:
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def _gaps(points: Tensor) -> Tensor:
    """Differences of every two points ``(..., n, n, D)``."""
    return points[..., :, None, :] - points[..., None, :, :]


class _Squares(torch.autograd.Function):
    """Squares of torch's distances, which have a first derivative only, without O(n² D) memory."""

    @staticmethod
    def forward(ctx: Any, points: Tensor) -> Tensor:
        d = _distances(points)
        ctx.save_for_backward(points, d)
        return d.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # |x_i - x_j|^2 moves by 2 (x_i - x_j) with x_i, and stands at (i, j) and at (j, i).
        points, d = ctx.saved_tensors
        both = 2 * (grad + grad.mT)
        if torch.is_grad_enabled():  # to be differentiated again
            return (both[..., None] * _gaps(points)).sum(-2)
        # This one multiplies by (x_i - x_j) / d_ij.
        out: Tensor = torch.ops.aten._cdist_backward((both * d).contiguous(), points, points, 2, d)
        return out


def neighbor_graph(distances: Tensor, heat: Tensor, k: int) -> Tensor:
    """Graph of the k nearest of each point or of the other; in gradient its soft form.

    Equally near ones share the places that are left among them, so the graph does not depend on the
    order of the points. The soft form is at a temperature of 1 in the unit of ``heat``.
    """
    with torch.no_grad():
        farthest = distances.topk(k, largest=False).values[..., -1:]
        nearer, tied = distances < farthest, distances == farthest
        room = k - nearer.sum(-1, keepdim=True)
        share = room / tied.sum(-1, keepdim=True).to(distances.dtype)
        chosen = torch.where(tied, share, nearer.to(distances.dtype))
        hard = torch.maximum(chosen, chosen.mT)
    if not heat.requires_grad:
        return hard
    soft = soft_neighbors(-heat, k)
    soft = soft + soft.mT
    return hard + (soft - soft.detach())  # straight through: the value of one, the slope of another


def soft_neighbors(logits: Tensor, k: int) -> Tensor:
    """Sum of k softmaxes along rows, each taking away from the logits what it chose."""
    # a_1 = logits, w_j = softmax(a_j), a_{j+1} = a_j + log(1 - w_j). A softmax does not mind a
    # constant, so log w_j, which is a_j minus one, may stand for a_j.
    log_weights = logits.log_softmax(-1)
    total = weights = log_weights.exp()
    for _ in range(k - 1):
        log_weights = (log_weights + _log_rest(log_weights, weights)).log_softmax(-1)
        weights = log_weights.exp()
        total = total + weights
    return total


def normalized_laplacian(weights: Tensor) -> Tensor:
    """``I - B^-1/2 A B^-1/2`` of symmetric weights A with row sums B.

    A row of zeros stands for weights that were too small.
    """
    scale = safe_power(weights.sum(-1), -0.5)
    n = weights.shape[-1]
    identity = torch.eye(n, dtype=weights.dtype, device=weights.device)
    return identity - scale[..., :, None] * weights * scale[..., None, :]


def _median(d: Tensor) -> Tensor:
    """Median over the rows of the median off the diagonal; the mean, or 1, where that is 0."""
    n = d.shape[-1]
    # Its own zero is the first of n distances of a point. Off the CPU kthvalue may be refused.
    half = n // 2
    rows = d.kthvalue(half + 1).values if checks.on_host(d) else d.sort(-1).values[..., half]
    middle = rows.sort(-1).values[..., (n - 1) // 2]
    mean = d.mean((-2, -1)) * (n / max(n - 1, 1))
    return torch.where(middle > 0, middle, safe_divisor(mean))[..., None, None]


def _log_rest(log_weights: Tensor, weights: Tensor) -> Tensor:
    """``log(1 - weights)`` for weights that sum to 1, exact also where one of them is next to 1."""
    # Only the largest weight can be above one half, where 1 - w cancels. What it leaves is the sum
    # of the others: log(1 - w_1) = logsumexp of log w_2, log w_3, ...
    first = torch.zeros_like(weights, dtype=torch.bool)
    first = first.scatter(-1, weights.argmax(-1, keepdim=True), True)
    others = log_weights.masked_fill(first, -math.inf).logsumexp(-1, keepdim=True)
    return torch.where(first, others, torch.log1p(-weights.masked_fill(first, 0)))
