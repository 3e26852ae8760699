"""The numerical traps of the field, each handled once.

* a zero row has no direction: it maps to zero, with zero gradient (`unit_rows`);
* squares overflow and underflow long before the numbers themselves do (`unit_rows`);
* half precision holds results, not sums of squares (`at_least_float32`);
* the gradient of an SVD is undefined at equal singular values, that of the polar factor is not
  (`polar_factor`);
* a rank-deficient product leaves part of its polar factor free: it is completed by a rule, not by
  the rounding of the machine (`polar_factor`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.rounding import moment_tolerance, rank_tolerance, safe_reciprocal, safe_sqrt

#: Ratio of the units of features from which on an eigendecomposition of their products loses digits
#: of the small ones.
_GRADED = 2.0**10

#: Half types: they hold results, and everything is computed in float32.
HALF = (torch.float16, torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself, or its float32 copy if it is of a half type."""
    return x.float() if x.dtype in HALF else x


def as_float64(x: Tensor) -> Tensor:
    """``x`` in float64; on the CPU where its device has no such type (MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64)


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocast inside: for sums and products that a half type would spoil."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()  # which leaves nothing of itself in an exported graph
    return torch.autocast(kind, enabled=False)


def unit_rows(x: Tensor) -> Tensor:
    r"""Rows of length one, :math:`x / \lVert x \rVert_2`; a zero row stays zero, gradient included.

    There is no absolute epsilon: rows are first divided by their largest entry, so a row of size
    1e-30 is normalised as well as one of size 1e30. That divisor is a constant to autograd, which
    changes no derivative because the map does not depend on the scale of its row. Half types are
    normalised in float32. O(ND) time.

    Shape:
        - x: :math:`(*, D)`. Output: the same, same dtype.
    """
    wide = at_least_float32(x)
    if wide.shape[-1] == 0:
        return x
    rows = wide.detach()
    largest = torch.maximum(rows.amax(-1, keepdim=True), -rows.amin(-1, keepdim=True))
    wide = wide / torch.where(largest > 0, largest, 1)
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide * safe_reciprocal(norm)).to(x.dtype)


def polar_factor(m: Tensor, allow_reflection: bool = True) -> Tensor:
    r"""The matrix with orthonormal rows or columns nearest to ``m``.

    With the thin SVD :math:`M = U S V^\top` it is :math:`U V^\top`. Where ``m`` is rank-deficient
    the factor is not unique: its free part is the one nearest to the identity, so the answer does
    not depend on the device. The gradient is exact, also at equal singular values. Where directions
    are missing on both sides, the factor jumps and has none: there it is 0.

    Args:
        m: Any real matrix.
        allow_reflection: If false, ``m`` must be square and the determinant is made +1 by turning
            over the direction that matters least.

    Shape:
        - m: :math:`(D_1, D_2)`. Output: the same.
    """
    factor: Tensor = _PolarFactor.apply(m, allow_reflection)[0]  # type: ignore[no-untyped-call]
    return factor


def orthogonal_factors(
    u: Tensor, vh: Tensor, rank: int, allow_reflection: bool = True
) -> tuple[Tensor, Tensor]:
    """Singular vectors whose product is the polar factor, where only ``rank`` are determined.

    The others are chosen by a rule (`_complete`), the least important one last.

    Args:
        u: Left singular vectors ``(D_1, K)``, the largest first.
        vh: Right ones, ``(K, D_2)``.
        rank: Number of singular values that are more than rounding.
        allow_reflection: If false, the last direction is turned over where the determinant is -1.
    """
    u, vh = _complete(u, vh, rank)
    if not allow_reflection and torch.linalg.det(u @ vh) < 0:
        u = torch.cat((u[:, :-1], -u[:, -1:]), 1)
    return u, vh


def inverse_sqrt(m: Tensor, noise: Tensor | None = None) -> Tensor:
    r"""Symmetric inverse root :math:`M^{-1/2}` of a positive definite matrix ``(D, D)``.

    Directions without variance are left out, as in a pseudo-inverse. The gradient is exact and
    finite at equal eigenvalues, which an eigendecomposition's is not; there is no second one.

    Args:
        m: The matrix.
        noise: How much of each entry of the diagonal is rounding, ``(D,)``: a direction counts if
            it has more than these give it.
    """
    root: Tensor = _InverseSqrt.apply(m, noise)[0]  # type: ignore[no-untyped-call]
    return root


class _InverseSqrt(torch.autograd.Function):
    """Inverse root with the closed-form (Daleckii-Krein) backward; see `inverse_sqrt`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(m: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        roots, u, share = _eigenroots(m)
        live = roots > roots[-1:] * share
        if noise is not None:
            live = live & (roots.square() > noise @ u.square())
        inverse = torch.where(live, 1 / torch.where(live, roots, 1), 0)
        return (u * inverse) @ u.mT, inverse, u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None]:
        # Divided differences of 1/sqrt: (1/sqrt(a) - 1/sqrt(b)) / (a - b), which in terms of the
        # inverse roots p and q is -p^2 q^2 / (p + q): no difference of eigenvalues to divide by.
        # A direction that is left out has b = q = 0, and (1/sqrt(a) - 0) / (a - 0) is p^3: it may
        # turn, but not grow, as in the derivative of a pseudo-inverse.
        m, inverse, u = ctx.saved_tensors
        p, q = inverse[:, None], inverse[None, :]
        slope = torch.where((p > 0) & (q > 0), -((p * q) ** 2) * safe_reciprocal(p + q), 0)
        slope = torch.where((p > 0) ^ (q > 0), (p + q) ** 3, slope)
        inner = (u.mT @ grad @ u) * slope
        out: Tensor = u @ inner @ u.mT
        return _first_order_only((out + out.mT) / 2, m, "inverse_sqrt"), None


