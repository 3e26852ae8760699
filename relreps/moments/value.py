"""Counts, means and centred products of rows, in float64: a value that is added up.

Normalisers, translators and measures all rest on these few sums, so they are taken in one place.
Every chunk is centred on its own mean before it is squared (data of mean 1000 lose nothing); its
products stay in the precision of the input, or in float64 if asked for; sums over chunks are
float64. Any chunking, and any order of adding, gives the same moments up to float64 rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import repeat

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core import checks
from relreps._core.blocks import rows_at_once
from relreps._core.distributed import all_reduce_sum
from relreps._core.linalg import as_float64, full_precision
from relreps._core.rounding import is_constant, rounding_of, safe_sqrt

#: Chunks whose means are kept until they are put together. What is kept lies between the freed
#: chunks and stops the allocator from using them again, so these few cost some chunks of memory.
_GROUP = 4

Product = Callable[[Tensor, Tensor], Tensor]
Pairs = tuple[tuple[int, int], ...]
#: What is subtracted from the rows of a side, and what they are then multiplied by.
Map = tuple[Tensor | None, Tensor | None]

#: Of two paired spaces: each with itself, and one with the other.
BOTH: Pairs = ((0, 0), (0, 1), (1, 1))


def elementwise(a: Tensor, b: Tensor) -> Tensor:
    """Feature by feature: ``(N, D), (N, D) -> (D,)``. O(ND)."""
    return (a * b).sum(0)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Every feature with every other: ``(N, D), (N, E) -> (D, E)``. O(NDE)."""
    return a.mT @ b


