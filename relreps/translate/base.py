"""What translators have in common: pre-processing as a part of the map, its inverse, its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial, reduce
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import (
    as_float64,
    at_least_float32,
    full_precision,
    rank_tolerance,
    unit_rows,
)
from relreps._core.rounding import safe_reciprocal
from relreps._core.state import FittedModule
from relreps.moments.value import (
    Product,
    RowMoments,
    elementwise,
    finite_moments,
    merged,
    row_moments,
)
from relreps.normalization import deviations

Preprocessing = Literal["center", "standard", "unit"]

#: Rows that are brought to length one at a time, so that they need little memory.
_UNIT_ROWS = 8192


class Side(NamedTuple):
    """Pre-processing of one space, in float64.

    Attributes:
        mean: What is subtracted from its rows, :math:`(D,)`.
        std: What one unit of a pre-processed feature is worth, :math:`(D,)`: deviations, or for
            ``"unit"`` the average length of the rows.
    """

    mean: Tensor
    std: Tensor


class Translator(FittedModule, ABC):
    r"""A linear map between two pre-processed spaces, into the *original* target space.

    .. math:: \hat y = q^{-1}(p(x)\, M)

    ``forward`` and ``inverse`` are here. A subclass calls ``super().__init__`` and writes `fit`:
    `_checked` the pairs, `_prepared` them, find the matrix between the prepared rows, `_write` it:

    .. code-block:: python

        @torch.no_grad()
        def fit(self, x, y, weights=None):
            self._checked(x, y, weights)
            left, right, sides = self._prepared(x, y, weights)  # float64 rows p(x), q(y)
            return self._write(sides, matrix=some_matrix(left, right))

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        pre: ``"center"``, ``"standard"`` (each feature by its deviation), ``"unit"`` (rows of
            length one; the average length of the target is restored) or None.

    Attributes:
        rank: Number of directions of the map, of ``min(in_features, out_features)``.
    """

    matrix: Tensor
    inverse_matrix: Tensor
    rank: Tensor
    mean_x: Tensor
    mean_y: Tensor
    std_x: Tensor
    std_y: Tensor
    _remedy = "Call `fit(x, y)` on paired rows first."

    def __init__(
        self, in_features: int, out_features: int, pre: Preprocessing | None = "center"
    ) -> None:
        super().__init__()
        checks.check_size("in_features", in_features)
        checks.check_size("out_features", out_features)
        checks.check_choice("pre", pre, (*get_args(Preprocessing), None))
        self.in_features, self.out_features, self.pre = in_features, out_features, pre
        self._keep_choice("pre", pre, (*get_args(Preprocessing), None))
        self._full_rank = False
        self._register_map()
        self.register_buffer("rank", torch.zeros((), dtype=torch.long))
        for side, width in (("x", in_features), ("y", out_features)):
            self.register_buffer(f"mean_{side}", torch.zeros(width))
            self.register_buffer(f"std_{side}", torch.ones(width))

    @abstractmethod
    def fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(..., D_x)`` of the source space in the target space."""
        checks.check_features("x", x, self.in_features)
        self._require_fitted(self._remedy)
        return self._move(x, ("x", "y"), self.matrix)

    def inverse(self, y: Tensor) -> Tensor:
        """Vectors ``(..., D_y)`` of the target space in the source space.

        Undoes `forward` exactly if ``in_features <= out_features`` (with ``pre="unit"``: up to the
        length of the row, and with ``"standard"``: up to constant features). Otherwise `forward`
        drops directions, and this is the shortest vector that it maps to ``y``.
        """
        checks.check_features("y", y, self.out_features)
        self._require_fitted(self._remedy)
        if not self._full_rank:
            raise ValueError(
                f"This {type(self).__name__} has no inverse: it carries {int(self.rank)} of "
                f"{min(self.in_features, self.out_features)} directions (its rank), and the others "
                "are lost. Fit on more pairs, or fit a translator from the target to the source."
            )
        return self._move(y, ("y", "x"), self.inverse_matrix)

    def extra_repr(self) -> str:
        """Constructor call."""
        return ", ".join((f"{self.in_features}, {self.out_features}", *self._options()))

    # What a subclass may give.

    def _register_map(self) -> None:
        """Allocate what `matrix` and `inverse_matrix` are read from."""
        self.register_buffer("matrix", torch.zeros(self.in_features, self.out_features))
        self.register_buffer("inverse_matrix", torch.zeros(self.out_features, self.in_features))

    def _options(self) -> list[str]:
        """Constructor arguments after the sizes, as they are written in a call."""
        return [f"pre={self.pre!r}"]

    # What it gets.

    def _checked(self, x: Tensor, y: Tensor, weights: Tensor | None, minimum: int = 1) -> None:
        """Refuse what are not pairs; `_prepared` and the moments refuse what is not finite."""
        checks.check_rows("x", x, self.in_features, minimum)
        checks.check_rows("y", y, self.out_features, minimum)
        checks.check_paired(x, y)
        if weights is not None:
            checks.check_weights(weights, x.shape[0])

    def _prepared(
        self, x: Tensor, y: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor, tuple[Side, Side]]:
        """The pairs pre-processed, in float64, and what that was done with."""
        moments = self._row_moments(x, y, weights, ((0, 0), (1, 1)), (elementwise, elementwise))
        dtype = coarser(x.dtype, y.dtype)
        sides, levels = self._sides(moments, dtype), self._levels(moments, dtype)
        left, right = (
            self._pre(as_float64(rows), side) * level
            for rows, side, level in zip((x, y), sides, levels, strict=True)
        )
        return left, right, sides

    def _refuse_unrelated(self, cross: Tensor, squares_x: Tensor, squares_y: Tensor) -> None:
        """Refuse pairs that determine no direction, from products and squares of prepared rows."""
        lengths = squares_x.sqrt() * squares_y.sqrt()
        if cross.norm() <= rank_tolerance(lengths[None], cross.shape):
            raise ValueError(
                f"{type(self).__name__} cannot be fitted: `x` and `y` must vary together, but the "
                "pairs determine no direction (rank 0). Give at least two pairs with different "
                "rows on both sides."
            )

    def _write(
        self,
        sides: tuple[Side, Side],
        *,
        matrix: Tensor,
        inverse: Tensor | None = None,
        rank: int | None = None,
    ) -> Self:
        """Take over a fitted map; the last line of a `fit`.

        Args:
            sides: What `_prepared` gave.
            matrix: Map between pre-processed rows, ``(D_x, D_y)``.
            inverse: What undoes it, ``(D_y, D_x)``; its pseudo-inverse by default.
            rank: Most directions that the pairs determine, where it is known to be fewer than the
                matrix has by rounding. Below ``min(D_x, D_y)`` the map has no inverse.
        """
        if inverse is None:
            u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
            live = s > rank_tolerance(s, matrix.shape)
            rank = min(int(live.sum()), len(s) if rank is None else rank)
            inverse = (vh.mT * torch.where(live, safe_reciprocal(s), 0)) @ u.mT
        full = min(self.in_features, self.out_features)
        return self._store(
            sides, full if rank is None else rank, matrix=matrix, inverse_matrix=inverse
        )

    def _store(self, sides: tuple[Side, Side], rank: int, **values: Tensor) -> Self:
        """Write every buffer, once nothing can fail any more."""
        for name, side in zip("xy", sides, strict=True):
            values[f"mean_{name}"], values[f"std_{name}"] = side
        self._check_fits(**values)
        for name, value in values.items():
            getattr(self, name).copy_(value)
        self.rank.fill_(rank)
        self._full_rank = rank == min(self.in_features, self.out_features)
        self._mark_fitted()
        return self

    def _on_load(self) -> None:
        if not self.rank.is_meta:
            self._full_rank = int(self.rank) == min(self.in_features, self.out_features)

    def _row_moments(
        self,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        pairs: tuple[tuple[int, int], ...],
        products: tuple[Product, ...],
    ) -> RowMoments:
        """Moments of both sides; for ``"unit"`` of the unit rows, and of their lengths."""
        take = partial(row_moments, pairs=pairs, product=products, exact=True)

        def take_unit(*rows: Tensor) -> RowMoments:
            parts = []
            for start in range(0, max(len(rows[0]), 1), _UNIT_ROWS):
                some = slice(start, start + _UNIT_ROWS)
                wide = [as_float64(r[some]) for r in rows]
                lengths = (torch.linalg.vector_norm(r, dim=-1)[:, None] for r in wide)
                w = None if weights is None else weights[some]
                parts.append(take(*map(unit_rows, wide), *lengths, weights=w))
            return reduce(partial(merged, pairs=pairs, product=products), parts)

        if self.pre == "unit":
            return finite_moments(take_unit, x, y)
        return finite_moments(partial(take, weights=weights), x, y)

    def _sides(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Side, Side]:
        """Pre-processing that follows from the moments (xx first, yy last) of rows of ``dtype``."""
        sides = []
        for i, scatter in zip((0, 1), (moments.scatters[0], moments.scatters[-1]), strict=True):
            mean = moments.means[i]
            std = torch.ones_like(mean)
            if self.pre == "standard":
                variances = RowMoments(moments.total, (mean,), (diagonal(scatter),))
                std = deviations(variances, dtype)
            elif self.pre == "unit":
                std = std * moments.means[2 + i]
            sides.append(Side(mean if self._centres else torch.zeros_like(mean), std))
        return sides[0], sides[1]

    def _levels(self, moments: RowMoments, dtype: torch.dtype) -> list[float]:
        """For each side 1, or 0 if it has one row over and over, of which only rounding is left."""
        if not self._centres:
            return [1.0, 1.0]
        eps = torch.finfo(dtype).eps
        return [_varies(moments, i, eps) for i in (0, 1)]

    @property
    def _centres(self) -> bool:
        return self.pre in ("center", "standard")

    def _pre(self, rows: Tensor, side: Side) -> Tensor:
        if self.pre == "unit":
            return unit_rows(rows)
        if self.pre is None:
            return rows
        rest = rows - side.mean
        return rest * safe_reciprocal(side.std) if self.pre == "standard" else rest

    def _move(self, rows: Tensor, names: tuple[str, str], matrix: Tensor) -> Tensor:
        wide = at_least_float32(rows)
        source, target = (
            Side(*(getattr(self, f"{part}_{name}").to(wide.dtype) for part in ("mean", "std")))
            for name in names
        )
        # The offset is subtracted, not folded into a bias: far from the origin that would cancel.
        # The deviations do fold into the matrix, which is the smaller side of the product.
        matrix = matrix.to(wide.dtype) * target.std
        if self.pre == "unit":
            wide = unit_rows(wide)
        elif self.pre is not None:
            wide = wide - source.mean
        if self.pre == "standard":
            matrix = safe_reciprocal(source.std)[:, None] * matrix
        with full_precision(rows):
            moved: Tensor = wide @ matrix + target.mean
        return moved.to(rows.dtype)


def _varies(moments: RowMoments, side: int, eps: float) -> float:
    """1.0, or 0.0 if the rows of a side are all equal up to rounding."""
    scatter = moments.scatters[-side]  # of xx, or of yy
    rest = diagonal(scatter).sum()
    whole = rest + moments.total * moments.means[side].square().sum()
    return float(rest > (10 * eps) ** 2 * whole)


def diagonal(scatter: Tensor) -> Tensor:
    """The diagonal of a whole second moment, or what was taken of it alone."""
    return scatter if scatter.dim() == 1 else scatter.diagonal()


def coarser(*dtypes: torch.dtype) -> torch.dtype:
    """The type that rows of these types are rounded to at best; half types count as float32."""
    return torch.float64 if set(dtypes) == {torch.float64} else torch.float32
