"""Counts, means and centred products of rows, in float64: a value that is added up.

Normalisers, translators and measures all rest on these few sums, so they are kept in one form. Any
order of adding gives the same moments up to float64 rounding. `relreps.moments.rows` takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core.distributed import all_reduce_sum
from relreps._core.rounding import is_constant, rounding_of, safe_sqrt, unit_of

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
        units: What each feature was divided by before it was multiplied, :math:`(D_i,)` for each
            side, in ``scatters`` and nowhere else: where squares are no numbers. None is 1.
    """

    total: Tensor
    means: tuple[Tensor, ...]
    scatters: tuple[Tensor, ...]
    pairs: Pairs
    squares: Tensor
    eps: float
    units: tuple[Tensor, ...] | None = None

    def __add__(self, other: RowMoments) -> RowMoments:
        if self.units is not None or other.units is not None:
            sizes = zip(self._sizes(), other._sizes(), strict=True)
            common = tuple(unit_of(torch.maximum(a, b)) for a, b in sizes)
            return self.within(common)._plus(other.within(common))
        return self._plus(other)

    def _plus(self, other: RowMoments) -> RowMoments:
        """The sum with one in the same units."""
        # With weights V, W and means m, m + d of the two, the mean of all is m + d W / (V + W), and
        # the products about it are those about either mean and, of the shifts to the common one,
        #   V (d W / (V + W))² + W (d V / (V + W))² = d² V W / (V + W)
        # (Chan, Golub and LeVeque 1983). Nothing large is subtracted.
        total = self.total + other.total
        share = other.total / torch.where(total > 0, total, 1)
        steps = tuple(b - a for a, b in zip(self.means, other.means, strict=True))
        means = tuple(mean + step * share for mean, step in zip(self.means, steps, strict=True))
        if self.units is not None:
            steps = tuple(step / unit for step, unit in zip(steps, self.units, strict=True))
        return RowMoments(
            total,
            means,
            tuple(
                a + b + _like(a)(steps[i][None], steps[j][None]) * (self.total * share)
                for a, b, (i, j) in zip(self.scatters, other.scatters, self.pairs, strict=True)
            ),
            self.pairs,
            self.squares + other.squares,
            max(self.eps, other.eps),
            self.units,
        )

    def __sub__(self, other: RowMoments) -> RowMoments:
        return self + replace(
            other,
            total=-other.total,
            scatters=tuple(-s for s in other.scatters),
            squares=-other.squares,
        )

    def __mul__(self, factor: float | Tensor) -> RowMoments:
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
            units=self.units and tuple(unit.to(device) for unit in self.units),
        )

    def within(self, units: tuple[Tensor, ...]) -> RowMoments:
        """The same with products in other units, one ``(D_i,)`` for each side."""
        factors = [1 / u for u in units]
        if self.units is not None:
            factors = [own / u for own, u in zip(self.units, units, strict=True)]
        scaled = []
        for scatter, (i, j) in zip(self.scatters, self.pairs, strict=True):
            left = factors[i][:, None] if scatter.dim() == 2 else factors[i]
            scaled.append(scatter * left * factors[j])  # by one, then the other: they are extreme
        return replace(self, scatters=tuple(scaled), units=units)

    def plain(self) -> RowMoments:
        """The same without units."""
        if self.units is None:
            return self
        return replace(self.within(tuple(map(torch.ones_like, self.units))), units=None)

    def _sizes(self) -> tuple[Tensor, ...]:
        """Of each feature, the mean or the deviation, whichever is larger: 0 where all are."""
        sizes = []
        for i, mean in enumerate(self.means):
            scatter = self.scatters[self.pairs.index((i, i))]
            spread = safe_sqrt(_diagonal(scatter) / self.total)
            own = spread if self.units is None else spread * self.units[i]
            sizes.append(torch.maximum(mean.abs(), torch.where(self.total != 0, own, 0)).detach())
        return tuple(sizes)

    def all_reduced(self, group: dist.ProcessGroup | None = None) -> RowMoments:
        """Moments of the rows of all processes together; their sizes have to agree.

        A process without rows adds nothing. Two ``all_reduce``: the means, which are little, and
        what they are the common shift for, about which the scatters are plain sums.
        """
        if self.units is not None:
            return self.plain().all_reduced(group)
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
            units=self.units and tuple(self.units[i] for i in sides),
        )

    def mapped(self, *maps: Map) -> RowMoments:
        """Moments after each side went through ``(x - shift) * factor``, or ``@ factor``.

        Args:
            maps: ``(shift, factor)`` for each side: a shift ``(D,)`` or None, and a factor, which
                is one number a feature ``(D,)``, a scalar, a matrix ``(D, D')`` or None.
        """
        if self.units is not None:
            return self.plain().mapped(*maps)
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
        if self.units is not None:
            return self.plain().about_zero()
        added = (
            s + self.total * _like(s)(self.means[i][None], self.means[j][None])
            for s, (i, j) in zip(self.scatters, self.pairs, strict=True)
        )
        means = tuple(torch.zeros_like(m) for m in self.means)
        return replace(self, means=means, scatters=tuple(added))

    @property
    def xx(self) -> Tensor:
        """Products of the first side with itself, ``(D, D)`` or ``(D,)``."""
        return self.plain().scatters[0]

    @property
    def xy(self) -> Tensor:
        """Products of two sides, ``(D, E)``."""
        return self.plain().scatters[self.pairs.index((0, 1))]

    @property
    def yy(self) -> Tensor:
        """Products of the second side with itself, ``(E, E)`` or ``(E,)``."""
        return self.plain().scatters[self.pairs.index((1, 1))]

    def diagonal(self, side: int = 0) -> Tensor:
        """Sum of the squares of each feature of a side, ``(D,)``."""
        return _diagonal(self.plain().scatters[self.pairs.index((side, side))])

    def deviations(self, side: int = 0) -> Tensor:
        """Population deviation of each feature of a side, ``(D,)``; exactly 0 if it is rounding."""
        centered = _diagonal(self.scatters[self.pairs.index((side, side))]) / self.total
        mean = self.means[side] if self.units is None else self.means[side] / self.units[side]
        constant = is_constant(centered, mean**2, self.eps)
        found = safe_sqrt(torch.where(constant, 0, centered))
        return found if self.units is None else found * self.units[side]

    @property
    def effective_rows(self) -> float:
        r"""Number of rows of equal weight that weigh as much, :math:`W^2 / \sum w^2`."""
        return float(self.total**2 / self.squares)


def _diagonal(scatter: Tensor) -> Tensor:
    return scatter if scatter.dim() == 1 else scatter.diagonal()


def _like(scatter: Tensor) -> Product:
    """The product that a scatter is a sum of."""
    return outer if scatter.dim() == 2 else elementwise


def times(rows: Tensor, factor: Tensor | None) -> Tensor:
    """Rows by one number each feature, by one for all, or by a matrix; None changes nothing."""
    if factor is None:
        return rows
    factor = factor.to(rows.dtype)
    return rows @ factor if factor.dim() == 2 else rows * factor