@dataclass(frozen=True, slots=True)
class RowMoments:
    r"""Moments of some rows of one or more paired spaces ("sides"), in float64.

    ``a + b`` are the moments of the rows of both, ``a - b`` those of the rows of ``a`` that are not
    in ``b``, and ``a * factor`` gives every row that many times its weight.

    Attributes:
        total: Total weight :math:`W`, a scalar.
        means: One mean for each side, :math:`(D_i,)`.
        scatters: One sum :math:`\sum w (x - \mu_x) \otimes (y - \mu_y)` for each of ``pairs``:
            :math:`(D_i, D_j)`, or :math:`(D_i,)` where only equal features were multiplied.
        pairs: Which sides were multiplied.
        squares: Sum of the squared weights, a scalar.
        eps: Relative rounding of the rows: that of float32 if any of them are coarser than float64.
    """

    total: Tensor
    means: tuple[Tensor, ...]
    scatters: tuple[Tensor, ...]
    pairs: Pairs
    squares: Tensor
    eps: float

    def __add__(self, other: RowMoments) -> RowMoments:
        # With weights V, W and means m, m + d of the two, the mean of all is m + d W / (V + W), and
        # the products about it are those about either mean and, of the shifts to the common one,
        #   V (d W / (V + W))² + W (d V / (V + W))² = d² V W / (V + W)
        # (Chan, Golub and LeVeque 1983). Nothing large is subtracted.
        total = self.total + other.total
        share = other.total / torch.where(total > 0, total, 1)
        steps = tuple(b - a for a, b in zip(self.means, other.means, strict=True))
        return RowMoments(
            total,
            tuple(mean + step * share for mean, step in zip(self.means, steps, strict=True)),
            tuple(
                a + b + _like(a)(steps[i][None], steps[j][None]) * (self.total * share)
                for a, b, (i, j) in zip(self.scatters, other.scatters, self.pairs, strict=True)
            ),
            self.pairs,
            self.squares + other.squares,
            max(self.eps, other.eps),
        )

    def __sub__(self, other: RowMoments) -> RowMoments:
        return self + replace(
            other,
            total=-other.total,
            scatters=tuple(-s for s in other.scatters),
            squares=-other.squares,
        )

    def __mul__(self, factor: float) -> RowMoments:
        return replace(
            self,
            total=self.total * factor,
            means=tuple(m.clone() for m in self.means),
            scatters=tuple(s * factor for s in self.scatters),
            squares=self.squares * factor**2,
        )

    def to(self, device: torch.device) -> RowMoments:
        """The same on ``device``."""
        means, scatters = (tuple(t.to(device) for t in p) for p in (self.means, self.scatters))
        return replace(
            self,
            total=self.total.to(device),
            means=means,
            scatters=scatters,
            squares=self.squares.to(device),
        )

    def all_reduced(self, group: dist.ProcessGroup | None = None) -> RowMoments:
        """Moments of the rows of all processes together; their sizes have to agree.

        A process without rows adds nothing. Two ``all_reduce``: the means, which are little, and
        what they are the common shift for, about which the scatters are plain sums.
        """
        coarse = torch.full_like(self.total, self.eps > rounding_of(torch.float64))
        total, squares, coarse, *sums = all_reduce_sum(
            self.total, self.squares, coarse, *(m * self.total for m in self.means), group=group
        )
        means = tuple(s / torch.where(total > 0, total, 1) for s in sums)
        drifts = [own - mean for own, mean in zip(self.means, means, strict=True)]
        shifted = (
            s + _like(s)(drifts[i][None], drifts[j][None]) * self.total
            for s, (i, j) in zip(self.scatters, self.pairs, strict=True)
        )
        eps = rounding_of(torch.float32 if bool(coarse > 0) else torch.float64)
        scatters = all_reduce_sum(*shifted, group=group)
        return RowMoments(total, means, scatters, self.pairs, squares, eps)

    def of(self, *sides: int) -> RowMoments:
        """Moments of one or two of the sides, of which the pairs have been multiplied."""
        wanted = tuple((i, j) for n, i in enumerate(sides) for j in sides[n:])
        return replace(
            self,
            means=tuple(self.means[i] for i in sides),
            scatters=tuple(self.scatters[self.pairs.index(pair)] for pair in wanted),
            pairs=BOTH if len(sides) == 2 else ((0, 0),),
        )

    def mapped(self, *maps: Map) -> RowMoments:
        """Moments after each side went through ``(x - shift) * factor``, or ``@ factor``.

        Args:
            maps: ``(shift, factor)`` for each side: a shift ``(D,)`` or None, and a factor, which
                is one number a feature ``(D,)``, a scalar, a matrix ``(D, D')`` or None.
        """
        means = []
        for mean, (shift, factor) in zip(self.means, maps, strict=True):
            rest = mean if shift is None else mean - shift
            means.append(rest if factor is None else times(rest[None], factor)[0])
        scatters = []
        for scatter, (i, j) in zip(self.scatters, self.pairs, strict=True):
            left, right = maps[i][1], maps[j][1]
            if right is not None:
                scatter = times(scatter, right)
            if left is not None:
                whole = scatter.dim() == 2
                scatter = times(scatter.mT, left).mT if whole else times(scatter, left)
            scatters.append(scatter)
        return replace(self, means=tuple(means), scatters=tuple(scatters))

    def about_zero(self) -> RowMoments:
        """The same with products about zero, not about the means, which count as zero then."""
        added = (
            s + self.total * _like(s)(self.means[i][None], self.means[j][None])
            for s, (i, j) in zip(self.scatters, self.pairs, strict=True)
        )
        means = tuple(torch.zeros_like(m) for m in self.means)
        return replace(self, means=means, scatters=tuple(added))

    @property
    def xx(self) -> Tensor:
        """Products of the first side with itself, ``(D, D)`` or ``(D,)``."""
        return self.scatters[0]

    @property
    def xy(self) -> Tensor:
        """Products of two sides, ``(D, E)``."""
        return self.scatters[self.pairs.index((0, 1))]

    @property
    def yy(self) -> Tensor:
        """Products of the second side with itself, ``(E, E)`` or ``(E,)``."""
        return self.scatters[self.pairs.index((1, 1))]

    def diagonal(self, side: int = 0) -> Tensor:
        """Sum of the squares of each feature of a side, ``(D,)``."""
        scatter = self.scatters[self.pairs.index((side, side))]
        return scatter if scatter.dim() == 1 else scatter.diagonal()

    def deviations(self, side: int = 0) -> Tensor:
        """Population deviation of each feature of a side, ``(D,)``; exactly 0 if it is rounding."""
        centered = self.diagonal(side) / self.total
        constant = is_constant(centered, self.means[side] ** 2, self.eps)
        return safe_sqrt(torch.where(constant, 0, centered))

    def varies(self, side: int = 0) -> Tensor:
        """Whether the rows of a side differ by more than rounding, a scalar."""
        centered = self.diagonal(side).sum()
        whole = centered + self.total * self.means[side].square().sum()
        return ~is_constant(centered, whole, self.eps)

    @property
    def effective_rows(self) -> float:
        r"""Number of rows of equal weight that weigh as much, :math:`W^2 / \sum w^2`."""
        return float(self.total**2 / self.squares)


