"""What translators have in common that are fitted on rows without known partners."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, unit_rows
from relreps._core.state import FittedModule
from relreps._core.warnings import NumericalWarning, warn
from relreps.correspondence import spaces
from relreps.translate.matrix import Preprocessing
from relreps.translate.procrustes import ProcrustesTranslator, Scale

#: Row indices of both spaces, in the same order.
Seeds = tuple[Tensor, Tensor]

#: Agreement below which it is said that the pairs are not to be believed.
_DOUBTFUL = 0.5


class SeededTranslator(FittedModule, ABC):
    """A `ProcrustesTranslator` that is fitted on pairs which are found first.

    A subclass writes `fit`: `_checked` the rows and seeds, find pairs, `_finish`.
    """

    num_pairs: Tensor
    agreement: Tensor

    def __init__(
        self, in_features: int, out_features: int, scale: Scale, pre: Preprocessing | None
    ) -> None:
        super().__init__()
        self.map = ProcrustesTranslator(in_features, out_features, scale=scale, pre=pre)
        self.in_features, self.out_features = in_features, out_features
        self.scale, self.pre = scale, pre
        self.register_buffer("num_pairs", torch.zeros((), dtype=torch.long))
        self.register_buffer("agreement", torch.zeros(()))

    @abstractmethod
    def fit(self, x: Tensor, y: Tensor, seeds: Seeds) -> Self:
        """Fit on rows ``x (N, D_x)`` and ``y (M, D_y)`` in any order; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows, in an order and a number of their own.
            seeds: ``(indices_x, indices_y)`` of rows whose partners are known.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(..., D_x)`` of the source space in the target space."""
        checks.check_features("x", x, self.in_features)
        self._require_fitted("Call `fit(x, y, seeds)` first.")
        moved: Tensor = self.map(x)
        return moved

    def inverse(self, y: Tensor) -> Tensor:
        """Vectors ``(..., D_y)`` of the target space in the source space; see `map`."""
        checks.check_features("y", y, self.out_features)
        self._require_fitted("Call `fit(x, y, seeds)` first.")
        return self.map.inverse(y)

    def extra_repr(self) -> str:
        """Constructor call."""
        return ", ".join((f"{self.in_features}, {self.out_features}", *self._options()))

    # What a subclass may give.

    def _options(self) -> list[str]:
        return [f"scale={self.scale!r}", f"pre={self.pre!r}"]

    # What it gets.

    def _checked(self, x: Tensor, y: Tensor, seeds: Seeds) -> Seeds:
        """Seeds on the device of the rows, when rows and seeds can be used."""
        for name, rows, width in (("x", x, self.in_features), ("y", y, self.out_features)):
            checks.check_rows(name, rows, width, minimum=2)
            checks.check_finite(name, rows)
        if not isinstance(seeds, tuple | list) or len(seeds) != 2:
            raise TypeError(
                "`seeds` must be a pair (indices_x, indices_y) of index tensors, got "
                f"{type(seeds).__name__}. Rows that are paired one by one are "
                "`(torch.arange(n), torch.arange(n))`."
            )
        spaces.check_seeds(*seeds, len(x), len(y), ("seeds[0]", "seeds[1]"))
        device = as_float64(x[:0]).device
        return seeds[0].to(device).long(), seeds[1].to(device).long()

    def _map_of(self, x: Tensor, y: Tensor, pairs: Seeds) -> ProcrustesTranslator:
        """A map of some pairs of float64 rows on the way; quiet about directions without pairs."""
        found = ProcrustesTranslator(
            self.in_features, self.out_features, scale=self.scale, pre=self.pre
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            return found.to(x).fit(x[pairs[0]], y[pairs[1]])

    def _united(self, known: Seeds, i: Tensor, j: Tensor) -> Seeds:
        """The seeds, then the pairs that share no row with them, in ascending order."""
        free = ~(torch.isin(i, known[0]) | torch.isin(j, known[1]))
        i, j = i[free], j[free]
        order = i.argsort()
        return torch.cat((known[0], i[order])), torch.cat((known[1], j[order]))

    def _finish(self, x: Tensor, y: Tensor, pairs: Seeds, seeds: int) -> Self:
        """Take over the map of the pairs; the first ``seeds`` were known."""
        found = copy.deepcopy(self.map).fit(x[pairs[0]], y[pairs[1]])
        free = pairs[0][seeds:], pairs[1][seeds:]
        agreement = self._agreement(x, y, free)
        if agreement < _DOUBTFUL:
            warn(
                f"Of {len(free[0])} pairs that were found, {agreement:.0%} are confirmed by a map "
                "of the other half of them: they are probably wrong, and so is the map. Give more "
                "seeds or more rows, and make sure that both sides hold the same things."
            )
        self.map.load_state_dict(found.state_dict())
        self.num_pairs.fill_(len(pairs[0]))
        self.agreement.fill_(agreement)
        self._mark_fitted()
        return self

    def _agreement(self, x: Tensor, y: Tensor, pairs: Seeds) -> float:
        """Share of pairs whose target is nearest under a map of the other half of them."""
        confirmed = 0
        for half in (0, 1):
            fitted, held = (tuple(side[h::2] for side in pairs) for h in (half, 1 - half))
            if len(fitted[0]) < 2 or len(held[0]) == 0:
                return 0.0
            try:
                found = self._map_of(x, y, (fitted[0], fitted[1]))
            except ValueError:  # these pairs determine nothing at all
                return 0.0
            keys = unit_rows(y - found.mean_y)
            for i, j in zip(*(side.split(1024) for side in held), strict=True):
                moved = unit_rows(found(x[i]) - found.mean_y)
                confirmed += int(((moved @ keys.mT).argmax(1) == j).sum())
        return confirmed / len(pairs[0])
