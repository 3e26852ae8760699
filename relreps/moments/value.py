"""Sums over rows: counts, means and centred products, in chunks, merged, in float64.

Every chunk is centred on its own mean before it is squared (data of mean 1000 lose nothing); its
products stay in the precision of the input; sums over chunks are float64. Any chunking, and any
order of merging, gives the same moments up to float64 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core import checks
from relreps._core.distributed import all_reduce_sum
from relreps._core.linalg import as_float64, full_precision

#: Rows per chunk: their product costs far more than adding it up in float64, and stays in cache.
_CHUNK = 2048

#: Chunks whose means are kept until they are put together. What is kept lies between the freed
#: chunks and stops the allocator from using them again, so these few cost some chunks of memory.
_GROUP = 4

Product = Callable[[Tensor, Tensor], Tensor]
Products = Product | tuple[Product, ...]
Pairs = tuple[tuple[int, int], ...]


class RowMoments(NamedTuple):
    """Moments of some rows.

    Attributes:
        total: Total weight, a scalar.
        means: One mean for each set of rows, :math:`(D,)`.
        scatters: One centred sum of products for each pair of sets that was asked for.
    """

    total: Tensor
    means: tuple[Tensor, ...]
    scatters: tuple[Tensor, ...]

    def to(self, device: torch.device) -> RowMoments:
        """The same on ``device``."""
        means, scatters = (tuple(t.to(device) for t in part) for part in self[1:])
        return RowMoments(self.total.to(device), means, scatters)


def elementwise(a: Tensor, b: Tensor) -> Tensor:
    """Feature by feature: ``(N, D), (N, D) -> (D,)``. O(ND)."""
    return (a * b).sum(0)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Every feature with every other: ``(N, D), (N, E) -> (D, E)``. O(NDE)."""
    return a.mT @ b


