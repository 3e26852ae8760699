"""How many vectors find their own row among all that are searched, a block of these at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.blocks import rows_at_once, rows_of_table
from relreps._core.linalg import as_float64, unit_rows
from relreps._core.rounding import rounding_of, unit_of

Metric = Literal["cosine", "inner", "euclidean"]

#: Neighbours that are looked at.
NEAREST = 10
#: Roundings by which two scores may differ that are meant to be equal.
_TIED = 4.0
#: Standard deviations on either side that hold 95 % of a normal distribution.
_CONFIDENT = 1.959963984540054
#: Odd numbers that spread the bits of what they multiply over all of 64.
_MIX, _STEP = 0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64)
_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class OwnRows(NamedTuple):
    """How many vectors find their own row; ``str`` says it in words."""

    at_1: float
    """Part of the queries that find their own row, or a copy of it, before any other one."""
    at_10: float
    """Part of them that find it among the ten nearest."""
    queries: int
    """Vectors that search."""
    searched: int
    """Rows that each of them searches."""
    copies: int
    """Rows among these that equal an earlier one."""

    def chance(self, k: int) -> float:
        """Part of the queries that would find it among ``k`` rows drawn at random."""
        return min(k / self.searched, 1.0)

    def interval(self, k: int) -> tuple[float, float]:
        """Binomial 95 % interval of ``at_1`` or ``at_10`` for other queries of this kind; Wilson's.

        Args:
            k: 1 or 10.
        """
        checks.check_choice("k", k, (1, NEAREST))
        part, n, z = self.at_1 if k == 1 else self.at_10, self.queries, _CONFIDENT
        middle = (part + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (part * (1 - part) / n + (z / (2 * n)) ** 2) ** 0.5
        return max(middle - half, 0.0), min(middle + half, 1.0)

    def __str__(self) -> str:
        first, ten = (
            "{:.3f} ({:.3f} to {:.3f}, chance {:.2g})".format(
                part, *self.interval(k), self.chance(k)
            )
            for k, part in ((1, self.at_1), (NEAREST, self.at_10))
        )
        text = f"own row first {first}, among ten {ten}, of {self.queries} in {self.searched} rows"
        return f"{text}, {self.copies} of them copies" if self.copies else text


class Scores:
    """Scores of queries and rows: the higher, the nearer; in float64, up to a constant a query.

    Args:
        queries: Vectors ``(Q, D)``.
        metric: ``"cosine"``, ``"inner"`` or ``"euclidean"``.
        origin: A point near the rows, about which distances are taken to keep their digits.
    """

    def __init__(self, queries: Tensor, metric: Metric, origin: Tensor) -> None:
        self.metric, self.origin = metric, as_float64(origin)
        wide = as_float64(queries).to(self.origin.device)
        wide = wide - self.origin if metric == "euclidean" else wide
        self.unit = unit_of(wide.abs().amax())
        self.queries = self.ready(queries)[0]

    def ready(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as they are multiplied, and what is then subtracted: |k|²/2 for a distance."""
        wide = as_float64(rows).to(self.origin.device)
        if self.metric == "cosine":
            wide = unit_rows(wide)
        else:
            wide = (wide - self.origin if self.metric == "euclidean" else wide) / self.unit
        if self.metric == "euclidean":
            return wide, wide.square().sum(1) / 2
        return wide, torch.zeros_like(wide[:, 0])

    def table(self, rows: Tensor, some: slice = slice(None)) -> Tensor:
        """Scores ``(Q, K)`` of (some of) the queries with rows ``(K, D)``."""
        keys, less = self.ready(rows)
        return torch.addmm(-less, self.queries[some], keys.mT)


class Hunt:
    """Counts, block by block of what is searched, of rows before a query's own, and level with it.

    Args:
        queries: Vectors ``(Q, D)`` that search.
        own: What each of them looks for, ``(Q, D)``.
        metric: See `Scores`.
        origin: See `Scores`.
    """

    def __init__(self, queries: Tensor, own: Tensor, metric: Metric, origin: Tensor) -> None:
        self.scores = Scores(queries, metric, origin)
        keys, less = self.scores.ready(own)
        self.own = ((self.scores.queries * keys).sum(1) - less)[:, None]
        lengths = torch.linalg.vector_norm(self.scores.queries, dim=1)
        sizes = lengths * torch.linalg.vector_norm(keys, dim=1) + less
        self.band = (_TIED * rounding_of(own.dtype) * sizes)[:, None]
        self.nearer, self.level, self.equal = (
            torch.zeros(len(queries), dtype=torch.long, device=self.own.device) for _ in range(3)
        )

    def see(self, rows: Tensor, same: Tensor) -> None:
        """Search more rows ``(K, D)``; ``same (Q, K)`` says which are copies of a query's own."""
        ahead, same = self.scores.table(rows) - self.own, same.to(self.own.device)
        self.nearer += ((ahead > self.band) & ~same).sum(1)
        self.level += ((ahead.abs() <= self.band) & ~same).sum(1)
        self.equal += same.sum(1)

    def found(self, k: int) -> Tensor:
        """Probability that a query finds a copy of its own row among ``k``; ties are in any order.

        Of c copies and t rows level with them, the first m places that nearer rows leave hold no
        copy with probability C(t, m) / C(t + c, m).
        """
        copies, places = self.equal.clamp(min=1), k - self.nearer
        missed = torch.ones_like(self.own[:, 0])
        for place in range(k):
            others = (self.level - place).clamp(min=0)
            missed = torch.where(place < places, missed * others / (others + copies), missed)
        return 1 - missed


