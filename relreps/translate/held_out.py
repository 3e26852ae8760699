"""Maps fitted on most of the pairs, and how the others find their own rows by them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.draws import shuffled
from relreps._core.linalg import as_float64
from relreps._core.warnings import NumericalWarning
from relreps.translate.base import Translator
from relreps.translate.search import Hunt, Metric, OwnRows, blocks_of, marks_of, own_rows

#: Part of the pairs that is held out at a time, where nothing is said.
_HELD_OUT = 0.1


class Fold(NamedTuple):
    """A map, the pairs that it was fitted on, and those that it was not, with the former moved."""

    map: Translator
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    moved: Tensor


def fold_of(translator: Translator, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Fold:
    """Fit a copy of a translator on pairs and move those that are held out.

    Quietly: what a fit warns of, the report finds out by itself, and says it once.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        fitted = copy.deepcopy(translator).fit_pairs(x, y)
    moved = fitted(x_test)
    checks.check_finite("translator(x)", moved)
    return Fold(fitted, x, y, x_test, y_test, moved)


def splits_of(
    x: Tensor, y: Tensor, held_out: float | None, generator: torch.Generator | None
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Pairs to fit on and pairs to measure on: each is measured once, with all of its copies."""
    checks.check_generator(generator)
    n = len(x)
    if n < 4:
        raise ValueError(f"`x` and `y` must be at least 4 pairs, two to fit on, got {n}.")
    tested = max(round(_HELD_OUT * n), 2)
    if held_out is not None:
        tested = round(held_out * n) if 0 < held_out < 1 else 0
    if not 2 <= tested <= n - tested:
        raise ValueError(
            f"`held_out` must leave at least two of the {n} pairs on either side, and half of them "
            f"to fit on, got {held_out}. It is a part of the pairs, such as 0.2."
        )
    groups = marks_of(x).unique(return_inverse=True)[1]
    num_groups = int(groups.max()) + 1
    place = shuffled(num_groups, generator).to(groups.device)[groups]
    order = place.argsort(stable=True)
    # A group begins a fold where so many rows are before it, so that none is torn apart.
    before = torch.zeros(num_groups + 1, dtype=torch.long, device=groups.device)
    before[1:] = place.bincount(minlength=num_groups).cumsum(0)
    fold = (before[:-1] * (n // tested)).div(n, rounding_mode="floor")[place[order]]
    if int(fold[0]) == int(fold[-1]):
        raise ValueError(
            f"`x` must hold different rows, for some to be held out, got {num_groups} of them in "
            f"{n} pairs."
        )
    splits = []
    for number in fold.unique().tolist():
        test, fit = order[fold == number], order[fold != number]
        splits.append((x[fit], y[fit.to(y.device)], x[test], y[test.to(y.device)]))
    return splits


def among_pairs(
    queries: Tensor, keys: Tensor, marks: tuple[Tensor, Tensor], metric: Metric
) -> Hunt:
    """Paired rows searched by their partners; copies on either side are as right as the own one."""
    hunt = Hunt(queries, keys, metric, as_float64(keys).mean(0))
    start = 0
    for block in blocks_of("translator(x)", keys, keys.shape[1], len(queries)):
        own = [side[:, None] == side[start : start + len(block)] for side in marks]
        hunt.see(block, own[0] | own[1])
        start += len(block)
    return hunt


def in_moved_index(
    folds: list[Fold], index: Tensor | Iterable[Tensor], metric: Metric
) -> tuple[OwnRows, int]:
    """The whole index, moved by each map, searched by the pairs that it was not fitted on."""
    hunts = [Hunt(f.y_test, f.moved, metric, as_float64(f.y).mean(0)) for f in folds]
    marks, seen = _Marks([f.x_test for f in folds]), []
    most = max(len(f.x_test) for f in folds)
    for block in blocks_of("index", index, folds[0].x.shape[1], most):
        here, own = marks.of(block)
        seen.append(here)
        for fold, hunt, mine in zip(folds, hunts, own, strict=True):
            moved = fold.map(block.to(fold.x))
            checks.check_finite("translator(index)", moved)
            hunt.see(moved, mine[:, None] == here)
    return own_rows(hunts, torch.cat(seen)), sum(int((h.equal == 0).sum()) for h in hunts)


def in_targets(
    moved: Tensor, true: Tensor, targets: Tensor | Iterable[Tensor], metric: Metric
) -> tuple[OwnRows, int]:
    """Stored rows of the target, searched by moved ones."""
    hunt = Hunt(moved, true, metric, as_float64(true).mean(0))
    marks, seen = _Marks([true]), []
    for block in blocks_of("targets", targets, true.shape[1], len(moved)):
        here, (own,) = marks.of(block)
        seen.append(here)
        hunt.see(block.to(true), own[:, None] == here)
    return own_rows([hunt], torch.cat(seen)), int((hunt.equal == 0).sum())


class _Marks:
    """Marks of stored rows and of some of them, in the narrower of their types."""

    def __init__(self, own: list[Tensor]) -> None:
        self.own = own
        self.marks: dict[torch.dtype, list[Tensor]] = {}

    def of(self, block: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Those of a block, and those of the rows that it is compared with."""
        like = self.own[0]
        dtype = min(block.dtype, like.dtype, key=lambda d: d.itemsize)
        if dtype not in self.marks:
            self.marks[dtype] = [marks_of(rows.to(dtype)) for rows in self.own]
        return marks_of(block.to(like.device, dtype)), self.marks[dtype]
