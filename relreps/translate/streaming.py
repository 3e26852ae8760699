"""Translators that follow from second moments: fitted in a stream, and by several processes."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core.distributed import all_reduce_sum, check_agreement
from relreps._core.rounding import safe_reciprocal
from relreps.moments import Moments
from relreps.moments.value import (
    Product,
    RowMoments,
    all_reduced,
    check_chunk_weights,
    merged,
    outer,
    tallies,
)
from relreps.translate.base import Preprocessing, Side, Translator, diagonal


class PairMoments(NamedTuple):
    r"""Sums over pre-processed pairs, in float64: what a map from moments is solved from.

    Attributes:
        total: Total weight of the pairs.
        xx: Sum of :math:`p(x) p(x)^\top`, ``(D_x, D_x)``, or its diagonal.
        xy: Sum of :math:`p(x) q(y)^\top`, ``(D_x, D_y)``.
        yy: Sum of :math:`q(y) q(y)^\top`, ``(D_y, D_y)``, or its diagonal.
        pairs: Number of equal pairs that weigh as much as these do,
            :math:`(\sum_i w_i)^2 / \sum_i w_i^2`.
        eps: Relative rounding of the rows.
    """

    total: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    pairs: float
    eps: float

    @property
    def trace_xx(self) -> Tensor:
        """Sum of the squared lengths of the source rows."""
        return diagonal(self.xx).sum()

    @property
    def trace_yy(self) -> Tensor:
        """Sum of the squared lengths of the target rows."""
        return diagonal(self.yy).sum()


class Rows(NamedTuple):
    """Pairs as they were given to `fit`."""

    x: Tensor
    y: Tensor
    weights: Tensor | None


class _Seen(NamedTuple):
    """What is remembered of pairs: their moments, their `tallies`, and whether of all processes."""

    moments: RowMoments
    tallies: Tensor
    reduced: bool

    @property
    def dtype(self) -> torch.dtype:
        """The coarsest type of the rows: float32 or float64."""
        return torch.float32 if bool(self.tallies[1] > 0) else torch.float64


class MomentTranslator(Translator):
    r"""A translator that follows from means and second moments, so it can be fitted in a stream.

    `fit` on all pairs, `partial_fit` on any chunks of them and `solve`, and the same under several
    processes with `all_reduce` in between give the same map, up to rounding. The moments are
    O((D_x + D_y)^2) numbers in float64, and are not in a checkpoint: to go on after loading, keep
    a `relreps.Moments` and `solve` for it, or begin with `fit`.

    A subclass says in `_products` which second moments it needs in full (`outer`) or only the
    diagonal of (`elementwise`), and gives `_learn`, which ends in `_write`.
    """

    _remedy = "Call `fit(x, y)` on paired rows first, or `partial_fit(x, y)` and then `solve()`."
    #: Of xx and yy; the cross-moment xy is always whole.
    _products: tuple[Product, Product] = (outer, outer)
    _pairs = ((0, 0), (0, 1), (1, 1))

    def __init__(
        self, in_features: int, out_features: int, pre: Preprocessing | None = "center"
    ) -> None:
        super().__init__(in_features, out_features, pre)
        self._seen: _Seen | None = None

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default. Only their ratios matter:
                to the map, a weight of 2 is a pair given twice. A ridge that is chosen from the
                data takes it for one pair all the same, of twice the precision.
        """
        self._checked(x, y, weights)
        seen = self._take(x, y, weights)
        self._solve(seen, Rows(x, y, weights))
        self._seen = seen
        return self

    @torch.no_grad()
    def partial_fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Add pairs to those of earlier calls, in constant memory; `solve` makes the map of them.

        Args:
            x: Source rows ``(N, D_x)``; none at all are allowed.
            y: Target rows ``(N, D_y)`` of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default. All may be 0.
        """
        self._checked(x, y, None, minimum=0)
        if weights is not None:
            check_chunk_weights(weights, len(x))
        if self._seen is None and self._fitted:
            raise RuntimeError(
                f"{type(self).__name__} has a map without the sums behind it, which are not in a "
                "checkpoint. Call `fit` to start anew."
            )
        new = self._take(x, y, weights)
        if self._seen is not None:
            device = new.tallies.device
            new = _Seen(
                merged(self._seen.moments.to(device), new.moments, self._pairs, self._each),
                self._seen.tallies.to(device) + new.tallies,
                self._seen.reduced,
            )
        self._seen = new
        return self

    @torch.no_grad()
    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Add up the pairs that all processes of ``group`` have seen, in each of them.

        Call it once, in every process, after the last `partial_fit` and before `solve`. A process
        may have seen no pairs. What holds the pairs of all processes already is refused, as they
        would be counted again: for pairs that come later, keep `relreps.Moments`.

        Args:
            group: The processes; all of them by default.

        Raises:
            ValueError: In every process, if their translators differ in class, sizes or options.
            RuntimeError: There is no process group, or the pairs were added up before.
        """
        reduced = self._seen is not None and self._seen.reduced
        check_agreement("The translator", f"{self}{' after all_reduce' * reduced}", group)
        if reduced:
            raise RuntimeError(
                f"{type(self).__name__} holds the pairs of all processes already: another "
                "`all_reduce` would count them again. Put later pairs into `relreps.Moments`, "
                "reduce these, `merge` them with those so far, and `solve` for them."
            )
        x, y = (self.mean_x.new_zeros(0, n) for n in (self.in_features, self.out_features))
        own = self._seen or self._take(x, y, None)
        self._seen = _Seen(
            all_reduced(own.moments, self._pairs, self._each, group),
            all_reduce_sum(own.tallies, group=group)[0],
            True,
        )
        return self

    @torch.no_grad()
    def solve(self, moments: Moments | None = None) -> Self:
        """Make the map of all pairs seen so far; on an error the one before stays.

        Args:
            moments: A stream of your own, to solve for instead of what `partial_fit` has seen:
                kept in a checkpoint, with pairs taken away again, or with old ones forgotten.
                Build it by ``Moments(in_features, out_features, exact=True)``. Not with
                ``pre="unit"``, which needs the lengths of the rows.

        Raises:
            RuntimeError: No pairs were seen.
            ValueError: They do not suffice, or ``moments`` are of other sizes.
        """
        seen = self._seen if moments is None else self._adopted(moments)
        if seen is None or not bool(seen.moments.total > 0):
            raise RuntimeError(
                f"{type(self).__name__} has seen no pairs to solve for. "
                "Call `partial_fit(x, y)` first."
            )
        self._solve(seen, None)
        self._seen = seen
        return self

    @abstractmethod
    def _learn(self, m: PairMoments, sides: tuple[Side, Side], rows: Rows | None) -> None:
        """Find the map between pre-processed rows, and `_write` it. Only `fit` has ``rows``."""

    def _check_related(self, m: PairMoments) -> None:
        """Refuse pairs that determine no direction at all."""
        self._refuse_unrelated(m.xy, m.trace_xx, m.trace_yy)

    @property
    def _each(self) -> tuple[Product, ...]:
        return self._products[0], outer, self._products[1]

    def _take(self, x: Tensor, y: Tensor, weights: Tensor | None) -> _Seen:
        moments = self._row_moments(x, y, weights, self._pairs, self._each)
        return _Seen(moments, tallies((x, y), weights, moments.total), False)

    def _adopted(self, moments: Moments) -> _Seen:
        """What was seen by a stream of the user."""
        sizes = (self.in_features, self.out_features)
        if not isinstance(moments, Moments) or not (
            moments.exact and (moments.in_features, moments.out_features) == sizes
        ):
            raise ValueError(
                f"`moments` must be Moments({self.in_features}, {self.out_features}, exact=True), "
                f"got {moments}."
            )
        if self.pre == "unit":
            raise ValueError(
                "`moments` do not have the lengths of the rows, which `pre='unit'` needs. Use "
                "`partial_fit`, or bring the rows to length one and take `pre=None`."
            )
        total, means, whole = moments.state()
        scatters = tuple(
            (s if times is outer else s.diagonal()).clone()
            for s, times in zip(whole, self._each, strict=True)
        )
        state = RowMoments(total.clone(), tuple(mean.clone() for mean in means), scatters)
        return _Seen(state, moments.tallies.clone(), bool(moments.reduced))

    def _solve(self, seen: _Seen, rows: Rows | None) -> None:
        """The map of what was seen, from the moments of the pre-processed rows."""
        moments = seen.moments
        sides = self._sides(moments, seen.dtype)
        pairs = float(moments.total**2 / seen.tallies[0])
        levels = self._levels(moments, seen.dtype)
        sums = []
        for scatter, (i, j), times in zip(moments.scatters, self._pairs, self._each, strict=True):
            if self.pre == "standard":
                scatter = scatter * times(*(safe_reciprocal(sides[k].std)[None] for k in (i, j)))
            elif not self._centres:
                a, b = (moments.means[k][None] for k in (i, j))
                scatter = scatter + moments.total * times(a, b)
            sums.append(scatter * (levels[i] * levels[j]))
        xx, xy, yy = sums
        m = PairMoments(moments.total, xx, xy, yy, pairs, torch.finfo(seen.dtype).eps)
        self._learn(m, sides, rows)

    def _on_load(self) -> None:
        super()._on_load()
        self._seen = None
