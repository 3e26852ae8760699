"""Kernels: how alike are the rows of one space to each other?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from relreps._core import checks
from relreps.metrics.paired import centered

#: A name, or a function of rows and rows, ``(N, D), (M, D) -> (N, M)``.
KernelLike = str | Callable[[Tensor, Tensor], Tensor]

#: Why a side may have no HSIC with itself, by kernel; with a plain function nothing is known.
_NO_KERNEL = "at least half of the distances are zero, or all similarities are equal"
ALL_EQUAL = "its similarities are all equal, or one row outweighs all others"


@dataclass(frozen=True)
class Kernel:
    """A kernel, resolved once.

    Attributes:
        gram: From rows ``(N, D)`` to their similarities ``(N, N)``.
        degree: Which power of the size of the rows similarities grow with, None if nothing is known
            of that: rows may be brought to another unit only if it is.
        linear: Whether it is that of products, which need no Gram matrix.
        why: Why a side may have no HSIC with itself, for the warning.
    """

    gram: Callable[[Tensor], Tensor]
    degree: int | None
    linear: bool = False
    why: str = ALL_EQUAL


def resolve_kernel(kernel: KernelLike, bandwidth: float = 1.0) -> Kernel:
    """The kernel of this name, or that of a function.

    Args:
        kernel: ``"rbf"``, ``"linear"``, or a function ``(N, D), (M, D) -> (N, M)``.
        bandwidth: Width of ``"rbf"``, as a multiple of the median distance.
    """
    checks.check_positive("bandwidth", bandwidth)
    if callable(kernel):
        return Kernel(partial(_given, kernel), None)
    checks.check_choice("kernel", kernel, ("rbf", "linear"))
    if kernel == "linear":
        return Kernel(linear_gram, 2, linear=True)
    return Kernel(partial(rbf_gram, bandwidth=bandwidth), 0, why=_NO_KERNEL)


def linear_gram(x: Tensor) -> Tensor:
    """Products of centred rows."""
    x = centered(x)
    return x @ x.mT


def rbf_gram(x: Tensor, bandwidth: float) -> Tensor:
    """Gaussian of the distances, by their median; 1 everywhere if that is zero."""
    n = x.shape[0]
    # About a median, which single rows far away do not move: what is near keeps its digits.
    x = x - x.detach().sort(0).values[(n - 1) // 2]
    squares = x.square().sum(-1)
    sizes = squares[:, None] + squares
    distances = sizes - 2 * x @ x.mT
    # What rounding leaves of a distance of zero does not count as one.
    apart = distances.detach() > sizes.detach() * (8 * torch.finfo(x.dtype).eps)
    distances = torch.where(apart, distances, 0)
    # Without its first entry and in rows of n + 1, the matrix has its diagonal in the last column.
    others = distances.detach().flatten()[1:].view(n - 1, n + 1)[:, :-1]
    median = others.median()
    scale = torch.where(median > 0, median, 1) * (2 * bandwidth**2)
    return torch.where(median > 0, torch.exp(-distances / scale), 1)


def _given(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """What a function of the user gives, if it can be used."""
    gram = kernel(x, x)
    shape = tuple(getattr(gram, "shape", ()))
    if not isinstance(gram, Tensor) or shape != (len(x), len(x)):
        raise ValueError(
            f"`kernel` must give a tensor ({len(x)}, {len(x)}) for {len(x)} rows, got a "
            f"{type(gram).__name__} of shape {shape}. It is called with the rows twice: "
            "`lambda a, b: a @ b.T`."
        )
    return gram
