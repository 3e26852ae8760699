"""Counts, means and centred second moments of rows: streamed in chunks, merged, in float64.

Normalisers, translators and similarity measures all rest on the same few sums, so they are taken in
one place. Every chunk is centred on its own mean before it is squared (data of mean 1000 lose
nothing); its products stay in the precision of the input; sums over chunks are float64. Any
chunking, and any order of merging, gives the same moments up to float64 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from relreps import _checks
from relreps._distributed import all_reduce_sum, check_agreement
from relreps._linalg import as_float64, full_precision

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
    widen = as_float64 if exact else partial(Tensor.to, dtype=kind)
    chunk = _CHUNK // 2 if exact else _CHUNK  # as much memory in float64 as in float32
    with full_precision(sides[0]):
        groups = _split(sides, weights, _GROUP * chunk)
        parts = (_group_moments(rows, w, pairs, product, widen, chunk) for rows, w in groups)
        return reduce(partial(merged, pairs=pairs, product=product), parts)


def finite_moments(take: Callable[..., RowMoments], *sides: Tensor) -> RowMoments:
    """``take(*sides)``, or an error that names the first row that is not finite. Synchronises.

    Only the result is looked at, which is finite if and only if the rows are (or they are so large
    that their squares overflow, and then float64 is tried): no pass over the data is spent.
    """
    moments = take(*sides)
    if _is_finite(moments):
        return moments
    for name, side in zip("xy", sides, strict=False):
        _checks.check_finite(name, side)
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


class _Stream(nn.Module):
    """Float64 buffers that stay float64 through ``.half()``, filled chunk by chunk."""

    count: Tensor

    def __init__(
        self, sizes: tuple[int, ...], pairs: Pairs, product: Product, exact: bool = False
    ) -> None:
        super().__init__()
        self.exact = exact
        self._sizes, self._pairs, self._product = sizes, pairs, product
        self._names = ["count", *(f"mean_{'xy'[i]}" for i in range(len(sizes)))]
        shapes: list[tuple[int, ...]] = [(), *((size,) for size in sizes)]
        for i, j in pairs:
            self._names.append(f"scatter_{'xy'[i]}{'xy'[j]}")
            shapes.append(tuple(product(torch.zeros(1, sizes[i]), torch.zeros(1, sizes[j])).shape))
        for name, shape in zip(self._names, shapes, strict=True):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def _update(self, *sides: Tensor, weights: Tensor | None) -> Self:
        for name, side, size in zip("xy", sides, self._sizes, strict=False):
            _checks.check_rows(name, side, size, minimum=0)
        if weights is not None:
            _checks.check_weights(weights, sides[0].shape[0])
        with torch.no_grad():
            take = partial(
                row_moments,
                pairs=self._pairs,
                product=self._product,
                weights=weights,
                exact=self.exact,
            )
            return self._add(finite_moments(take, *sides))

    def merge(self, other: Self) -> Self:
        """Add what another stream of the same sizes has seen."""
        self._check_alike(other)
        return self._add(other.state())

    def subtract(self, other: Self) -> Self:
        """Take away what another stream of the same sizes has seen, of rows that are in this one.

        What is left has the rounding of the whole: rows that are far larger than those that stay
        leave their rounding behind. Nothing is left if all rows are taken.
        """
        self._check_alike(other)
        left = float(self.count - other.count)
        eps = 8 * torch.finfo(torch.float64).eps * float(self.count)
        if left < -eps:
            raise ValueError(
                f"`other` must have seen a part of the rows of this stream, got a weight of "
                f"{float(other.count):g} to take from {float(self.count):g}."
            )
        if left <= eps:
            return self.reset()
        total, means, scatters = other.state()
        return self._add(RowMoments(-total, means, tuple(-s for s in scatters)))

    def decay(self, factor: float) -> Self:
        """Multiply the weight of every row seen so far by ``factor`` in [0, 1].

        Once before each `update` it forgets exponentially: means and covariances follow a space
        that drifts, with a memory of about ``1 / (1 - factor)`` updates.
        """
        _checks.check_number("factor", factor, 0, 1)
        if factor == 0:
            return self.reset()
        total, means, scatters = self.state()
        return self._set(RowMoments(total * factor, means, tuple(s * factor for s in scatters)))

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Add up what the streams of all processes of ``group`` have seen, in each of them.

        Call it once, in every process, after the last update: a second call would count every row
        again. Processes may have seen different numbers of rows, or none. O(D^2) is sent once.

        Args:
            group: The processes; all of them by default.

        Raises:
            ValueError: In every process, if their streams differ in kind or sizes.
            RuntimeError: There is no process group.
        """
        check_agreement("The stream", repr(self), group)
        return self._set(all_reduced(self.state(), self._pairs, self._product, group))

    def reset(self) -> Self:
        """Forget everything."""
        for name in self._names:
            getattr(self, name).zero_()
        return self

    def state(self) -> RowMoments:
        """What has been seen so far."""
        values = [getattr(self, name) for name in self._names]
        split = 1 + len(self._sizes)
        return RowMoments(values[0], tuple(values[1:split]), tuple(values[split:]))

    def _check_alike(self, other: Self) -> None:
        if type(other) is not type(self) or other._sizes != self._sizes:
            raise ValueError(
                f"`other` must be a {self}, got {other}. These must be streams of equal sizes."
            )

    def _add(self, new: RowMoments) -> Self:
        return self._set(merged(self.state(), new, self._pairs, self._product))

    def _set(self, new: RowMoments) -> Self:
        values = (new.total, *new.means, *new.scatters)
        for name, value in zip(self._names, values, strict=True):
            getattr(self, name).copy_(value)
        return self

    def _mean_of(self, scatter: Tensor) -> Tensor:
        return scatter / torch.where(self.count > 0, self.count, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def device_only(t: Tensor) -> Tensor:
            device = fn(t).device
            if t.is_meta:
                return torch.zeros_like(t, device=device)
            return as_float64(t.to(device)) if device.type != "mps" else t.cpu()

        super()._apply(device_only, recurse)  # type: ignore[no-untyped-call]
        return self


class FeatureMoments(_Stream):
    """Streaming mean and population variance of each feature, in O(D) memory.

    Args:
        in_features: Number of features D.

    Example:
        >>> stream = FeatureMoments(2).update(torch.tensor([[0.0, 1.0]]))
        >>> stream.update(torch.tensor([[2.0, 1.0]])).variance
        tensor([1., 0.], dtype=torch.float64)
    """

    mean_x: Tensor
    scatter_xx: Tensor

    def __init__(self, in_features: int) -> None:
        _checks.check_size("in_features", in_features)
        super().__init__((in_features,), ((0, 0),), elementwise)
        self.in_features = in_features

    def update(self, x: Tensor, weights: Tensor | None = None) -> Self:
        """Add rows ``(N, D)``; rows that are not finite are refused. O(ND)."""
        return self._update(x, weights=weights)

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, ``(D,)``."""
        return self.mean_x

    @property
    def variance(self) -> Tensor:
        """Population variance of each feature, ``(D,)``."""
        return self._mean_of(self.scatter_xx)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"in_features={self.in_features}"


class Moments(_Stream):
    r"""Streaming means and (cross-)covariances of one space, or of two paired ones.

    .. math:: C_{xy} = \tfrac1W \sum_i w_i (x_i - \mu_x)(y_i - \mu_y)^\top

    The sum runs over all rows seen; `merge` adds another stream. O(N (D + E)^2) time, O((D + E)^2)
    memory, whatever the number of rows.

    Args:
        in_features: Number of features D of ``x``.
        out_features: Number of features E of ``y``; without it there is no ``y``.
        exact: Take the products of float32 rows in float64 too, at about twice the time: for
            translators, which solve equations with them.

    Example:
        >>> stream = Moments(2).update(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
        >>> stream.cov_xx
        tensor([[1., 2.],
                [2., 4.]], dtype=torch.float64)
    """

    scatter_xx: Tensor
    scatter_xy: Tensor
    scatter_yy: Tensor
    mean_x: Tensor
    mean_y: Tensor

    def __init__(
        self, in_features: int, out_features: int | None = None, *, exact: bool = False
    ) -> None:
        _checks.check_size("in_features", in_features)
        if out_features is None:
            super().__init__((in_features,), ((0, 0),), outer, exact)
        else:
            _checks.check_size("out_features", out_features)
            pairs = ((0, 0), (0, 1), (1, 1))
            super().__init__((in_features, out_features), pairs, outer, exact)
        self.in_features, self.out_features = in_features, out_features

    def update(self, x: Tensor, y: Tensor | None = None, weights: Tensor | None = None) -> Self:
        """Add rows ``(N, D)`` and, if there are two spaces, their partners ``(N, E)``."""
        if (y is None) != (self.out_features is None):
            wanted = "one set of rows" if self.out_features is None else "paired rows `x` and `y`"
            raise ValueError(f"{self} takes {wanted}; set `out_features` to have a second space.")
        if y is None:
            return self._update(x, weights=weights)
        _checks.check_paired(x, y)
        return self._update(x, y, weights=weights)

    @property
    def cov_xx(self) -> Tensor:
        """Population covariance of ``x``, ``(D, D)``."""
        return self._mean_of(self.scatter_xx)

    @property
    def cov_xy(self) -> Tensor:
        """Population cross-covariance, ``(D, E)``."""
        return self._mean_of(self.scatter_xy)

    @property
    def cov_yy(self) -> Tensor:
        """Population covariance of ``y``, ``(E, E)``."""
        return self._mean_of(self.scatter_yy)

    def extra_repr(self) -> str:
        """Constructor call."""
        exact = ", exact=True" if self.exact else ""
        return f"in_features={self.in_features}, out_features={self.out_features}{exact}"