def own_rows(hunts: Iterable[Hunt], marks: Tensor) -> OwnRows:
    """What hunts over the same rows have found; ``marks``: those of all rows that were searched."""
    hunts = list(hunts)
    first, ten = (torch.cat([hunt.found(k) for hunt in hunts]) for k in (1, NEAREST))
    copies = len(marks) - len(marks.unique())
    return OwnRows(float(first.mean()), float(ten.mean()), len(ten), len(marks), copies)


def marks_of(rows: Tensor) -> Tensor:
    """A 64-bit number for each row ``(N, D)``: the same for equal rows, another one for others.

    A sum of whole numbers does not depend on its order, so rows have it wherever they stand.
    """
    bits = (rows.contiguous() + 0.0).view(_WHOLE[rows.element_size()])  # minus zero is zero
    mixed = bits.long() * _MIX
    mixed = (mixed ^ (mixed >> 32)) * _STEP
    mixed = mixed ^ (mixed >> 29)
    places = torch.arange(1, rows.shape[1] + 1, device=rows.device) * _STEP
    places = (places ^ (places >> 31)) * _MIX | 1
    return (mixed * places).sum(1)


def neighbour_shares(true: Tensor, moved: Tensor, metric: Metric) -> tuple[float, float]:
    """Of the ten nearest of each true row: how many are so when moved, and how many are not moved.

    The first is the overlap of the ten nearest among all rows as they are, and among the same ones
    moved. The second is the part, of the ten nearest where every other row is moved, that is not.
    """
    scores, n = Scores(true, metric, as_float64(true).mean(0)), len(true)
    k, second = min(NEAREST, n - 1), torch.arange(n, device=scores.queries.device) % 2
    sizes = scores.queries.square().sum(1, keepdim=True)
    band = 2 * _TIED * rounding_of(moved.dtype) * sizes
    overlap = fresh = 0.0
    for start in range(0, n, size := rows_of_table(n, torch.float64, true.device)):
        some = slice(start, min(start + size, n))
        plain, other = (scores.table(rows, some) for rows in (true, moved))
        for table in (plain, other):
            table.diagonal(start).fill_(-torch.inf)
        nearest = [_nearest(table, k, band[some]) for table in (plain, other)]
        overlap += float((nearest[0] * nearest[1]).sum())
        for half in (0, 1):
            mixed = torch.where(second == half, plain, other)
            fresh += float(_nearest(mixed, k, band[some])[:, second == half].sum()) / 2
    return overlap / (k * n), fresh / (k * n)


def _nearest(table: Tensor, k: int, band: Tensor) -> Tensor:
    """How much of each entry is among the ``k`` largest of its row: level ones share what is left.

    So it depends neither on the order of the columns nor on rounding, of copies above all.
    """
    least = table.topk(k).values[:, -1:]
    above = table > least + band
    level = (table >= least - band) & ~above
    return above + level * ((k - above.sum(1, True)) / level.sum(1, True))


def blocks_of(
    name: str, rows: Tensor | Iterable[Tensor], width: int, queries: int
) -> Iterator[Tensor]:
    """Checked rows, so few at a time that tables of them and the queries, and both sides, fit."""
    seen = 0
    for part in (rows,) if isinstance(rows, Tensor) else rows:
        checks.check_rows(name, part, width)
        size = rows_at_once(width, torch.float64, part.device)
        size = min(size, rows_of_table(max(queries, 1), torch.float64, part.device))
        for block in part.split(size):
            finite = block.isfinite().all(1)
            if not bool(finite.all()):
                raise ValueError(
                    f"`{name}` must be finite, got NaN or infinity in row "
                    f"{seen + int((~finite).nonzero()[0])}. Drop or repair these rows."
                )
            seen += len(block)
            yield block
    if not seen:
        raise ValueError(f"`{name}` must hold at least one row, got none.")
