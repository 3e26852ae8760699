"""Translators fitted on rows without known partners; the first refines a map of a few pairs."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import as_float64, at_least_float32, unit_rows
from relreps._core.warnings import NumericalWarning, warn
from relreps.correspondence.discovery import discover_parallel_anchors
from relreps.correspondence.neighbors import matched
from relreps.correspondence.pairs import Indices, Pairs, Seeds, checked_seeds, united
from relreps.translate.base import Translator
from relreps.translate.matrix import Post, Preprocessing
from relreps.translate.procrustes import ProcrustesTranslator, Scale

#: Agreement below which it is said that the pairs are not to be believed.
_DOUBTFUL = 0.5
#: Rows of a space at most from which pairs are discovered.
_DRAWN = 2000


class SeededTranslator(Translator):
    r"""A `ProcrustesTranslator` that is fitted on pairs which are found first.

    A subclass writes `fit`: `_checked` the rows and seeds, find pairs of the `_wide` rows,
    `_finish`, which alone writes state.

    Attributes:
        map: The `ProcrustesTranslator` that was found.
        pairs: The `Pairs` it was fitted on, as indices of the rows that `fit` was given: the seeds,
            then the others, the surest first. A score is :math:`\cos(\hat y_i, y_j)`, minus that
            of the best other row of ``y``, under a map fitted on other pairs that were found: at
            least 0 where the map finds the pair again, NaN where there were too few to judge by.
            No part of the state: None before `fit`, and after loading.
        num_pairs: Number of these pairs.
        agreement: Share of the pairs beyond the seeds that are found again.
    """

    num_pairs: Tensor
    agreement: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: Scale,
        pre: Preprocessing | None,
        post: Post | None,
    ) -> None:
        super().__init__(in_features, out_features)
        self.map = ProcrustesTranslator(in_features, out_features, scale=scale, pre=pre, post=post)
        self.pairs: Pairs | None = None
        self.register_buffer("num_pairs", torch.zeros((), dtype=torch.long))
        self.register_buffer("agreement", torch.zeros(()))

    @property
    def scale(self) -> Scale:
        """The rule for the scale of the map, as it was given."""
        return self.map.scale

    @property
    def pre(self) -> Preprocessing | None:
        """The pre-processing of the map, as it was given."""
        return self.map.pre

    @property
    def post(self) -> Post | None:
        """What the map does to a moved row at the end, as it was given."""
        return self.map.post

    @abstractmethod
    def fit(self, x: Tensor, y: Tensor, seeds: Seeds) -> Self:  # type: ignore[override]
        """Fit on rows ``x (N, D_x)`` and ``y (M, D_y)`` in any order; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows, in an order and a number of their own.
            seeds: ``(indices_x, indices_y)`` of rows whose partners are known, or `Pairs`.
        """

    def fit_pairs(self, x: Tensor, y: Tensor) -> Self:
        """Fit on rows of which row i of ``x`` belongs to row i of ``y``: all are seeds."""
        checks.check_paired(x, y)
        every = torch.arange(len(x))
        return self.fit(x, y, (every, every))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(..., D_x)`` of the source space in the target space."""
        checks.check_features("x", x, self.in_features)
        self.require_fitted("Call `fit(x, y, seeds)` first.")
        moved: Tensor = self.map(x)
        return moved

    def inverse(self, y: Tensor) -> Tensor:
        """Vectors ``(..., D_y)`` of the target space in the source space; see `map`."""
        checks.check_features("y", y, self.out_features)
        self.require_fitted("Call `fit(x, y, seeds)` first.")
        return self.map.inverse(y)

    # What a subclass gets.

    def _checked(self, x: Tensor, y: Tensor, seeds: Seeds) -> Indices:
        """Seeds on the device of the `_wide` rows, when rows and seeds can be used."""
        self._check_rows(x, y)
        return checked_seeds(seeds, len(x), len(y), as_float64(x[:0]).device)

    def _check_rows(self, x: Tensor, y: Tensor) -> None:
        for name, rows, width in (("x", x, self.in_features), ("y", y, self.out_features)):
            checks.check_rows(name, rows, width, minimum=2)
            checks.check_finite(name, rows)

    def _wide(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides in float64, on one device."""
        wide = as_float64(x)
        return wide, as_float64(y).to(wide.device)

    def _map_of(self, sides: tuple[Tensor, Tensor], pairs: Indices) -> ProcrustesTranslator:
        """A map of some pairs on the way; quiet about directions without pairs."""
        x, y = sides
        with x.device:  # which need not be the default one
            found = ProcrustesTranslator(
                self.in_features, self.out_features, scale=self.scale, pre=self.pre
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            return found.to(x).fit(x[pairs[0]], y[pairs[1]])

    def _finish(
        self,
        sides: tuple[Tensor, Tensor],
        pairs: Indices,
        known: int,
        drawn: Indices | None = None,
        **values: float | Tensor,
    ) -> Self:
        """Take over the map of the pairs, and all other state; the last line of a `fit`.

        Args:
            sides: The `_wide` rows.
            pairs: Pairs of them, the known ones first.
            known: Number of these.
            drawn: Which rows of those that `fit` was given the sides are, if not all.
            values: Further buffers, by name.
        """
        x, y = sides
        found = copy.deepcopy(self.map).fit(x[pairs[0]], y[pairs[1]])
        leads = self._leads(sides, pairs, known)
        free = leads[known:]
        agreement = _agreement(leads, known)
        if agreement < _DOUBTFUL and known < min(len(x), len(y)):  # else there was none to find
            warn(
                f"Of {len(free)} pairs that were found, {agreement:.0%} are confirmed by a map "
                "of the other half of them: they are probably wrong, and so is the map. Give more "
                "seeds or more rows, and make sure that both sides hold the same things."
            )
        i, j = pairs if drawn is None else (rows[p] for rows, p in zip(drawn, pairs, strict=True))
        surest = free.argsort(descending=True, stable=True) + known
        order = torch.cat((torch.arange(known, device=surest.device), surest))
        kept = Pairs(i[order], j[order], leads[order])
        self.mark_fitted(False)
        self.map.load_state_dict(found.state_dict())
        self._keep({**values, "num_pairs": len(i), "agreement": agreement}, pairs=kept)
        return self

    def _leads(self, sides: tuple[Tensor, Tensor], pairs: Indices, known: int) -> Tensor:
        """How far each pair is ahead of others in its row of cosines, under a map it is no part of.

        Two maps are fitted, each on every other one of the pairs that were found, and each judges
        those of the other one, and half of the known pairs.
        """
        x, y = sides
        leads = x.new_full((len(pairs[0]),), torch.nan)
        if len(leads) - known < 4:  # two determine a map
            return leads
        order = torch.arange(len(leads), device=x.device)
        for half in (0, 1):
            fitted = order[known:][half::2]
            held = torch.cat((order[:known][half::2], order[known:][1 - half :: 2]))
            try:
                found = self._map_of(sides, (pairs[0][fitted], pairs[1][fitted]))
            except ValueError:  # these pairs determine nothing at all
                return leads.fill_(torch.nan)
            keys = unit_rows(_compared(found, x[:0], y)[1])
            for some in held.split(blocks.rows_of_table(len(y), y.dtype, y.device)):
                i, j = pairs[0][some], pairs[1][some][:, None]
                cosines = unit_rows(_compared(found, x[i], y[:0])[0]) @ keys.mT
                own = cosines.gather(1, j)
                leads[some] = (own - cosines.scatter_(1, j, -torch.inf).amax(1, True))[:, 0]
        return leads

    def _on_load(self) -> None:
        self.pairs = None  # what is loaded was fitted on others


def _agreement(leads: Tensor, known: int) -> float:
    """Share of the pairs beyond the known ones that are found again."""
    free = leads[known:]
    return float((free >= 0).double().mean()) if len(free) else 0.0


def _compared(found: ProcrustesTranslator, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Moved rows and targets about the point that the map turns the space around."""
    return found(x) - found.mean_y, y - found.mean_y


class RefinedProcrustesTranslator(SeededTranslator):
    r"""An orthogonal map refined on rows without known partners.

    A Procrustes map of the seeds translates all rows of ``x``; rows that are each other's nearest
    by `csls` are new pairs, and the map is fitted again on them and the seeds, and so on until the
    pairs stay. This is worth more than any choice of map: unpaired rows are cheap. Where too few
    seeds leave a map that finds no neighbours, it starts anew from the pairs that
    `discover_parallel_anchors` makes of the seeds, and the start with the better agreement counts.
    O(max_iterations (NMD + D^3)) time, O(N + M) memory beside the rows; and the discovery, of 2000
    rows at most, where the seeds do not suffice.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        k: Number of neighbours of `csls`.
        max_iterations: Largest number of refinements.
        scale: As in `ProcrustesTranslator`.
        pre: As in `ProcrustesTranslator`.
        post: As in `ProcrustesTranslator`.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        map: The `ProcrustesTranslator` that was found.
        pairs: The `Pairs` it was fitted on; see `SeededTranslator`.
        num_pairs: Their number.
        agreement: Share of the pairs beyond the seeds that a map fitted on the other half of them
            finds again. Low after a failure; in a few dimensions it can be high even then.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Non-finite rows, wrong sizes, seeds out of range or repeated.

    Warns:
        NumericalWarning: ``agreement`` is below one half: the refinement has probably failed.

    Example:
        >>> x = torch.randn(200, 4)
        >>> order = torch.randperm(200)
        >>> y = x[order].flip(1) + 1  # mirrored, moved and shuffled
        >>> seeds = order[:5], torch.arange(5)
        >>> translator = RefinedProcrustesTranslator(4, 4).fit(x, y, seeds)
        >>> torch.allclose(translator(x), x.flip(1) + 1, atol=1e-5)
        True

    References:
        Conneau et al., arXiv:1710.04087, section 2.2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        k: int = 10,
        max_iterations: int = 20,
        scale: Scale = "norm",
        pre: Preprocessing | None = "center",
        post: Post | None = None,
    ) -> None:
        super().__init__(in_features, out_features, scale, pre, post)
        k = checks.check_size("k", k)
        max_iterations = checks.check_size("max_iterations", max_iterations)
        self.k, self.max_iterations = k, max_iterations

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, seeds: Seeds) -> Self:  # type: ignore[override]
        """Fit on rows ``x (N, D_x)`` and ``y (M, D_y)`` in any order; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows, in an order and a number of their own.
            seeds: ``(indices_x, indices_y)`` of rows whose partners are known, or `Pairs`.
        """
        known = self._checked(x, y, seeds)
        checks.check_k(self.k, min(len(x), len(y)))
        wide = torch.promote_types(at_least_float32(x[:0]).dtype, y.dtype)
        sides = self._wide(x, y)
        pairs = self._refined(sides, known, known, wide)
        agreement = _agreement(self._leads(sides, pairs, len(known[0])), len(known[0]))
        if agreement < _DOUBTFUL:
            start = _discovered(sides, known)
            others = self._refined(sides, known, start, wide)
            if _agreement(self._leads(sides, others, len(known[0])), len(known[0])) > agreement:
                pairs = others
        return self._finish(sides, pairs, len(known[0]))

    def _refined(
        self, sides: tuple[Tensor, Tensor], known: Indices, pairs: Indices, wide: torch.dtype
    ) -> Indices:
        """Pairs that stay when the map is fitted to them and they are found anew."""
        for _ in range(self.max_iterations):
            found = self._map_of(sides, pairs)
            moved, targets = _compared(found, *sides)
            best = matched(moved.to(wide), targets.to(wide), self.k)
            before, pairs = pairs, united(known, best.indices_x, best.indices_y)
            if torch.equal(before[0], pairs[0]) and torch.equal(before[1], pairs[1]):
                break
        return pairs


def _discovered(sides: tuple[Tensor, Tensor], known: Indices) -> Indices:
    """Pairs by transport of codes relative to the known ones, those that are each other's nearest.

    Of many rows a draw serves, the same each time.
    """
    x, y = sides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what comes of it is judged by its agreement
        found = discover_parallel_anchors(
            x,
            y,
            known,
            max(len(known[0]), min(len(x), len(y), _DRAWN)),
            max_samples=_DRAWN,
            generator=torch.Generator().manual_seed(0),
        )
    sure = found.scores > 0
    return united(known, found.indices_x[sure], found.indices_y[sure])