def row_moments(
    *sides: Tensor,
    pairs: Pairs = ((0, 0),),
    product: Product | tuple[Product, ...] = elementwise,
    weights: Tensor | None = None,
    exact: bool = False,
) -> RowMoments:
    r"""Moments of paired rows in float64, differentiable.

    .. math:: \mu = \tfrac1W\sum_i w_i x_i, \qquad
              S_{xy} = \sum_i w_i\, (x_i - \mu_x) \otimes (y_i - \mu_y)

    Cost: that of ``product``, and one chunk of memory.

    Args:
        sides: Sets of rows ``(N, D_0)``, ``(N, D_1)``, ..., paired row by row.
        pairs: Which sets to multiply, by position.
        product: `elementwise` (variances) or `outer` (covariances), for all pairs or one for each.
        weights: One non-negative weight a row; 1 each by default.
        exact: Take the products in float64 too, at twice the time in float32: for what solves
            equations with them, which squares the condition number.
    """
    each = product if isinstance(product, tuple) else (product,) * len(pairs)
    kind = reduce(torch.promote_types, (side.dtype for side in sides), torch.float32)
    sums_in = as_float64(sides[0][:0])
    rows_in = sums_in if exact else sides[0].new_empty(0, dtype=kind)
    chunk = rows_at_once(max(side.shape[1] for side in sides), rows_in.dtype)
    # No rows at all are rounded to nothing.
    eps = rounding_of(*(s.dtype for s in sides)) if len(sides[0]) else rounding_of(torch.float64)
    group = chunk * _GROUP
    weighted = repeat(None) if weights is None else as_float64(weights).split(group)
    found: RowMoments | None = None
    with full_precision(sides[0]):
        for w, *rows in zip(weighted, *(side.split(group) for side in sides), strict=False):
            new = _of_group(rows, w, chunk, pairs, each, rows_in, sums_in, eps)
            found = new if found is None else found + new
    return found  # type: ignore[return-value]  # a split of no rows is one of no rows


def finite_moments(take: Callable[..., RowMoments], *sides: Tensor) -> RowMoments:
    """``take(*sides)``, or an error that names the first row that is not finite. Synchronises.

    Only the result is looked at, which is finite if and only if the rows are (or they are so large
    that their squares overflow, and then float64 is tried): no pass over the data is spent.
    """
    moments = take(*sides)
    parts = (*moments.means, *moments.scatters)
    if moments.total.is_meta or all(bool(part.isfinite().all()) for part in parts):
        return moments
    for name, side in zip("xy", sides, strict=False):
        checks.check_finite(name, side)
    return take(*(as_float64(side) for side in sides))


def check_chunk_weights(weights: Tensor, rows: int) -> None:
    """As `checks.check_weights`, but a chunk may have no row that counts, or no row at all."""
    checks.check_floating("weights", weights)
    if weights.is_meta or weights.shape != (rows,) or bool(weights.any()):
        checks.check_weights(weights, rows)


