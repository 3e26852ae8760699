"""Translators that are one matrix between two pre-processed spaces: how it is found and kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, reduce
from operator import add
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.blocks import rows_at_once
from relreps._core.linalg import as_float64, at_least_float32, full_precision, unit_rows
from relreps._core.rounding import is_constant, rank_tolerance, rounding_of, safe_reciprocal
from relreps._core.state import check_fits
from relreps.moments import RowMoments, elementwise, finite_moments, outer, row_moments
from relreps.moments.value import BOTH, Product, times
from relreps.normalization import Affine, Center, Normalizer, StandardScale, UnitNorm
from relreps.translate.base import Translator

Preprocessing = Literal["center", "standard", "unit"] | Normalizer

_NAMED: dict[str | None, Callable[[int], Normalizer] | None] = {
    "center": Center,
    "standard": StandardScale,
    "unit": lambda in_features: UnitNorm(),
    None: None,
}
_CENTERING = ("center", "standard")


class Problem(NamedTuple):
    r"""What a matrix is found from: pairs, pre-processed to :math:`p(x)` and :math:`q(y)`.

    Attributes:
        moments: Sums over the pairs, about zero: ``xx``, ``xy`` and ``yy``, in float64.
        source: The pre-processing :math:`p`.
        target: The pre-processing :math:`q`.
        rows: Gives the pre-processed rows ``(N, D_x)``, ``(N, D_y)``, in float64. None where there
            are only sums of them.
        weights: One weight a pair, if they have any.
    """

    moments: RowMoments
    source: Affine
    target: Affine
    rows: Callable[[], tuple[Tensor, Tensor]] | None = None
    weights: Tensor | None = None


class Solution(NamedTuple):
    """A matrix between pre-processed rows, and what is known of it.

    Attributes:
        matrix: ``(D_x, D_y)``.
        inverse: What undoes it, ``(D_y, D_x)``; its pseudo-inverse by default.
        rank: Most directions that the pairs determine, where it is known to be fewer than the
            matrix has by rounding.
        offset: What is added to a moved, pre-processed row, ``(D_y,)``; nothing by default.
        buffers: Values of further buffers, by name.
    """

    matrix: Tensor
    inverse: Tensor | None = None
    rank: int | None = None
    offset: Tensor | None = None
    buffers: Mapping[str, Tensor] = MappingProxyType({})


class MatrixTranslator(Translator):
    r"""A translator that is one matrix M between two pre-processed spaces.

    .. math:: \hat y = q^{-1}(p(x)\, M)

    A subclass finds the matrix, and nothing else; the state is written here:

    .. code-block:: python

        class MeanShift(MatrixTranslator):
            def solution(self, problem):
                return Solution(torch.eye(self.in_features).to(problem.moments.xy))

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        pre: Pre-processing of both spaces: ``"center"``, ``"standard"`` (each feature by its
            deviation), ``"unit"`` (rows of length one; the average length of the target is
            restored), a normaliser for ``in_features``, of which each side gets one of its own, or
            None.

    Attributes:
        matrix: The whole map about the means, ``(D_x, D_y)``, pre-processing included.
        inverse_matrix: What undoes it, ``(D_y, D_x)``.
        mean_x: What is subtracted from a source row, ``(D_x,)``.
        mean_y: What is added to a moved row, ``(D_y,)``.
        rank: Number of directions of the map, of ``min(in_features, out_features)``.
    """

    matrix: Tensor
    inverse_matrix: Tensor
    rank: Tensor
    mean_x: Tensor
    mean_y: Tensor
    length_x: Tensor
    length_y: Tensor
    #: Moments that `solution` needs of xx and of yy: whole (`outer`) or the diagonal.
    products: tuple[Product, Product] = (elementwise, elementwise)
    #: Whether `pre` has to subtract the mean (True), must not (False), or may (None).
    centering: bool | None = None
    #: Whether directions without pairs are completed, so that there always is an inverse.
    completes = False
    _remedy = "Call `fit(x, y)` on paired rows first."

    def __init__(
        self, in_features: int, out_features: int, pre: Preprocessing | None = "center"
    ) -> None:
        super().__init__(in_features, out_features)
        self._pre = (pre, self._resolved(pre))
        self._keep_choice("pre", "another" if isinstance(pre, Normalizer) else pre, _CHOICES)
        self._invertible = False
        self.register_buffer("matrix", torch.zeros(in_features, out_features))
        self.register_buffer("inverse_matrix", torch.zeros(out_features, in_features))
        self.register_buffer("rank", torch.zeros((), dtype=torch.long))
        for side, width in (("x", in_features), ("y", out_features)):
            self.register_buffer(f"mean_{side}", torch.zeros(width))
            self.register_buffer(f"length_{side}", torch.ones(()))

    @property
    def pre(self) -> Preprocessing | None:
        """The pre-processing, as it was given."""
        return self._pre[0]

    @abstractmethod
    def solution(self, problem: Problem) -> Solution:
        """The matrix between pre-processed rows, found from their sums or from themselves."""

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default.
        """
        self._check_pairs(x, y)
        if weights is not None:
            checks.check_weights(weights, x.shape[0])
        return self._solve(self._moments(x, y, weights), (x, y), weights)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(..., D_x)`` of the source space in the target space."""
        checks.check_features("x", x, self.in_features)
        self.require_fitted(self._remedy)
        return self._move(x, self.mean_x, self.matrix, self.mean_y, self.length_y)

    def inverse(self, y: Tensor) -> Tensor:
        """Vectors ``(..., D_y)`` of the target space in the source space.

        Undoes `forward` exactly if ``in_features <= out_features`` (with ``pre="unit"``: up to the
        length of the row, and with ``"standard"``: up to constant features). Otherwise `forward`
        drops directions, and this is the shortest vector that it maps to ``y``.
        """
        checks.check_features("y", y, self.out_features)
        self.require_fitted(self._remedy)
        if not self._invertible:
            raise ValueError(
                f"This {type(self).__name__} has no inverse: it carries {int(self.rank)} of "
                f"{min(self.in_features, self.out_features)} directions (its rank), and the others "
                "are lost. Fit on more pairs, or fit a translator from the target to the source."
            )
        return self._move(y, self.mean_y, self.inverse_matrix, self.mean_x, self.length_x)

    def _move(
        self, rows: Tensor, shift: Tensor, matrix: Tensor, offset: Tensor, length: Tensor
    ) -> Tensor:
        wide = at_least_float32(rows)
        normalizer = self._pre[1]
        if normalizer is not None and normalizer.unit_rows:
            wide = unit_rows(wide)
        # The shift is subtracted, not folded into the offset: far from the origin that cancels.
        if normalizer is not None and normalizer.centers:
            wide = wide - shift.to(wide.dtype)
        with full_precision(rows):
            moved: Tensor = wide @ matrix.to(wide.dtype) + offset.to(wide.dtype)
        if normalizer is not None and normalizer.unit_rows:
            moved = moved * length.to(wide.dtype)
        return moved.to(rows.dtype)

    def _resolved(self, pre: Preprocessing | None) -> Normalizer | None:
        """The normaliser that a name stands for; what this map cannot use is refused."""
        if isinstance(pre, type):
            raise TypeError(
                f"`pre` must be a name or a normaliser, got the class {pre.__name__}. Make one: "
                f"`{pre.__name__}({self.in_features})`."
            )
        if isinstance(pre, Normalizer):
            pre.check_affine()
            width = getattr(pre, "in_features", self.in_features)
            if width != self.in_features:
                raise ValueError(f"`pre` has in_features={width}, the map {self.in_features}.")
            if self.centering not in (None, pre.centers):
                wanted = "subtract the mean" if self.centering else "leave the origin where it is"
                raise ValueError(f"`pre` must {wanted} for {type(self).__name__}, got {pre}.")
            return pre
        names = (n for n in _NAMED if self.centering in (None, n in _CENTERING))
        checks.check_choice("pre", pre, names)
        make = _NAMED[pre]
        return None if make is None else make(self.in_features)

    def _check_pairs(self, x: Tensor, y: Tensor, minimum: int = 1) -> None:
        """Refuse what are not pairs; the moments refuse what is not finite."""
        checks.check_rows("x", x, self.in_features, minimum)
        checks.check_rows("y", y, self.out_features, minimum)
        checks.check_paired(x, y)

    def _products(self) -> tuple[Product, Product, Product]:
        """How xx, xy and yy are multiplied: as the matrix needs it, and the pre-processing."""
        whole = self._pre[1] is not None and self._pre[1].product is outer
        return (outer, outer, outer) if whole else (self.products[0], outer, self.products[1])

    def _moments(self, x: Tensor, y: Tensor, weights: Tensor | None) -> RowMoments:
        """Moments of both sides; where rows count as unit rows, of these, and of their lengths."""
        normalizer = self._pre[1]
        take = partial(row_moments, pairs=BOTH, product=self._products(), exact=True)
        if normalizer is None or not normalizer.unit_rows:
            return finite_moments(partial(take, weights=weights), x, y)

        def take_unit(*rows: Tensor) -> RowMoments:
            parts = []
            step = rows_at_once(max(self.in_features, self.out_features), torch.float64, x.device)
            for start in range(0, max(len(rows[0]), 1), step):
                some = slice(start, start + step)
                wide = [as_float64(r[some]) for r in rows]
                lengths = (torch.linalg.vector_norm(r, dim=-1)[:, None] for r in wide)
                w = None if weights is None else weights[some]
                parts.append(take(*map(unit_rows, wide), *lengths, weights=w))
            return reduce(add, parts)

        eps = rounding_of(x.dtype, y.dtype) if len(x) else rounding_of(torch.float64)
        return replace(finite_moments(take_unit, x, y), eps=eps)

    def _solve(
        self,
        moments: RowMoments,
        pairs: tuple[Tensor, Tensor] | None = None,
        weights: Tensor | None = None,
        **options: Any,
    ) -> Self:
        """Pre-process, find the matrix, and write it; ``options`` are for `solution`."""
        lengths = tuple(m[0] for m in moments.means[2:]) or (torch.ones_like(moments.total),) * 2
        moments = replace(moments, means=moments.means[:2])
        source = target = Affine()
        if self._pre[1] is None or not self._pre[1].centers:
            moments = moments.about_zero()
        self._check_related(moments)
        given, normalizer = self._pre
        if normalizer is not None:
            sides = moments.of(0), moments.of(1)
            if given is normalizer:  # those that have a name refuse nothing that varies
                normalizer.refuse(sides[0], "x")
                normalizer.refuse(sides[1], "y")
            source, target = map(normalizer.affine, sides)
            moments = moments.mapped(source[:2], target[:2])
        rows = None if pairs is None else partial(self._preprocessed, *pairs, source, target)
        problem = Problem(moments, source, target, rows, weights)
        return self._write(self.solution(problem, **options), source, target, lengths)

    def _preprocessed(
        self, x: Tensor, y: Tensor, source: Affine, target: Affine
    ) -> tuple[Tensor, Tensor]:
        """Pre-processed rows, in float64."""
        rows = []
        for side, (shift, factor, _) in ((x, source), (y, target)):
            wide = as_float64(side)
            if self._pre[1] is not None and self._pre[1].unit_rows:
                wide = unit_rows(wide)
            rows.append(times(wide if shift is None else wide - shift, factor))
        return rows[0], rows[1]

    def _check_related(self, moments: RowMoments) -> None:
        """Refuse pairs that determine no direction: of one row over and over, or unrelated ones."""
        xx, xy, yy = moments.scatters
        sides = [s if s.dim() == 1 else s.diagonal() for s in (xx, yy)]
        # Feature by feature: a large constant one is not to hide another that varies.
        squares, means = torch.cat(sides), torch.cat(moments.means)
        still = is_constant(squares, squares + moments.total * means.square(), moments.eps)
        constant = [side.all() for side in still.split([len(side) for side in sides])]
        # What is left of the products is a sum in float64: its rounding decides, not that of rows.
        lengths = sides[0].sum().sqrt() * sides[1].sum().sqrt()
        rounding = max(xy.shape) * torch.finfo(torch.float64).eps * lengths
        if any(map(bool, constant)) or bool(xy.norm() <= rounding):
            raise ValueError(
                f"{type(self).__name__} cannot be fitted: `x` and `y` must vary together, but the "
                "pairs determine no direction (rank 0). Give at least two pairs with different "
                "rows on both sides."
            )

    def _write(
        self, solution: Solution, source: Affine, target: Affine, lengths: tuple[Tensor, ...]
    ) -> Self:
        """Put pre-processing and matrix together and write every buffer, once nothing can fail."""
        matrix, inverse, rank, offset, buffers = solution
        full = min(self.in_features, self.out_features)
        if inverse is None:
            inverse, live = _pseudo_inverse(matrix)
            rank = live if rank is None else min(live, rank)
        rank = full if rank is None else rank
        values = {
            "matrix": _between(source.factor, matrix, target.inverse),
            "inverse_matrix": _between(target.factor, inverse, source.inverse),
            "mean_x": torch.zeros_like(matrix[:, 0]) if source.shift is None else source.shift,
            "mean_y": torch.zeros_like(matrix[0]) if target.shift is None else target.shift,
            **dict(zip(("length_x", "length_y"), lengths, strict=True)),
            **buffers,
        }
        if offset is not None:
            values["mean_y"] = values["mean_y"] + times(offset, target.inverse)
        check_fits(type(self).__name__, values, {n: getattr(self, n).dtype for n in values})
        for name, value in values.items():
            getattr(self, name).copy_(value)
        self.rank.fill_(rank)
        self._invertible = self.completes or rank == full
        self.mark_fitted()
        return self

    def _on_load(self) -> None:
        if not self.rank.is_meta:
            full = min(self.in_features, self.out_features)
            self._invertible = self.completes or int(self.rank) == full


_CHOICES = (*_NAMED, "another")


def _between(left: Tensor | None, matrix: Tensor, right: Tensor | None) -> Tensor:
    """A matrix with what stands on either side of it folded in."""
    if left is not None:
        matrix = left @ matrix if left.dim() == 2 else left[..., None] * matrix
    return matrix if right is None else times(matrix, right)


def _pseudo_inverse(matrix: Tensor) -> tuple[Tensor, int]:
    """Pseudo-inverse and rank of a matrix that was solved for in float64."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    live = s > rank_tolerance(max(matrix.shape), torch.finfo(s.dtype).eps) * s[0]
    return (vh.mT * torch.where(live, safe_reciprocal(s), 0)) @ u.mT, int(live.sum())