def _eigenroots(m: Tensor) -> tuple[Tensor, Tensor, float]:
    """Roots of the eigenvalues of a positive semidefinite matrix, ascending, with their directions.

    And the share of the largest root that is rounding. An eigendecomposition knows eigenvalues up
    to the rounding of the largest one. Where the diagonal says that they differ widely, the
    matrix D R D is taken apart in units D in which it has ones on the diagonal: the singular values
    of sqrt(R) D are the roots themselves, up to the rounding of the largest root.
    """
    eps = torch.finfo(m.dtype).eps
    units = safe_sqrt(m.diagonal())
    inverse = safe_reciprocal(units)
    known = checks.readable(m) and not m.is_meta
    if not (known and bool(units.amax() * inverse.amax() > _GRADED)):
        values, u = torch.linalg.eigh(m)
        return values.clamp(min=0).sqrt(), u, moment_tolerance(len(values), eps) ** 0.5
    values, q = torch.linalg.eigh(m * inverse[:, None] * inverse)
    factor = (q * values.clamp(min=0).sqrt()).mT * units
    _, s, vh = torch.linalg.svd(factor)
    return s.flip(0), vh.flip(0).mT, rank_tolerance(len(s), eps)


class _PolarFactor(torch.autograd.Function):
    """Polar factor with the closed-form backward; see `polar_factor`."""

    @staticmethod
    def forward(m: Tensor, allow_reflection: bool) -> tuple[Tensor, ...]:
        u, s, vh = torch.linalg.svd(m, full_matrices=False)
        rank = int((s > rank_tolerance(max(m.shape), torch.finfo(s.dtype).eps) * s[:1]).sum())
        free, vh = orthogonal_factors(u, vh, rank)
        u, _ = orthogonal_factors(free, vh, len(s), allow_reflection)
        # The singular value of a direction that was turned over enters with a minus sign.
        s = s * torch.where((u * free).sum(0) < 0, -1, 1)
        return u @ vh, u, s, vh

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], m: Tensor, allow_reflection: bool
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # One after the other, as the rank of each decides what is done.
        apply: Any = _PolarFactor.apply
        each = [apply(one, allow_reflection) for one in m.movedim(in_dims[0] or 0, 0)]
        return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * 4

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None]:
        # With W = U V^T and upstream gradient G: inside the spans of U and V only the
        # antisymmetric part of T = U^T G V moves W, at speed 1 / (s_i + s_j); outside them the
        # rest of G does, at speed 1 / s_i. Where a divisor is rounding, the speed has no bound and
        # no direction: W jumps there, and what is left of the gradient is that of the others.
        m, u, s, vh = ctx.saved_tensors
        size = max(u.shape[0], vh.shape[1])
        floor = s.abs().amax() * rank_tolerance(size, torch.finfo(s.dtype).eps)
        v = vh.mT
        t = u.mT @ grad @ v
        out = u @ ((t - t.mT) * _reciprocal_above(floor, s[:, None] + s[None, :])) @ vh
        inverse = _reciprocal_above(floor, s)
        if u.shape[0] > vh.shape[1]:
            gv = grad @ v
            out = out + ((gv - u @ (u.mT @ gv)) * inverse) @ vh
        elif u.shape[0] < vh.shape[1]:
            ug = u.mT @ grad
            out = out + u @ (inverse[:, None] * (ug - (ug @ v) @ vh))
        return _first_order_only(out, m, "polar_factor"), None


