"""The smallest eigenvalues of a graph Laplacian: their sum minus the next one, with gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relreps._core import checks

#: Matrices of at least so many rows go by the partial solver where that may be chosen.
_PARTIAL_SIZE = 512
#: Directions carried along beyond those wanted, and the degree of a filter.
_SPARE, _DEGREE = 8, 32
#: Residual below which a vector of the partial solver is done. A value is off by no more than that.
_RESIDUAL = 1e-9


def gap_of_all(m: Tensor, count: int | Tensor) -> Tensor:
    """Sum of the ``count`` smallest eigenvalues of each matrix, minus the next; by all of them.

    Shape:
        - m: :math:`(*, n, n)`, symmetric. Output: :math:`(*)`.
    """
    if checks.eager() and (m.requires_grad or not checks.plain()):
        found: Tensor = _GapOfAll.apply(m, count)[0]  # type: ignore[no-untyped-call]
        return found
    total: Tensor = (torch.linalg.eigvalsh(m) * _signs(m.shape[-1], count, m)).sum(-1)
    return total


def gap_of_smallest(m: Tensor, count: int) -> Tensor:
    """The same for sparse matrices with eigenvalues in [0, 2], by those that count; on the host.

    Of the first order only: there is no second derivative.
    """
    total: Tensor = _GapOfSmallest.apply(m, count)  # type: ignore[no-untyped-call]
    return total


def smallest_pays(n: int, count: int) -> bool:
    """Whether finding only what is wanted is faster on a sparse matrix."""
    return n >= _PARTIAL_SIZE and 4 * (count + 1 + _SPARE) <= n


class _GapOfAll(torch.autograd.Function):
    """The sum of s_i times eigenvalue i, with s from `_signs`, and its slope V diag(s) V^T.

    Torch's own second derivative is infinite where any two eigenvalues are equal, as all zeros of a
    graph in several parts are. That of the sum is finite where s does not differ between them.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(m: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(m)
        signs = _signs(m.shape[-1], count, m)
        return (values * signs).sum(-1), (vectors * signs) @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        m, ctx.count = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(m, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        m, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            slope = _SlopeOfGap.apply(m, ctx.count)[0]  # type: ignore[no-untyped-call]
        return grad[..., None, None] * slope, None


class _SlopeOfGap(torch.autograd.Function):
    """V diag(s) V^T of a symmetric matrix V diag(t) V^T."""

    generate_vmap_rule = True

    @staticmethod
    def forward(m: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(m)
        return (vectors * _signs(m.shape[-1], count, m)) @ vectors.mT, values, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        m, count = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], _signs(m.shape[-1], count, m))

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        # Daleckii and Krein: in the basis V the slope moves by (s_i - s_j) / (t_i - t_j) times the
        # entry (i, j) of what the matrix moves by; where s does not differ, not at all.
        values, vectors, signs = ctx.saved_tensors
        rise = signs[..., :, None] - signs[..., None, :]
        run = values[..., :, None] - values[..., None, :]
        ratio = torch.where(rise == 0, 0, rise / torch.where(rise == 0, 1, run))
        inner = vectors.mT @ ((grad + grad.mT) / 2) @ vectors
        return vectors @ (ratio * inner) @ vectors.mT, None


class _GapOfSmallest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, count: int) -> Tensor:
        n = m.shape[-1]
        pairs = [smallest_eigenpairs(one, count + 1) for one in m.detach().reshape(-1, n, n)]
        values = torch.stack([v for v, _ in pairs]).view(*m.shape[:-2], count + 1)
        vectors = torch.stack([u for _, u in pairs]).view(*m.shape[:-1], count + 1)
        signs = _signs(count + 1, count, m)
        ctx.save_for_backward(vectors.to(m.dtype), signs)
        total: Tensor = (values.to(m.dtype) * signs).sum(-1)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # With m v = t v and |v| = 1: dm v + m dv = dt v + t dv, and v dv = 0, so dt = v^T dm v, and
        # the sum of s t over the eigenvalues moves by the trace of dm with V diag(s) V^T.
        vectors, signs = ctx.saved_tensors
        return grad[..., None, None] * ((vectors * signs) @ vectors.mT), None


def smallest_eigenpairs(m: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The smallest eigenvalues in [0, 2] and their vectors, by Chebyshev-filtered subspaces.

    A block of directions finds repeated eigenvalues, which Lanczos' method with one start vector
    misses: there are as many zeros as components. Where it does not settle, all are computed.
    Everything is in float64, on the host.
    """
    import numpy as np
    from scipy.sparse import csr_array

    n = m.shape[-1]
    matrix = m.double()
    width = count + max(_SPARE, count // 4)
    if width < n:
        sparse = csr_array(matrix.numpy())
        block = np.random.default_rng(0).standard_normal((n, width))
        for _ in range(20):
            # Rayleigh and Ritz: the best eigenvectors in the span of an orthonormal block Q are
            # Q times those of Q^T m Q.
            block = np.linalg.qr(block)[0]
            image = sparse @ block
            values, turn = np.linalg.eigh(block.T @ image)
            block, image = block @ turn, image @ turn
            rest = (image - block * values)[:, :count]
            if np.linalg.norm(rest, axis=0).max() < _RESIDUAL:
                found = values[:count].copy(), block[:, :count].copy()
                return torch.from_numpy(found[0]), torch.from_numpy(found[1])
            # The filter is T_d((m - middle) / half) with Chebyshev's polynomial of degree d, which
            # is within 1 on [-1, 1], that is on [cut, 2], where nothing is wanted, and outside of
            # it grows as cosh(d arccosh|t|). By T_{d+1}(t) = 2 t T_d(t) - T_{d-1}(t).
            cut = min(values[-1], 1.9)
            middle, half = 1 + cut / 2, 1 - cut / 2
            before, block = block, (image - middle * block) / half
            for _ in range(_DEGREE - 1):
                before, block = block, (sparse @ block - middle * block) * (2 / half) - before
    every, vectors = torch.linalg.eigh(matrix)
    return every[:count], vectors[:, :count]


def _signs(n: int, count: int | Tensor, like: Tensor) -> Tensor:
    """1 for the eigenvalues that are added, -1 for the one subtracted, 0 for the others."""
    index = torch.arange(n, device=like.device)
    return (index < count).to(like.dtype) - (index == count).to(like.dtype)
