"""Exact cosine search in chunks, which retrieval and neighbour measures share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import as_float64, full_precision, unit_rows
from relreps._core.rounding import is_constant, rounding_of, unit_of
from relreps._core.warnings import warn

#: Rows compared with all keys at once.
CHUNK = 1024

#: Squared length of the mean unit row from which on it costs digits: four bits of a difference.
_LARGE_MEAN = 1 - 1 / 16


class Space(NamedTuple):
    """Rows of one space, ready to search and to be searched.

    Attributes:
        name: Of the argument.
        rows: Rows of length one, in float32 at least.
        keys: The same rows, or the same without ``mean``, which keeps the order of the keys of any
            query and digits that a large common part would cost.
        mean: What the keys are short of, ``(D,)``.
        collapsed: Whether all rows point the same way, up to rounding.
        given: The rows as they came.
    """

    name: str
    rows: Tensor
    keys: Tensor
    mean: Tensor | None
    collapsed: bool
    given: Tensor

    def exact_rows(self, rows: Tensor) -> Tensor:
        """Some of the rows, of length one, in float64."""
        return unit_rows(as_float64(self.given[rows]))

    def has_collapsed(self) -> bool:
        """Whether it has, so that none of its rows is nearer than another; warns if so."""
        if self.collapsed:
            warn(
                f"`{self.name}` is constant: its {len(self.rows)} rows all point the same way, so "
                "none is nearer than another and the measure is NaN. Look for a collapsed encoder."
            )
        return self.collapsed

    def nan(self) -> Tensor:
        """The value of what is not defined."""
        return self.rows.new_full((), math.nan)


def searched_spaces(x: Tensor, y: Tensor, minimum: int = 1) -> tuple[Space, Space]:
    """Paired, finite rows, at least ``minimum`` of them."""
    checks.check_rows("x", x, minimum=minimum)
    checks.check_rows("y", y, minimum=minimum)
    checks.check_paired(x, y)
    checks.check_readable("x", x)
    checks.check_finite("x", x)
    checks.check_finite("y", y)
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return _space("x", x.detach(), dtype), _space("y", y.detach(), dtype)


def _space(name: str, x: Tensor, dtype: torch.dtype) -> Space:
    rows = unit_rows(x.to(dtype))
    mean = rows.mean(0)
    if float(mean.square().sum()) < _LARGE_MEAN:
        # Rows that point one way have a mean of length one, unless they are all zero.
        return Space(name, rows, rows, None, not bool(rows.any()), x)
    # The rounding of unit rows is that of their common part: it must not come in at all.
    wide = unit_rows(as_float64(x))
    mean = wide.mean(0)
    keys = wide - mean
    keys = keys - keys.mean(0)
    collapsed = is_constant(keys.square().sum(), wide.square().sum(), rounding_of(x.dtype))
    return Space(name, rows, keys.to(rows), mean.to(rows), bool(collapsed), x)


def chunks(n: int, chunk_size: int) -> Iterator[slice]:
    """Slices that cover ``range(n)``."""
    chunk_size = checks.check_size("chunk_size", chunk_size)
    return (slice(start, min(start + chunk_size, n)) for start in range(0, n, chunk_size))


class Search:
    r"""Scores of unit rows with all keys: their cosines, up to a constant a row, in a `unit`.

    The unit is what rounding may part cosines by that are equal, so that scores which differ by no
    more than 1 tie. A product rounds equal columns differently, depending on where they stand, so
    each distinct key is multiplied once, and copies of a key have one score. Each call writes into
    the memory of the one before: fetching it anew costs a fifth of the product.

    Args:
        space: What is searched.
        chunk_size: Most rows in a call.

    Attributes:
        unit: A power of two, two roundings of a product with the longest key.
    """

    def __init__(self, space: Space, chunk_size: int) -> None:
        keys, self._mean = space.keys, space.mean
        self._space = space
        self._exact: Search | None = self if keys.dtype == torch.float64 else None
        # Both factors are rounded by half of eps, relative to the length of the key, and so is what
        # is added up: of two products that are equal, each may be off by one eps.
        longest = keys.square().sum(-1).amax().sqrt()
        self.unit = unit_of(longest) * (2 * torch.finfo(keys.dtype).eps)
        distinct, index = keys.unique(dim=0, return_inverse=True)
        repeated = len(distinct) < len(keys)
        self._keys: Tensor = (distinct if repeated else keys) / self.unit
        self._index: Tensor | None = index if repeated else None
        size = min(chunk_size, len(keys))
        self._products = keys.new_empty(size, len(self._keys))
        self._spread = keys.new_empty(size, len(keys)) if repeated else self._products

    def __call__(self, rows: Tensor) -> Tensor:
        """Scores ``(rows, N)``, the caller's to change until the next call."""
        with full_precision(rows):
            out = torch.mm(rows, self._keys.mT, out=self._products[: len(rows)])
        if self._index is None:
            return out
        return torch.index_select(out, 1, self._index, out=self._spread[: len(rows)])

    @property
    def exact(self) -> Search:
        """The same in float64, for rows whose keys tie here: what is left then are real ties."""
        if self._exact is None:
            given = self._space.given
            step = blocks.rows_of_table(len(given), torch.float64, given.device)
            self._exact = Search(_space(self._space.name, given, torch.float64), step)
        return self._exact

    def others(self, rows: Tensor, own: Tensor) -> Tensor:
        """Scores of rows whose own keys, at these columns, count as none: minus infinity."""
        return self(rows).scatter_(1, own[:, None], -math.inf)

    def cosines(self, scores: Tensor, rows: Tensor) -> Tensor:
        """The cosines that these scores of rows stand for."""
        cosines = scores * self.unit
        if self._mean is None:
            return cosines
        with full_precision(rows):
            return cosines + (rows @ self._mean)[:, None]


class Nearest(NamedTuple):
    """The ``k`` keys nearest to some rows.

    Attributes:
        columns: Which they are, ``(rows, k)``, in no order; any of those that tie for a place.
        scores: Their scores.
        tied: Whether some that are left out tie with the last one, ``(rows,)``.
    """

    columns: Tensor
    scores: Tensor
    tied: Tensor


def nearest(scores: Tensor, k: int) -> Nearest:
    """The ``k`` largest entries of each row of the scores of a `Search`."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    if k == scores.shape[1]:
        return Nearest(columns, values, torch.zeros_like(columns[:, 0], dtype=torch.bool))
    tied = values[:, k - 1] - values[:, k] <= 1
    return Nearest(columns[:, :k], values[:, :k], tied)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """How many indices two lists ``(N, k)`` without repetition share, row by row."""
    both = torch.cat((a, b), 1).sort(-1).values
    return (both[:, 1:] == both[:, :-1]).sum(-1)
