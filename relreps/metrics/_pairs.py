"""What every measure of two spaces does first: paired rows, checked, in one floating-point type."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from relreps import _checks
from relreps._linalg import as_float64
from relreps._warnings import NumericalWarning

#: Sizes of entries whose squares and fourth powers are safe in float32.
_SAFE = 2.0**24


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

    def ratio(self, product: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
        """Product of two sides over the root of the products of each with itself."""
        squares = xx * yy
        positive = squares > 0
        if _checks.eager() and not squares.is_meta and bool(self.defined) and not bool(positive):
            undefined("the product of a side with itself is zero", stacklevel=4)
        value = product / torch.where(positive, squares, 1).sqrt()
        return self.result(torch.where(positive, value, math.nan))


def paired_rows(
    x: Tensor, y: Tensor, minimum: int = 2, what: str = "a comparison", streamed: bool = False
) -> Pair:
    """Check two sets of rows and bring them to one type; warn if a side is constant.

    A side whose entries are too large or too small to be squared is rescaled: only measures that
    do not depend on the scale of a side may come here.

    Args:
        x: First encoding ``(N, D)``.
        y: Second encoding ``(N, E)``.
        minimum: Fewest rows.
        what: What needs so many, for the error.
        streamed: The rows are a part of many: one scale for all, and a part may be constant.
    """
    for name, side in (("x", x), ("y", y)):
        _checks.check_rows(name, side, minimum=0)
        if side.shape[1] == 0:
            raise ValueError(f"`{name}` must have at least one feature, got {tuple(side.shape)}.")
    _checks.check_paired(x, y)
    if x.shape[0] < minimum:
        raise ValueError(
            f"`x` and `y` must have at least {minimum} rows for {what}, got {x.shape[0]}."
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    sides, defined = [], []
    for name, side in (("x", x.to(dtype)), ("y", y.to(dtype))):
        low, high = side.detach().amin(0), side.detach().amax(0)
        size = torch.maximum(low.abs(), high.abs())
        # A column of equal numbers comes out of a network with the noise of rounding on it.
        defined.append((high - low > 4 * torch.finfo(dtype).eps * size).any())
        if _checks.eager() and not side.is_meta:
            if not bool(size.isfinite().all()):
                _checks.check_finite(name, side)
            if not streamed:
                if not bool(defined[-1]):
                    undefined(f"all rows of `{name}` are the same", stacklevel=4)
                largest = float(size.max())
                if largest > 0 and not 1 / _SAFE < largest < _SAFE:
                    side = side / largest
        sides.append(side)
    return Pair(sides[0], sides[1], defined[0] & defined[1])


def undefined(why: str, stacklevel: int = 3) -> None:
    """Warn that the result is NaN."""
    warnings.warn(
        f"The measure is not defined, so it is NaN: {why}.",
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
