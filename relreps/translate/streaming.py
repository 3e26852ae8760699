"""Translators that follow from second moments: fitted in a stream, and by several processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core import checks
from relreps._core.distributed import check_agreement
from relreps.moments import Moments, RowMoments, outer
from relreps.moments.rows import check_chunk_weights
from relreps.translate.matrix import MatrixTranslator


class MomentTranslator(MatrixTranslator):
    r"""A translator that follows from means and second moments, so it can be fitted in a stream.

    `fit` on all pairs, `partial_fit` on any chunks of them and `solve`, and the same under several
    processes with `all_reduce` in between give the same map, up to rounding. The moments are
    O((D_x + D_y)^2) numbers in float64, and are not in a checkpoint: to go on after loading, keep
    a `relreps.Moments` and `solve` for it, or begin with `fit`.

    A subclass says in `products` which second moments it needs in full (`outer`) or only the
    diagonal of (`elementwise`), and gives `solution`, which has no rows to look at after `solve`.
    """

    _remedy = "Call `fit(x, y)` on paired rows first, or `partial_fit(x, y)` and then `solve()`."
    products = (outer, outer)

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
        self._check_pairs(x, y)
        if weights is not None:
            checks.check_weights(weights, x.shape[0])
        moments = self._moments(x, y, weights)
        self._solve(moments, (x, y), weights, seen=(moments, False))
        return self

    @torch.no_grad()
    def partial_fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Add pairs to those of earlier calls, in constant memory; `solve` makes the map of them.

        Args:
            x: Source rows ``(N, D_x)``; none at all are allowed.
            y: Target rows ``(N, D_y)`` of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default. All may be 0.
        """
        self._check_pairs(x, y, minimum=0)
        if weights is not None:
            check_chunk_weights(weights, len(x))
        if self._seen is None and self._fitted:
            raise RuntimeError(
                f"{type(self).__name__} has a map without the sums behind it, which are not in a "
                "checkpoint. Call `fit` to start anew."
            )
        new = self._moments(x, y, weights)
        self._seen = new if self._seen is None else self._seen.to(new.total.device) + new
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
        check_agreement("The translator", f"{self}{' after all_reduce' * self._reduced}", group)
        if self._reduced:
            raise RuntimeError(
                f"{type(self).__name__} holds the pairs of all processes already: another "
                "`all_reduce` would count them again. Put later pairs into `relreps.Moments`, "
                "reduce these, `merge` them with those so far, and `solve` for them."
            )
        x, y = (self.mean_x.new_zeros(0, n) for n in (self.in_features, self.out_features))
        own = self._seen or self._moments(x, y, None)
        self._seen, self._reduced = own.all_reduced(group), True
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
        reduced = self._reduced if moments is None else bool(getattr(moments, "reduced", False))
        seen = self._seen if moments is None else self._adopted(moments)
        if seen is None or not bool(seen.total > 0):
            raise RuntimeError(
                f"{type(self).__name__} has seen no pairs to solve for. "
                "Call `partial_fit(x, y)` first."
            )
        return self._solve(seen, seen=(seen, reduced))

    def _adopted(self, moments: Moments) -> RowMoments:
        """What was seen by a stream of the user."""
        sizes = (self.in_features, self.out_features)
        if not isinstance(moments, Moments) or not (
            moments.exact and (moments.in_features, moments.out_features) == sizes
        ):
            raise ValueError(
                f"`moments` must be Moments({self.in_features}, {self.out_features}, exact=True), "
                f"got {moments}."
            )
        if self._pre[1] is not None and self._pre[1].unit_rows:
            raise ValueError(
                "`moments` do not have the lengths of the rows, which `pre='unit'` needs. Use "
                "`partial_fit`, or bring the rows to length one and take `pre=None`."
            )
        state = moments.state()
        scatters = (
            whole if times is outer else whole.diagonal()
            for whole, times in zip(state.scatters, self._products(), strict=True)
        )
        return replace(state, scatters=tuple(scatters))

    def _on_load(self) -> None:
        super()._on_load()
        self._seen, self._reduced = None, False
