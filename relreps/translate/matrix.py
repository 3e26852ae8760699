"""Translators that are one matrix between two pre-processed spaces: how it is found and kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial, reduce
from operator import add
from typing import Any, Literal, Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.blocks import rows_at_once
from relreps._core.linalg import as_float64, at_least_float32, full_precision, unit_rows
from relreps._core.rounding import rounding_of, safe_norm
from relreps._core.state import check_fits
from relreps._core.warnings import warn
from relreps.moments import RowMoments, elementwise, finite_moments, outer, row_moments
from relreps.moments.value import BOTH, Product, times
from relreps.normalization import Affine, Center, Normalizer, StandardScale, UnitNorm
from relreps.translate.base import Translator
from relreps.translate.problem import Problem, Solution, assembled, check_related

Preprocessing = Literal["center", "standard", "unit"] | Normalizer

_NAMED: dict[str | None, Callable[[int], Normalizer] | None] = {
    "center": Center,
    "standard": StandardScale,
    "unit": lambda in_features: UnitNorm(),
    None: None,
}
_CENTERING = ("center", "standard")

#: What is done to a moved row at the end, by name.
Post = Literal["unit"]

#: Share by which lengths that are meant to be one may differ from it: half types keep three digits.
_UNIT = 1e-3
#: Share by which moved rows may miss that length before it is said, and how many of them are tried.
_OFF, _TRIED = 1e-2, 256


class MatrixTranslator(Translator):
    r"""A translator that is one matrix M between two pre-processed spaces.

    .. math:: \hat y = q^{-1}(p(x)\, M)

    Two further steps are options. ``rescale`` gives back the spread about the mean
    :math:`\mu_y` of the target (the origin, where `pre` leaves it), which a map that hedges
    takes: every moved row is brought as far from it as a target row is in the root mean square.
    ``post="unit"`` then brings it to length one:

    .. math:: \mu_y + \rho\, \frac{\hat y - \mu_y}{\lVert \hat y - \mu_y \rVert},
              \qquad \rho^2 = \frac{\sum_i w_i \lVert y_i - \mu_y \rVert^2}{\sum_i w_i}
              = \operatorname{tr} C_{yy},
              \qquad\text{and}\quad \frac{\hat y}{\lVert \hat y \rVert}

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
        post: ``"unit"`` brings moved rows to length one, for an index of such rows; None.
        rescale: Whether the spread of the target is restored; None where that is no option.

    Warns:
        NumericalWarning: In `fit`, if all target rows have length one and moved rows have not.

    Attributes:
        matrix: The whole map about the means, ``(D_x, D_y)``, pre-processing included.
        inverse_matrix: What undoes it, ``(D_y, D_x)``.
        mean_x: What is subtracted from a source row, ``(D_x,)``.
        mean_y: What is added to a moved row, ``(D_y,)``.
        spread_y: The :math:`\rho` of ``rescale``, if that is an option.
        rank: Number of directions of the map, of ``min(in_features, out_features)``.
    """

    matrix: Tensor
    inverse_matrix: Tensor
    rank: Tensor
    mean_x: Tensor
    mean_y: Tensor
    length_x: Tensor
    length_y: Tensor
    spread_y: Tensor
    #: Sums that a stream goes on from, and whether they are those of the pairs of all processes.
    _seen: RowMoments | None = None
    _reduced = False
    #: Moments that `solution` needs of xx and of yy: whole (`outer`) or the diagonal.
    products: tuple[Product, Product] = (elementwise, elementwise)
    #: Whether `pre` has to subtract the mean (True), must not (False), or may (None).
    centering: bool | None = None
    #: Whether there is an inverse though directions are dropped: these come back as the mean.
    partial_inverse: bool = False
    _remedy = "Call `fit(x, y)` on paired rows first."

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pre: Preprocessing | None = "center",
        *,
        post: Post | None = None,
        rescale: bool | None = None,
    ) -> None:
        super().__init__(in_features, out_features)
        self._pre = (pre, self._resolved(pre))
        if post is not None:
            checks.check_choice("post", post, _POSTS)
        self.post, self.rescale = post, rescale
        named = "another" if isinstance(pre, Normalizer) else pre
        self._keep_choices(pre=(named, _CHOICES), post=(post, _POSTS))
        if rescale is not None:
            checks.check_choice("rescale", rescale, (False, True))
            self._keep_choices(rescale=(rescale, (False, True)))
            self.register_buffer("spread_y", torch.ones(()))
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
        state = self.mean_x, self.matrix, self.mean_y, self.length_y
        return self._moved(x, *state, self.spread_y if self.rescale else None)

    def inverse(self, y: Tensor) -> Tensor:
        """Vectors ``(..., D_y)`` of the target space in the source space.

        Undoes `forward` exactly if ``in_features <= out_features`` (with ``pre="unit"``: up to the
        length of the row, and with ``"standard"``: up to constant features). Otherwise `forward`
        drops directions, and this is the shortest vector that it maps to ``y``. What ``rescale``
        and ``post`` have done is not undone, as they forget a length: after ``rescale`` a row comes
        back in its direction from the mean.
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

    def _moved(self, x: Tensor, *state: Tensor | None) -> Tensor:
        """What `forward` gives, from state that is given."""
        moved = self._move(at_least_float32(x), *state)  # type: ignore[arg-type]
        return (moved if self.post is None else unit_rows(moved)).to(x.dtype)

    def _move(
        self,
        rows: Tensor,
        shift: Tensor,
        matrix: Tensor,
        offset: Tensor,
        length: Tensor,
        spread: Tensor | None = None,
    ) -> Tensor:
        wide = at_least_float32(rows)
        normalizer = self._pre[1]
        if normalizer is not None and normalizer.unit_rows:
            wide = unit_rows(wide)
        # The shift is subtracted, not folded into the offset: far from the origin that cancels.
        if normalizer is not None and normalizer.centers:
            wide = wide - shift.to(wide.dtype)
        with full_precision(rows):
            moved: Tensor = wide @ matrix.to(wide.dtype)
        if spread is not None:
            moved = unit_rows(moved) * spread.to(wide.dtype)
        moved = moved + offset.to(wide.dtype)
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
        *,
        seen: tuple[RowMoments, bool] | None = None,
        **options: Any,
    ) -> Self:
        """Pre-process, find the matrix, and write it; ``options`` are for `solution`.

        ``seen`` are sums that a stream goes on from, and whether they are those of all processes.
        """
        lengths = tuple(m[0] for m in moments.means[2:]) or (torch.ones_like(moments.total),) * 2
        moments = replace(moments, means=moments.means[:2])
        source = target = Affine()
        if self._pre[1] is None or not self._pre[1].centers:
            moments = moments.about_zero()
        squares = check_related(type(self).__name__, moments)[self.in_features :].sum()
        values = dict(zip(("length_x", "length_y"), lengths, strict=True))
        if self.rescale:
            values["spread_y"] = (moments.diagonal(1).sum() / moments.total).sqrt()
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
        solution = self.solution(problem, **options)
        found, rank = assembled(solution, source, target)
        values |= found
        if self.post is None and abs(float(squares) - 1) < 2 * _UNIT:
            self._warn_of_lengths(pairs, values)
        check_fits(type(self).__name__, values, {n: getattr(self, n).dtype for n in values})
        # Nothing can fail from here on.
        full = min(self.in_features, self.out_features)
        changed: dict[str, Any] = {"_invertible": self.partial_inverse or rank == full}
        if seen is not None:
            changed |= {"_seen": seen[0], "_reduced": seen[1]}
        self._keep({**values, "rank": rank}, **changed)
        return self

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

    def _warn_of_lengths(
        self, pairs: tuple[Tensor, Tensor] | None, values: dict[str, Tensor]
    ) -> None:
        """Say that target rows have length one and moved ones have not, if the rows are there."""
        if pairs is None or bool(((safe_norm(as_float64(pairs[1])) - 1).abs() > _UNIT).any()):
            return
        names = ("mean_x", "matrix", "mean_y", "length_y", "spread_y")
        some = as_float64(pairs[0][:_TRIED])
        low, high = safe_norm(self._moved(some, *(values.get(n) for n in names))).aminmax()
        if low < 1 - _OFF or high > 1 + _OFF:
            warn(
                f"the rows of `y` have length one, and moved rows have {float(low):.2f} to "
                f"{float(high):.2f}, which counts where they are searched by inner product. Build "
                "the translator with `post='unit'`, or bring what it gives to length one."
            )

    def _on_load(self) -> None:
        if not self.rank.is_meta:
            full = min(self.in_features, self.out_features)
            self._invertible = self.partial_inverse or int(self.rank) == full


_CHOICES = (*_NAMED, "another")
_POSTS = (None, "unit")
