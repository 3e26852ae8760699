"""What every measure of two spaces does first: paired rows, checked, in one floating-point type."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import _first_order_only, as_float64
from relreps._core.rounding import safe_reciprocal
from relreps._core.warnings import NumericalWarning

#: Sizes of entries whose squares and fourth powers are safe in float32.
_SAFE = 2.0**24

#: Roundings by which numbers may differ that are meant to be equal.
_ROUNDINGS = 16


class Pair(NamedTuple):
    """Two encodings of the same items.

    Attributes:
        x: First encoding, at least float32.
        y: Second encoding, of the same type.
        defined: Scalar; false if all rows of a side are the same, and no measure means anything.
    """

    x: Tensor
    y: Tensor
    defined: Tensor

    def result(self, value: Tensor) -> Tensor:
        """The value in the type of the rows; NaN where it is not defined."""
        return torch.where(self.defined.to(value.device), value, math.nan).to(self.x)

    def ratio(self, sums: list[Tensor], why: str = "its similarities are all equal") -> Tensor:
        """`cosine` of two sides; ``why`` one may have none goes into the warning."""
        visible = checks.eager() and not self.x.is_meta and bool(self.defined)
        return self.result(cosine(sums, why if visible else None, stacklevel=5))


def cosine(sums: list[Tensor], why: str | None, stacklevel: int = 4) -> Tensor:
    """Product of two sides over the root of the products of each with itself.

    Args:
        sums: The product, those of ``x`` and of ``y`` with themselves, and how large rounding alone
            may make these two: what is not larger is none, and the cosine NaN.
        why: What to say of such a side; None to say nothing.
        stacklevel: Of the warning, 4 for the caller of the function that calls this one.
    """
    product, xx, yy, noise_x, noise_y = sums
    live = xx > noise_x, yy > noise_y
    if why is not None:
        for name, alive in zip("xy", live, strict=True):
            if not bool(alive):
                undefined(f"of `{name}`, {why}, up to rounding", stacklevel)
    # A root of each, as their product may overflow.
    lengths = [torch.where(a, s, 1).sqrt() for a, s in zip(live, (xx, yy), strict=True)]
    return torch.where(live[0] & live[1], product / lengths[0] / lengths[1], math.nan)


def paired_rows(
    x: Tensor,
    y: Tensor,
    minimum: int = 2,
    what: str = "a comparison",
    *,
    rescaled: bool = True,
    streamed: bool = False,
) -> Pair:
    """Check two sets of rows and bring them to one type; warn if a side is constant.

    Args:
        x: First encoding ``(N, D)``.
        y: Second encoding ``(N, E)``.
        minimum: Fewest rows.
        what: What needs so many, for the error.
        rescaled: Divide a side whose entries are too large or too small to be squared. Not for
            measures of single rows, of which some may be far larger than others.
        streamed: The rows are a part of many, and a part may be constant.
    """
    for name, side in (("x", x), ("y", y)):
        checks.check_rows(name, side, minimum=0)
        if side.shape[1] == 0:
            raise ValueError(f"`{name}` must have at least one feature, got {tuple(side.shape)}.")
    checks.check_paired(x, y)
    check_devices(x, y)
    if x.shape[0] < minimum:
        raise ValueError(
            f"`x` and `y` must have at least {minimum} rows for {what}, got {x.shape[0]}."
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    sides, defined = [], []
    for name, given in (("x", x), ("y", y)):
        side = given.to(dtype)
        low, high = side.detach().amin(0), side.detach().amax(0)
        defined.append(_differ(low, high, rounding(given)).any())
        largest = torch.maximum(-low, high).max()
        seen = checks.eager() and not side.is_meta
        if seen and not bool(largest.isfinite()):
            checks.check_finite(name, side)
        if seen and not streamed and not bool(defined[-1]):
            undefined(f"all rows of `{name}` are the same", stacklevel=4)
        safe = (largest == 0) | ((largest > 1 / _SAFE) & (largest < _SAFE))
        if rescaled and not (seen and bool(safe)):
            side = side / torch.where(safe, 1, power_of_two(largest))
        sides.append(side)
    return Pair(sides[0], sides[1], defined[0] & defined[1])


def check_devices(x: Tensor, y: Tensor) -> None:
    """Refuse sides on different devices."""
    if x.device != y.device:
        raise ValueError(
            f"`x` and `y` must be on one device, got {x.device} and {y.device}. Move one by `.to`."
        )


def rounding(x: Tensor) -> float:
    """Relative rounding of numbers of the type of ``x``, or of float32 for half types.

    The features of a half type lie on a coarse grid, but those that differ differ.
    """
    return torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps


def varying(x: Tensor, size: float | None = None) -> Tensor:
    """Which features do more than round, ``(N, D) -> (D,)``: the one rule for what is constant.

    A column of equal numbers comes out of a network with the noise of rounding on it.

    Args:
        x: Rows.
        size: What they were rounded to; by default the largest entry of each feature.
    """
    x = x.detach()
    return _differ(x.amin(0), x.amax(0), rounding(x), size)


def _differ(low: Tensor, high: Tensor, eps: float, size: float | None = None) -> Tensor:
    largest = torch.maximum(-low, high) if size is None else size
    return high - low > 4 * eps * largest


def noise(squares: Tensor, eps: float, exact: bool = True) -> Tensor:
    """How large a centred sum of squares may come out of equal numbers.

    Args:
        squares: The sum of their squares before they were centred.
        eps: Relative rounding of the numbers.
        exact: They were centred with care, as numbers of float64, so that what is left is the
            square of their rounding; else it is of the order of the rounding itself.
    """
    small = _ROUNDINGS * torch.finfo(torch.float64).eps + (_ROUNDINGS * eps) ** 2
    return squares.detach() * (small if exact else _ROUNDINGS * eps)


def power_of_two(size: Tensor) -> Tensor:
    """The power of two next to a size from below, 1 for 0: dividing by it rounds nothing."""
    return torch.exp2(torch.where(size > 0, size, 1).log2().floor())


def undefined(why: str, stacklevel: int = 3) -> None:
    """Warn that the result is NaN."""
    warnings.warn(
        f"The measure is not defined, so it is NaN: {why}.",
        NumericalWarning,
        stacklevel=stacklevel,
    )


def warn_of_few_rows(n: int, rank_x: Tensor, rank_y: Tensor, stacklevel: int = 4) -> None:
    """Warn if so many directions in so few rows have canonical correlations of 1 by counting."""
    if not checks.eager() or rank_x.is_meta:
        return
    a, b = int(rank_x), int(rank_y)
    surplus = a + b - (n - 1)
    if surplus > 0:
        warnings.warn(
            f"There are {n} rows for {a} and {b} directions: {min(surplus, a, b)} canonical "
            "correlations are 1 whatever the data. Give more rows, or keep fewer directions.",
            NumericalWarning,
            stacklevel=stacklevel,
        )


def centred(x: Tensor) -> Tensor:
    """Rows without their mean; the second pass takes what rounding left of a large one."""
    x = x - x.mean(0)
    return x - x.mean(0)


def centred64(x: Tensor) -> Tensor:
    """Rows without their mean, in float64."""
    x = as_float64(x)
    return x - x.mean(0)


def unit_scales(x: Tensor, rows: Tensor) -> Tensor:
    """What makes every feature of the centred ``rows`` of ``x`` one of length one; 0 if constant.

    Rank is a matter of directions: with these it does not depend on the units of the features.
    """
    length = torch.linalg.vector_norm(rows.detach(), dim=0)
    return safe_reciprocal(torch.where(varying(x), length, 0))


def differentiable_once(value: Tensor, name: str) -> Tensor:
    """The value itself, which refuses a second derivative: part of it is constant to autograd."""
    out: Tensor = _Once.apply(value, name)  # type: ignore[no-untyped-call]
    return out


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, name: str) -> Tensor:
        ctx.name = name
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        _first_order_only(ctx.name)
        return grad, None
