"""Distances of rows to rows by differences of their coordinates, differentiable twice.

`torch.cdist` has no second derivative in this form. Its first one is kept as it is, and its memory:
O(NM), which a table of differences would not be.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import as_float64
from relreps._core.rounding import safe_reciprocal


def distances(x: Tensor, y: Tensor, p: float = 2.0) -> Tensor:
    """Distances by the norm of exponent 1, 2 or infinity, with gradient 0 at 0.

    Shape:
        - x: :math:`(*, N, D)`; y: :math:`(*, M, D)`. Output: :math:`(*, N, M)`.
    """
    plain = not (x.requires_grad or y.requires_grad) and checks.concrete(x, y)
    if plain or torch.compiler.is_compiling():
        return _forward(x, y, p)
    found: Tensor = _Distances.apply(x, y, p)  # type: ignore[no-untyped-call]
    return found


def _forward(x: Tensor, y: Tensor, p: float) -> Tensor:
    return torch.cdist(x, y, p, compute_mode="donot_use_mm_for_euclid_dist")


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, p: float) -> Tensor:
        return _forward(x, y, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, ctx.p = inputs
        ctx.save_for_backward(x, y, output)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        apply: Any = _Distances.apply
        return apply(*_stacked(info.batch_size, dims, *inputs)), 0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, d = ctx.saved_tensors
        of_x, of_y, _ = ctx.needs_input_grad
        return (
            _Slopes.apply(grad, x, y, d, ctx.p) if of_x else None,  # type: ignore[no-untyped-call]
            _Slopes.apply(grad.mT, y, x, d.mT, ctx.p) if of_y else None,  # type: ignore[no-untyped-call]
            None,
        )


class _Slopes(torch.autograd.Function):
    """What weights ``g`` of the distances make of the rows ``x``: ``sum_j g_ij`` times the slopes.

    For the exponent 2 it is, with ``e_ij = (x_i - y_j) / d_ij``, the sum ``s_i = sum_j g_ij e_ij``.
    """

    @staticmethod
    def forward(g: Tensor, x: Tensor, y: Tensor, d: Tensor, p: float) -> Tensor:
        g, x, y, d = (tensor.contiguous() for tensor in (g, x, y, d))
        slopes: Tensor = torch.ops.aten._cdist_backward(g, x, y, p, d)
        return slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.p = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        # Torch's own rule is wrong where the weights alone are many, as they are for a Jacobian.
        apply: Any = _Slopes.apply
        return apply(*_stacked(info.batch_size, dims, *inputs)), 0

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, x, y, d = ctx.saved_tensors
        if ctx.p != 2:  # slopes are constant almost everywhere, and linear in the weights
            return _along(v, x, y, ctx.p), None, None, None, None
        # With w_ij = <v_i, e_ij>, how fast d_ij grows as x_i moves along v_i,
        #   d<v, s>/dg_ij = w_ij
        #   d<v, s>/dx_i  = sum_j g_ij (v_i - w_ij e_ij) / d_ij,    and minus that, over i, for y_j.
        # Sums of differences are taken as products, in float64 for what they cancel.
        g, x, y, d, v = [as_float64(tensor) for tensor in (g, x, y, d, v)]
        inverse = safe_reciprocal(d)
        w = ((v * x).sum(-1, keepdim=True) - v @ y.mT) * inverse
        across, along = g * inverse, -g * w * inverse.square()
        of_x = v * across.sum(-1, keepdim=True) + x * along.sum(-1, keepdim=True) - along @ y
        of_y = -across.mT @ v - along.mT @ x + y * along.sum(-2)[..., None]
        return *(out.to(ctx.saved_tensors[0]) for out in (w, of_x, of_y)), None, None


def _stacked(many: int, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, ...]:
    """Tensors with an axis of this size in front, and the exponent."""
    *tensors, p = inputs
    fronts = (
        tensor.expand(many, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, dims, strict=False)
    )
    return *fronts, p


def _along(v: Tensor, x: Tensor, y: Tensor, p: float) -> Tensor:
    """How fast the distances of exponent 1 or infinity grow as the rows ``x`` move along ``v``."""
    step = blocks.rows_of_table(y.shape[-2] * x.shape[-1], x.dtype, x.device)
    parts = []
    for rows, moves in zip(x.split(step, -2), v.split(step, -2), strict=True):
        gap = rows[..., :, None, :] - y[..., None, :, :]
        speeds = gap.sign() * moves[..., :, None, :]
        if p == math.inf:
            speeds = speeds.gather(-1, gap.abs().argmax(-1, keepdim=True))
        parts.append(speeds.sum(-1))
    return torch.cat(parts, -2)
