"""Moments taken from rows: in chunks, each about its own mean, put together in float64.

Every chunk is centred before it is squared, so that data of mean 1000 lose nothing; its products
stay in the precision of the input, or in float64 if asked for; sums over chunks are float64. Any
chunking gives the same moments up to float64 rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce
from itertools import repeat

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.blocks import rows_at_once
from relreps._core.linalg import as_float64, at_least_float32, full_precision
from relreps._core.rounding import rounding_of, unit_of
from relreps.moments.value import Pairs, Product, RowMoments, elementwise

#: Chunks whose means are kept until they are put together. What is kept lies between the freed
#: chunks and stops the allocator from using them again, so these few cost some chunks of memory.
_GROUP = 4

#: Mean square of a feature from which on squares that underflow are rounding of the sum, where
#: these are float32, and float64.
_LEAST = [torch.finfo(t).tiny / torch.finfo(t).eps for t in (torch.float32, torch.float64)]


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
    chunk = rows_at_once(max(side.shape[1] for side in sides), rows_in.dtype, rows_in.device)
    # No rows at all are rounded to nothing.
    eps = rounding_of(*(s.dtype for s in sides)) if len(sides[0]) else rounding_of(torch.float64)
    group = chunk * _GROUP
    weighted: Iterable[Tensor | None] = repeat(None)
    unit = None
    if weights is not None and len(weights):
        # Rows may be of a type in which such weights are no numbers, and only their ratios matter.
        unit = unit_of(as_float64(weights.detach()).abs().amax())
        weighted = (as_float64(weights) / unit).split(group)
    found: RowMoments | None = None
    with full_precision(sides[0]):
        for w, *rows in zip(weighted, *(side.split(group) for side in sides), strict=False):
            new = _of_group(rows, w, chunk, pairs, each, rows_in, sums_in, eps)
            found = new if found is None else found + new
    assert found is not None  # a split of no rows is one of no rows
    return found if unit is None else found * unit


def finite_moments(take: Callable[..., RowMoments], *sides: Tensor) -> RowMoments:
    """``take(*sides)``, or an error that names the first row that is not finite. Synchronises.

    Only the result is looked at: it is finite if and only if the rows are, or they are so large
    that their squares overflow; and where squares underflow, it is small. Then the rows are looked
    at, and float64 is tried: no pass over other data is spent.
    """
    moments = take(*sides)
    if moments.total.is_meta or _all_kept(moments, sides):
        return moments
    _check_all_finite(sides)
    return replace(take(*(as_float64(side) for side in sides)), eps=moments.eps)


def moments_of_any_size(take: Callable[..., RowMoments], x: Tensor) -> RowMoments:
    """As `finite_moments`, of one side, and right also where squares are no float64 numbers.

    Those that are not in range are taken by `moments_in_units`.
    """
    moments = take(x)
    if moments.total.is_meta or _all_kept(moments, (x,)):
        return moments
    _check_all_finite((x,))
    return moments_in_units(take, x)


def moments_in_units(take: Callable[..., RowMoments], x: Tensor) -> RowMoments:
    """``take(x)`` with each feature in a unit of its own: no square over- or underflows.

    The unit is the power of two next to its largest entry, which rounds nothing. One more pass over
    the rows, blind to their values.
    """
    wide = at_least_float32(x)
    unit = unit_of(wide.detach().abs().amax(0) if len(x) else wide.new_zeros(x.shape[1]))
    moments, units = take(wide / unit), as_float64(unit)
    return replace(moments, means=(moments.means[0] * units,), units=(units,))


def check_chunk_weights(weights: Tensor, rows: int) -> None:
    """As `checks.check_weights`, but a chunk may have no row that counts, or no row at all."""
    checks.check_floating("weights", weights)
    if weights.is_meta or weights.shape != (rows,) or bool(weights.any()):
        checks.check_weights(weights, rows)


def _all_kept(moments: RowMoments, sides: tuple[Tensor, ...]) -> bool:
    """Whether all sums are finite, and none is of squares that underflowed."""
    parts = (*moments.means, *moments.scatters)
    squares, levels, own = [], [], []
    for i, side in enumerate(sides):
        if (i, i) in moments.pairs:
            scatter = moments.scatters[moments.pairs.index((i, i))]
            squares.append((scatter if scatter.dim() == 1 else scatter.diagonal()) / moments.total)
            levels.append(_LEAST[side.dtype == torch.float64])
            own.append(i)
    # In the ordinary case this one look is all: a sum is finite if what is summed up is.
    seen = torch.stack([*(p.sum() for p in parts), *(s.amin() for s in squares)]).tolist()
    low = zip(seen[len(parts) :], levels, strict=True)
    if all(map(math.isfinite, seen)) and all(least >= level for least, level in low):
        return True
    if not bool(torch.stack([part.isfinite().all() for part in parts]).all()):
        return False
    # A small sum may be that of zeros, as of a unit that never fires: only then rows are looked at.
    for i, square, level in zip(own, squares, levels, strict=True):
        # One that varies by no more than its mean is rounded to is constant, whatever was lost.
        rounded = (2 * moments.eps * moments.means[i]) ** 2
        doubtful = torch.maximum(square, rounded) < level
        if bool(sides[i][:, doubtful.to(sides[i].device)].any()):
            return False
    return True


def _check_all_finite(sides: tuple[Tensor, ...]) -> None:
    for name, side in zip("xy", sides, strict=False):
        checks.check_finite(name, side)


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
