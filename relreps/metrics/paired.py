"""Two encodings of the same items: what every measure starts from."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64
from relreps._core.rounding import is_constant, rounding_of, unit_of
from relreps._core.warnings import warn

#: Sizes of entries whose squares and fourth powers are safe in float32.
_SAFE = 2.0**24


class Pair(NamedTuple):
    """Two encodings of the same items, checked and of one type.

    Attributes:
        x: First encoding, at least float32.
        y: Second encoding, of the same type.
        eps: Relative rounding of either, as they were given.
        defined: Scalar; false if all rows of a side are the same, and no measure means anything.
        speaks: Whether more may be said of the values: they can be looked at, and are defined.
    """

    x: Tensor
    y: Tensor
    eps: tuple[float, float]
    defined: Tensor
    speaks: bool

    def result(self, value: Tensor) -> Tensor:
        """The value in the type of the rows; NaN where it is not defined."""
        return torch.where(self.defined.to(value.device), value, math.nan).to(self.x)


def paired_rows(
    x: Tensor,
    y: Tensor,
    minimum: int = 2,
    what: str = "a comparison",
    *,
    rescaled: bool = True,
    part: bool = False,
) -> Pair:
    """Check two sets of rows and bring them to one type; warn if a side is constant.

    Args:
        x: First encoding ``(N, D)``.
        y: Second encoding ``(N, E)``.
        minimum: Fewest rows.
        what: What needs so many, for the error.
        rescaled: Divide a side whose entries are too large or too small to be squared. Not for
            measures of single rows, of which some may be far larger than others, nor for functions
            of the user, who has units in mind.
        part: The rows are a part of many, and a part may be constant.
    """
    for name, side in (("x", x), ("y", y)):
        checks.check_rows(name, side, minimum=0)
        if side.shape[1] == 0:
            raise ValueError(f"`{name}` must have at least one feature, got {tuple(side.shape)}.")
    checks.check_paired(x, y)
    if x.shape[0] < minimum:
        raise ValueError(
            f"`x` and `y` must have at least {minimum} rows for {what}, got {x.shape[0]}."
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    eps = rounding_of(x.dtype), rounding_of(y.dtype)
    seen = checks.readable(x, y) and not x.is_meta
    sides, defined = [], []
    for name, given, rounding in (("x", x, eps[0]), ("y", y, eps[1])):
        side = given.to(dtype)
        low, high = side.detach().amin(0), side.detach().amax(0)
        sizes = torch.maximum(-low, high)
        largest = sizes.max()
        if seen and not bool(largest.isfinite()):
            checks.check_finite(name, side)
        # A sum of squares about the mean is at least half the square of the range, so where the
        # range is large, which is the rule, `varies` would say the same and cost more.
        wide = (high - low > (8 * len(x)) ** 0.5 * rounding * sizes).any()
        defined.append(wide if seen and bool(wide) else varies(side, rounding))
        if seen and not part and not bool(defined[-1]):
            undefined(f"all rows of `{name}` are the same")
        safe = (largest == 0) | ((largest > 1 / _SAFE) & (largest < _SAFE))
        if rescaled and not (seen and bool(safe)):
            side = side / torch.where(safe, 1, unit_of(largest))
        sides.append(side)
    both = defined[0] & defined[1]
    return Pair(sides[0], sides[1], eps, both, seen and bool(both))


def varies(x: Tensor, eps: float) -> Tensor:
    """Whether some feature of ``(N, D)`` does more than round by ``eps``; see `is_constant`.

    A column of equal numbers comes out of a network with the noise of rounding on it.
    """
    rows = as_float64(x.detach())
    rows = rows / unit_of(rows.abs().amax(0))  # whose squares are numbers
    return ~is_constant(centered(rows).square().sum(0), rows.square().sum(0), eps).all()


def centered(x: Tensor) -> Tensor:
    """Rows without their mean; the second pass takes what rounding left of a large one."""
    x = x - x.mean(0)
    return x - x.mean(0)


def undefined(why: str) -> None:
    """Warn that the result is NaN."""
    warn(f"The measure is not defined, so it is NaN: {why}.")