def _like(scatter: Tensor) -> Product:
    """The product that a scatter is a sum of."""
    return outer if scatter.dim() == 2 else elementwise


def times(rows: Tensor, factor: Tensor | None) -> Tensor:
    """Rows by one number each feature, by one for all, or by a matrix; None changes nothing."""
    if factor is None:
        return rows
    factor = factor.to(rows.dtype)
    return rows @ factor if factor.dim() == 2 else rows * factor


def _of_group(
    sides: list[Tensor],
    weights: Tensor | None,
    chunk: int,
    pairs: Pairs,
    products: tuple[Product, ...],
    rows_in: Tensor,
    sums_in: Tensor,
    eps: float,
) -> RowMoments:
    """Moments of some chunks: products are added up, means are put together at the end."""
    scatters: list[Tensor] = []
    counts, tables = [], []
    weighted = repeat(None) if weights is None else weights.split(chunk)
    for w, *rows in zip(weighted, *(side.split(chunk) for side in sides), strict=False):
        count, table, sums = _of_chunk([row.to(rows_in) for row in rows], w, pairs, products)
        wide = [s.to(sums_in) for s in sums]
        scatters = list(map(torch.add, scatters, wide)) if scatters else wide
        counts.append(count)
        tables.append(table)
    # Chunk c of weight n_c was multiplied about its shift s_c, its mean as rounded to the type of
    # the rows. With o_c = rest_c / n_c, what the shift missed of the mean m_c = s_c + o_c,
    #   sum (x - m)(y - m) = sum_c [ sum (x - s_c)(y - s_c) - n_c o_c o_c ]     (within)
    #                        + sum_c n_c (m_c - m)(m_c - m)                     (between)
    # o_c is small, so it is precise, and so is what is subtracted; but it matters: in float32 a
    # mean of 1e6 is rounded to 0.06, and without `within` the scatter would be off by its square.
    n, squares = torch.stack(counts).to(sums_in).split(1, 1)
    columns = torch.stack(tables).to(sums_in).split([s.shape[1] for s in sides for _ in "ab"], 1)
    total = n.sum()
    means, parts = [], []
    for shift, rest in zip(columns[::2], columns[1::2], strict=True):
        offset = rest / torch.where(n > 0, n, 1)
        local = shift + offset
        means.append((local * n).sum(0) / torch.where(total > 0, total, 1))
        parts.append(torch.cat((local - means[-1], offset)))
    signed = torch.cat((n, -n))
    corrected = []
    for scatter, (i, j), times in zip(scatters, pairs, products, strict=True):
        corrected.append(scatter + times(parts[i] * signed, parts[j]))
    return RowMoments(total, tuple(means), tuple(corrected), pairs, squares.sum(), eps)


def _of_chunk(
    sides: list[Tensor],
    weights: Tensor | None,
    pairs: Pairs,
    products: tuple[Product, ...],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Weight and its square; shift and rest of each side, in a row; products without the shifts."""
    size = sides[0].shape[0]
    if weights is None:
        count = sides[0].new_full((2,), size)
    else:
        count = torch.stack((weights.sum(), weights.square().sum()))
        w = weights.to(sides[0])[:, None]
    columns, centered, weighted = [], [], []
    for side in sides:
        # A mean rounded to the input's precision is good enough to centre on; what it misses is
        # the mean of the centred rows, which is small and therefore precise.
        rows = side.detach()
        if weights is None:
            shift = rows.sum(0) / max(size, 1)
        else:
            shift = (rows * w).sum(0) / torch.where(count[0] > 0, count[0], 1).to(side)
        rest = side - shift
        centered.append(rest)
        weighted.append(rest if weights is None else rest * w)
        columns += [shift, weighted[-1].sum(0)]
    sums = []
    for (i, j), times in zip(pairs, products, strict=True):
        sums.append(times(weighted[i], centered[j]))
    return count, torch.cat(columns), sums
