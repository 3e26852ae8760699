r"""What counts as zero: the one place that says so.

Numbers of a type carry a relative rounding :math:`\epsilon` (`rounding_of`). From it follow

* which singular values of rows are rounding (`rank_tolerance`), and which eigenvalues of their
  second moments (`moment_tolerance`);
* whether numbers that should be equal differ by more (`is_constant`);
* a unit to measure in, in which nothing over- or underflows (`unit_of`);
* roots, powers and reciprocals whose value and gradient at zero is zero (`safe_sqrt`, `safe_norm`,
  `safe_power`, `safe_reciprocal`), and a divisor that is never zero (`safe_divisor`).

A place that decides otherwise says why, beside the decision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Roundings by which numbers may differ, on average, that are meant to be equal: a column of equal
#: numbers comes out of a network with one or two on it.
_EQUAL = 2.0

#: Most that rounding moves a singular value, in units of its average effect: a margin for sums that
#: are taken in a bad order.
_MARGIN = 10.0


def rounding_of(*dtypes: torch.dtype) -> float:
    """Relative rounding of numbers of which some are of the coarsest of these types.

    Half types count as float32, in which everything about them is computed: their entries lie on a
    coarse grid, but those that differ differ.
    """
    return max(torch.finfo(torch.promote_types(d, torch.float32)).eps for d in dtypes)


def rank_tolerance(size: int, eps: float) -> float:
    r"""Share of the largest singular value of N rows below which one is rounding.

    Rounding adds to a matrix :math:`A` of N rows and D columns an independent error of
    about :math:`\epsilon a` to each entry, a the root mean square of the entries. Such an error
    has a largest singular value of :math:`\epsilon a (\sqrt N + \sqrt D)`. That of :math:`A` is at
    least :math:`a \sqrt{\max(N, D)}`, as the squares of the :math:`\min(N, D)` of them add up to
    :math:`a^2 N D`. So the share is at most :math:`2 \epsilon`, however many rows there are; the
    decomposition itself adds :math:`\epsilon \sqrt D`, and a margin is left.

    Args:
        size: Number of features D, not of rows.
        eps: Rounding of the entries.
    """
    return float(_MARGIN * size**0.5 * eps)


def moment_tolerance(size: int, eps: float) -> float:
    """Share of the largest eigenvalue of second moments ``(D, D)`` below which one is rounding.

    Eigenvalues are squares of the singular values of the rows; the moments themselves are float64.

    Args:
        size: Number of features D.
        eps: Rounding of the rows.
    """
    return max(rank_tolerance(size, eps) ** 2, size * torch.finfo(torch.float64).eps)


def is_constant(centered: Tensor, squares: Tensor, eps: float) -> Tensor:
    r"""Whether rows, or features, are all equal up to rounding.

    .. math:: \sum_i (x_i - \mu)^2 \le (2 \epsilon)^2 \sum_i x_i^2

    has no unit, so it does not depend on scale; and it follows from sums, so it holds for a stream.

    Args:
        centered: Sum of squares about the mean, or its mean.
        squares: Sum of squares about zero, or its mean.
        eps: Rounding of the numbers.
    """
    return centered <= (_EQUAL * eps) ** 2 * squares


def unit_of(size: Tensor) -> Tensor:
    """The power of two next to a size from below, 1 for 0: dividing by it rounds nothing."""
    largest = math.frexp(torch.finfo(size.dtype).max)[1] - 1  # a logarithm may round up, past it
    return torch.exp2(torch.where(size <= 0, 1, size).log2().floor().clamp(max=largest))


def safe_divisor(v: Tensor) -> Tensor:
    """``v`` where ``v > 0``, else 1, with gradient 0 there; NaN stays NaN."""
    return torch.where(v <= 0, 1, v)


# Both branches of the outer `where` must be finite, or the unused one leaks NaN into gradients.
# Asked is whether v is *not* positive: NaN answers every question by no, and is to come out again.


def safe_reciprocal(v: Tensor) -> Tensor:
    """``1 / v`` where ``v > 0``, else 0, with gradient 0 there; NaN stays NaN."""
    none = v <= 0
    return torch.where(none, 0, 1 / torch.where(none, 1, v))  # on every hot path, so in one call


def safe_power(v: Tensor, p: float) -> Tensor:
    """``v ** p`` where ``v > 0``, else 0, with gradient 0 there; NaN stays NaN."""
    return torch.where(v <= 0, 0, safe_divisor(v) ** p)


def safe_sqrt(v: Tensor) -> Tensor:
    """Root where ``v > 0``, else 0, with gradient 0 there; NaN stays NaN."""
    return torch.where(v <= 0, 0, safe_divisor(v).sqrt())


def safe_norm(v: Tensor) -> Tensor:
    """Length of each vector ``(..., D)``, with gradient 0 where it is 0."""
    return safe_sqrt(v.square().sum(-1))