def row_moments(
    *sides: Tensor,
    pairs: Pairs = ((0, 0),),
    product: Products = elementwise,
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
    kind = reduce(torch.promote_types, (side.dtype for side in sides), torch.float32)
    weights = None if weights is None else weights.to(sides[0].device)
    widen = as_float64 if exact else partial(Tensor.to, dtype=kind)
    chunk = _CHUNK // 2 if exact else _CHUNK  # as much memory in float64 as in float32
    with full_precision(sides[0]):
        groups = _split(sides, weights, _GROUP * chunk)
        parts = (_group_moments(rows, w, pairs, product, widen, chunk) for rows, w in groups)
        return reduce(partial(merged, pairs=pairs, product=product), parts)


def check_chunk_weights(weights: Tensor, rows: int) -> None:
    """As `checks.check_weights`, but a chunk may have no row that counts, or no row at all."""
    checks.check_floating("weights", weights)
    if weights.is_meta or weights.shape != (rows,) or bool(weights.any()):
        checks.check_weights(weights, rows)


def tallies(sides: tuple[Tensor, ...], weights: Tensor | None, like: Tensor) -> Tensor:
    """Sums of squared weights, and of rows that count and are coarser than float64, ``(2,)``.

    They say how many pairs there are in effect and how they are rounded. As the moments they are
    sums over the rows, so they are merged and reduced by adding.
    """
    count = torch.full_like(like, len(sides[0]))
    squares = count
    if weights is not None:
        wide = as_float64(weights).to(like.device)
        squares, count = wide.square().sum(), (wide > 0).sum().to(like)
    coarse = any(side.dtype != torch.float64 for side in sides)
    return torch.stack((squares, count * coarse))


def finite_moments(take: Callable[..., RowMoments], *sides: Tensor) -> RowMoments:
    """``take(*sides)``, or an error that names the first row that is not finite. Synchronises.

    Only the result is looked at, which is finite if and only if the rows are (or they are so large
    that their squares overflow, and then float64 is tried): no pass over the data is spent.
    """
    moments = take(*sides)
    if _is_finite(moments):
        return moments
    for name, side in zip("xy", sides, strict=False):
        checks.check_finite(name, side)
    return take(*(as_float64(side) for side in sides))


def _is_finite(moments: RowMoments) -> bool:
    parts = (*moments.means, *moments.scatters)
    return moments.total.is_meta or all(bool(part.isfinite().all()) for part in parts)


def merged(
    a: RowMoments, b: RowMoments, pairs: Pairs = ((0, 0),), product: Products = elementwise
) -> RowMoments:
    """Moments of the rows of ``a`` and ``b`` together (Chan, Golub and LeVeque 1983).

    A negative total of ``b``, with negative scatters, takes its rows away again.
    """
    total = a.total + b.total
    share = b.total / torch.where(total > 0, total, 1)
    steps = tuple(mb - ma for ma, mb in zip(a.means, b.means, strict=True))
    return RowMoments(
        total,
        tuple(mean + step * share for mean, step in zip(a.means, steps, strict=True)),
        tuple(
            sa + sb + times(steps[i][None], steps[j][None]) * (a.total * share)
            for sa, sb, (i, j), times in zip(
                a.scatters, b.scatters, pairs, _each(product, pairs), strict=True
            )
        ),
    )


def all_reduced(
    moments: RowMoments,
    pairs: Pairs = ((0, 0),),
    product: Products = elementwise,
    group: dist.ProcessGroup | None = None,
) -> RowMoments:
    """Moments of the rows of all processes together; their sizes have to agree.

    The means are summed first, which is little. They are the common shift about which the scatters
    are plain sums, and those are one ``all_reduce``. A process without rows adds nothing.
    """
    total, *sums = all_reduce_sum(
        moments.total, *(mean * moments.total for mean in moments.means), group=group
    )
    means = tuple(s / _positive(total) for s in sums)
    drifts = [own - mean for own, mean in zip(moments.means, means, strict=True)]
    shifted = (
        scatter + times(drifts[i][None], drifts[j][None]) * moments.total
        for scatter, (i, j), times in zip(
            moments.scatters, pairs, _each(product, pairs), strict=True
        )
    )
    return RowMoments(total, means, all_reduce_sum(*shifted, group=group))


def _each(product: Products, pairs: Pairs) -> tuple[Product, ...]:
    return product if isinstance(product, tuple) else (product,) * len(pairs)


def _split(
    sides: tuple[Tensor, ...], weights: Tensor | None, size: int
) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
    for start in range(0, max(sides[0].shape[0], 1), size):
        rows = slice(start, start + size)
        yield tuple(side[rows] for side in sides), None if weights is None else weights[rows]


def _group_moments(
    sides: tuple[Tensor, ...],
    weights: Tensor | None,
    pairs: Pairs,
    product: Products,
    widen: Callable[[Tensor], Tensor],
    chunk: int,
) -> RowMoments:
    """Moments of some chunks: products are added up, means are put together at the end."""
    scatters: tuple[Tensor, ...] | None = None
    counts, shifts, rests = [], [], []
    for rows, w in _split(sides, weights, chunk):
        wide = tuple(widen(side) for side in rows)
        count, shift, rest, products = _chunk_sums(wide, w, pairs, product)
        sums = tuple(as_float64(p) for p in products)
        scatters = sums if scatters is None else tuple(map(torch.add, scatters, sums))
        counts.append(count)
        shifts.append(shift)
        rests.append(rest)
    n = as_float64(torch.stack(counts))[:, None]
    total = n.sum()
    offsets = [as_float64(torch.stack(side)) / _positive(n) for side in zip(*rests, strict=True)]
    means, drifts = [], []
    for offset, side in zip(offsets, zip(*shifts, strict=True), strict=True):
        local = as_float64(torch.stack(side)) + offset
        means.append((local * n).sum(0) / _positive(total))
        drifts.append(local - means[-1])
    each = tuple(zip(pairs, _each(product, pairs), strict=True))
    between = (times(drifts[i] * n, drifts[j]) for (i, j), times in each)
    within = (times(offsets[i] * n, offsets[j]) for (i, j), times in each)
    parts = zip(scatters or (), between, within, strict=True)
    return RowMoments(total, tuple(means), tuple(s + b - w for s, b, w in parts))


def _chunk_sums(
    sides: tuple[Tensor, ...], weights: Tensor | None, pairs: Pairs, product: Products
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Weight, shifts, and the sums and products of the rows without their shift."""
    size = sides[0].shape[0]
    if weights is None:
        count = sides[0].new_full((), size)
    else:
        w = weights.to(sides[0])[:, None]
        count = as_float64(weights).sum()
    shifts, centred, weighted = [], [], []
    for side in sides:
        # A mean rounded to the input's precision is good enough to centre on; what it misses is
        # the mean of the centred rows, which is small and therefore precise.
        rows = side.detach()
        if weights is None:
            shift = rows.sum(0) / max(size, 1)
        else:
            shift = ((rows * w).sum(0) / _positive(count)).to(side.dtype)
        rest = side - shift
        shifts.append(shift)
        centred.append(rest)
        weighted.append(rest if weights is None else rest * w)
    each = zip(pairs, _each(product, pairs), strict=True)
    products = [times(weighted[i], centred[j]) for (i, j), times in each]
    return count, shifts, [rest.sum(0) for rest in weighted], products


def _positive(count: Tensor) -> Tensor:
    return torch.where(count > 0, count, 1)