def _reciprocal_above(floor: Tensor, v: Tensor) -> Tensor:
    """``1 / v``, and 0 where ``|v|`` is no more than ``floor``."""
    some = v.abs() > floor
    return torch.where(some, 1 / torch.where(some, v, 1), 0)


def differentiable_once(value: Tensor, name: str) -> Tensor:
    """The value itself, which refuses a second derivative: part of it is constant to autograd."""
    out: Tensor = _Once.apply(value, name)  # type: ignore[no-untyped-call]
    return out


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, name: str) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, ctx.name = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _first_order_only(grad, ctx.saved_tensors[0], ctx.name), None


def _first_order_only(grad: Tensor, source: Tensor, name: str) -> Tensor:
    """A gradient that refuses to be differentiated by ``source``: part of it is a constant."""
    if not torch.is_grad_enabled():  # in a backward, only if its graph is to be kept
        return grad
    out: Tensor = _Gradient.apply(grad, source, name)  # type: ignore[no-untyped-call]
    return out


class _Gradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, source: Tensor, name: str) -> Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        raise RuntimeError(
            f"{ctx.name} has no second derivative. Leave it out of what is differentiated twice, "
            "such as a gradient penalty."
        )


def _complete(u: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Choose the singular vectors beyond ``rank`` by a rule, the least important one last.

    The free part of the factor is the one nearest to a reference: the polar factor of what is left
    of the reference between the complements of both spans.
    """
    if u.shape[0] < vh.shape[1]:
        v, uh = _complete(vh.mT, u.mT, rank)
        return uh.mT, v.mT
    columns = vh.shape[1]
    if rank == columns:
        return u, vh
    left, right, free = u[:, :rank], vh[:rank].mT, vh[rank:].mT
    for reference in _references(u, columns):
        wanted = reference @ free
        for _ in range(2):  # once leaves rounding of the size of what was taken away
            wanted = wanted - left @ (left.mT @ wanted)
        a, size, bh = torch.linalg.svd(wanted, full_matrices=False)
        # Not `rank_tolerance`: these are lengths of at most 1, and below the root of the rounding
        # their directions are not to be trusted.
        decided = int((size > torch.finfo(u.dtype).eps ** 0.5).sum())
        turned = free @ bh.mT
        left = torch.cat((left, a[:, :decided]), 1)
        right = torch.cat((right, turned[:, :decided]), 1)
        free = turned[:, decided:]
    return (u, vh) if free.shape[1] else (left, right.mT)


def _references(like: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """What the free part of a factor is to be near to, ``(rows, columns)``, in this order.

    The identity, where the first features weigh a trace more, so that directions rank when one has
    to be turned over; and for directions it says nothing about, a matrix without any structure.
    """
    i = torch.arange(1, like.shape[0] + 1, dtype=like.dtype, device=like.device)
    weights = 1 - 1e-3 * i / len(i)
    return weights.diag()[:, :columns], torch.sin(torch.outer(i, i[:columns]))
