"""What a translator keeps, in numbers and in plain sentences, before anything rests on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, full_precision, unit_rows
from relreps._core.rounding import rank_tolerance, rounding_of, safe_reciprocal, unit_of
from relreps.translate.advice import Evidence, all_unit, directions, spread_and_rest, warnings_of
from relreps.translate.base import Translator
from relreps.translate.held_out import (
    Fold,
    among_pairs,
    fold_of,
    in_moved_index,
    in_targets,
    splits_of,
)
from relreps.translate.relative import InverseRelativeTranslator
from relreps.translate.search import Metric, OwnRows, marks_of, neighbour_shares, own_rows

#: Directions for each pair from which on least squares fits noise: the error of a row that was left
#: out is that of a fitted one over ``1 - directions / pairs``, on average.
_ILL_POSED = 0.5


class TranslationReport(NamedTuple):
    """What `translation_report` found; ``str`` says it in words."""

    pairs: int
    """Pairs that each map was fitted on; the fewest of the folds."""
    held_out: int
    """Pairs that were measured on, each by a map that had not seen it."""
    moved: OwnRows
    """Moved rows are searched, by the true vectors of the held-out pairs: a moved index."""
    queries: OwnRows
    """Moved rows search, among rows of the target: moved queries."""
    overlap_at_10: float
    """Part of the ten nearest other pairs in the target that are among the ten nearest moved."""
    fresh_at_10: float
    """Part of the ten nearest that are not moved, where half of the pairs are; 0.5 is fair."""
    centered_at_10: float
    """As ``moved.at_10``, among the held-out pairs alone, by the cosine about the target's mean."""
    length: float
    """Mean length of the moved rows, in that of their partners."""
    cosine: float
    """Mean cosine between a moved row and its partner, about the mean of the target."""
    residual: float
    """Squared distance to the partner, in units of the target's variance; the mean has 1."""
    effective_rank: float
    """Effective rank of the moved rows: how many directions they make use of."""
    target_effective_rank: float
    """Effective rank of their partners."""
    condition_number: float
    """Largest over smallest stretch of the map at the mean; infinite if it drops a direction."""
    ill_posed: bool
    """Whether least squares would have more than one direction to fit for two pairs."""
    warnings: tuple[str, ...]
    """What to mind, one sentence each."""

    @property
    def recall_at_1(self) -> float:
        """Part of the held-out rows that find their own among the moved ones first."""
        return self.moved.at_1

    @property
    def recall_at_10(self) -> float:
        """Part of the held-out rows that find their own among the ten nearest moved ones."""
        return self.moved.at_10

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        return (
            f"By maps of {self.pairs} pairs, {self.moved.at_1:.2f} of {self.held_out} held-out "
            f"rows find their own first among {self.moved.searched} moved ones, "
            f"{self.moved.at_10:.2f} among ten."
        )

    def __str__(self) -> str:
        lines = [
            self.sentence,
            f"moved rows are searched: {self.moved}",
            f"moved rows search: {self.queries}",
            f"overlap of the ten nearest pairs with those of the target {self.overlap_at_10:.3f}, "
            f"of {self.held_out} rows (chance {min(10 / max(self.held_out - 1, 1), 1):.2g})",
            f"in an index half moved {self.fresh_at_10:.3f} of the ten nearest are not (fair 0.5)",
            f"length {self.length:.3f} of the target's",
            f"cosine {self.cosine:.3f}",
            f"residual {self.residual:.3f}",
            f"effective rank {self.effective_rank:.1f} of {self.target_effective_rank:.1f}",
            f"condition number {self.condition_number:.3g}",
        ]
        lines += [f"warning: {text}" for text in self.warnings] or ["no warnings"]
        return "\n".join(lines)


def translation_report(
    translator: Translator,
    x: Tensor,
    y: Tensor,
    *,
    index: Tensor | Iterable[Tensor] | None = None,
    targets: Tensor | Iterable[Tensor] | None = None,
    metric: Metric = "cosine",
    test: tuple[Tensor, Tensor] | None = None,
    held_out: float | None = None,
    generator: torch.Generator | None = None,
) -> TranslationReport:
    r"""Fit copies of a translator on most of the pairs and measure them on the others.

    Every pair is held out once, a tenth of them at a time, and copies of a row together, so that
    each map has nearly as many pairs as one of all of them. ``translator`` itself stays as it is.

    To judge the **migration of an index**, give all of its stored rows as ``index``: each map moves
    them, block by block, and the new vectors of the held-out pairs search them for their own rows.
    A map that passes among some held-out rows can be worthless there. To judge queries that are
    moved to an index that stays, give the map from the new space to the old one, with the stored
    rows as ``targets``. Which side to move is told by comparing both.

    A copy of a row is as right as the row, and rows that score the same count as in any order. With
    :math:`\hat y` the moved and :math:`y` the true held-out rows, and :math:`\mu` the mean of the
    target rows of their fit,

    .. math:: \text{residual} = \frac{\sum_i \lVert \hat y_i - y_i \rVert^2}
                                     {\sum_i \lVert y_i - \mu \rVert^2}, \qquad
              \text{effective rank} = \exp\Bigl(-\sum_j p_j \log p_j\Bigr), \quad
              p_j = \frac{\sigma_j}{\sum_l \sigma_l}

    where :math:`\sigma` are the singular values of the rows less their mean.

    Cost: a fit, and a move of the ``index``, for each fold; the search O(N (I + N) D_y) among I
    rows; singular values. Memory O(N D) and blocks, and eight bytes for each row of the ``index``.

    Args:
        translator: A `Translator`, fitted or not; one of your own is a subclass. It is fitted by
            `Translator.fit_pairs`. An `InverseRelativeTranslator` needs ``test`` and as many pairs
            as it has anchors.
        x: Source rows.
        y: Target rows of the same samples, in the same order.
        index: Stored source rows, those of ``x`` among them; a tensor, which may be mapped from a
            file, or anything that gives blocks of rows. By default the held-out rows are searched.
        targets: Stored target rows, those of ``y`` among them, in the same forms.
        metric: By which the index is searched, ``"cosine"``, ``"inner"`` or ``"euclidean"``.
        test: Held-out pairs ``(x, y)``; one map is then fitted on all rows of ``x`` and ``y``.
        held_out: Otherwise, part of the pairs that is held out at a time: a tenth, and at least
            two, by default.
        generator: Of the draw of these.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(N, D_y)`; index: :math:`(I, D_x)`; targets:
          :math:`(J, D_y)`.

    Raises:
        TypeError: If ``translator`` is none.
        ValueError: Unpaired or non-finite rows, other widths in ``test``, ``index`` or ``targets``,
            or fewer than two rows on one side of a split.

    Example:
        >>> from relreps import ProcrustesTranslator
        >>> x = torch.randn(500, 8)
        >>> rotation = torch.linalg.qr(torch.randn(8, 8)).Q
        >>> report = translation_report(
        ...     ProcrustesTranslator(8, 8), x[:100], x[:100] @ rotation, index=x
        ... )
        >>> report.pairs, report.moved.searched, report.recall_at_10
        (90, 500, 1.0)

    References:
        Effective rank: Roy and Vetterli 2007.
    """
    if not isinstance(translator, Translator):
        raise TypeError(
            "`translator` must be a `relreps.Translator` that is fitted on pairs, got "
            f"{type(translator).__name__}. Fit one of many spaces yourself; "
            "`retrieval_scores` compares what it returns with held-out rows."
        )
    checks.check_choice("metric", metric, get_args(Metric))
    _check_pairs(("x", "y"), x, y)
    # What was made in inference mode may not be written to outside of it, nor the reverse.
    with torch.inference_mode(False), torch.no_grad(), full_precision(x):
        if test is None:
            splits = splits_of(x, y, held_out, generator)
        else:
            _check_test(x, y, test, held_out)
            splits = [(x, y, *test)]
        if isinstance(translator, InverseRelativeTranslator):
            _check_anchors(translator, len(splits[0][0]))
        folds = [fold_of(translator, *split) for split in splits]
        return _measure(translator, folds, len(x), index, targets, metric)


def _check_pairs(names: tuple[str, str], x: Tensor, y: Tensor) -> None:
    for name, rows in zip(names, (x, y), strict=True):
        checks.check_rows(name, rows, minimum=2)
        checks.check_finite(name, rows)
    checks.check_paired(x, y, names)


def _check_test(x: Tensor, y: Tensor, test: tuple[Tensor, Tensor], held_out: float | None) -> None:
    if held_out is not None:
        raise ValueError("`held_out` is a part of the pairs, and `test` are others: give one.")
    _check_pairs(("test[0]", "test[1]"), *test)
    checks.check_features("test[0]", test[0], x.shape[1])
    checks.check_features("test[1]", test[1], y.shape[1])


def _check_anchors(translator: InverseRelativeTranslator, pairs: int) -> None:
    if translator.num_anchors != pairs:
        raise ValueError(
            f"`translator` has {translator.num_anchors} anchors, and so many pairs it is fitted "
            f"on, got {pairs}. Give them as `x` and `y`, and other pairs as `test`."
        )


def _measure(
    translator: Translator,
    folds: list[Fold],
    pairs: int,
    index: Tensor | Iterable[Tensor] | None,
    targets: Tensor | Iterable[Tensor] | None,
    metric: Metric,
) -> TranslationReport:
    """The report of maps that were fitted on parts of the pairs."""
    x, y, moved = (torch.cat([getattr(f, n) for f in folds]) for n in ("x_test", "y_test", "moved"))
    true = y.to(moved.device)
    means = torch.cat([as_float64(f.y).mean(0).expand(len(f.moved), -1) for f in folds])
    left, right = as_float64(moved) - means, as_float64(true) - means
    unit = unit_of(torch.maximum(left.abs().amax(), right.abs().amax()))
    left, right = left / unit, right / unit

    marks = marks_of(x).to(left.device), marks_of(true).to(left.device)
    plain, found = _among_pairs(true, moved, marks, metric)
    # By cosine about the target's mean all scales are one map.
    centered, _ = _among_pairs(right, left, marks, "cosine")
    worse = max((0, 1), key=lambda side: centered[side] - plain[side])
    missing = 0
    if index is not None:
        found[0], missing = in_moved_index(folds, index, metric)
    if targets is not None:
        found[1], absent = in_targets(moved, true, targets, metric)
        missing += absent
    overlap, fresh = neighbour_shares(true, moved, metric)

    fitted_on = min(len(fold.x) for fold in folds)
    spread, rest = spread_and_rest(left, right)
    lengths = [torch.linalg.vector_norm(as_float64(rows), dim=1).mean() for rows in (moved, true)]
    seen = Evidence(
        translator=translator,
        pairs=(fitted_on, pairs),
        residual=_residual(left, right),
        scaled_residual=rest,
        moved_search=worse == 1,
        at_10=plain[worse],
        centered_at_10=centered[worse],
        ranks=(_effective_rank(left + means / unit), _effective_rank(right + means / unit)),
        spread=spread,
        length=float(lengths[0] * safe_reciprocal(lengths[1])),
        unit_targets=all_unit(true),
        fresh_at_10=fresh,
        missing=missing,
        **_of_the_map(folds[0]),
    )
    return TranslationReport(
        pairs=fitted_on,
        held_out=len(true),
        moved=found[0],
        queries=found[1],
        overlap_at_10=overlap,
        fresh_at_10=fresh,
        centered_at_10=centered[0],
        length=seen.length,
        cosine=float((unit_rows(left) * unit_rows(right)).sum(-1).mean()),
        residual=seen.residual,
        effective_rank=seen.ranks[0],
        target_effective_rank=seen.ranks[1],
        condition_number=seen.condition,
        ill_posed=seen.ill_posed,
        warnings=warnings_of(seen),
    )


def _of_the_map(fold: Fold) -> dict[str, Any]:
    """What `Evidence` has of one map and of the pairs that it was fitted on."""
    stretches = _stretches(fold.map, as_float64(fold.x).mean(0), as_float64(fold.x).std())
    width = max(fold.x.shape[1], fold.y.shape[1])
    floor = rank_tolerance(width, rounding_of(torch.float32)) * stretches[:1]
    dropped, rank = int((stretches <= floor).sum()), directions(fold.x)
    return {
        "rank": rank,
        "ill_posed": rank > _ILL_POSED * len(fold.x),
        "width": rank if rank < len(fold.x) - 1 else fold.x.shape[1],
        "fit_residual": _residual(*_about(fold.map(fold.x), fold.y)),
        "condition": float("inf") if dropped else float(stretches[0] / stretches[-1]),
        "dropped": dropped,
    }


def _among_pairs(
    true: Tensor, moved: Tensor, marks: tuple[Tensor, Tensor], metric: Metric
) -> tuple[list[float], list[OwnRows]]:
    """Own row among ten, with moved rows searched and searching; and all that was counted."""
    hunts = [among_pairs(*rows, marks, metric) for rows in ((true, moved), (moved, true))]
    found = [own_rows([hunt], own) for hunt, own in zip(hunts, marks, strict=True)]
    return [float(hunt.found(10).mean()) for hunt in hunts], found


def _about(moved: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Moved and true rows about the mean of the true ones, in a unit of their size."""
    mean = as_float64(true).mean(0)
    left, right = as_float64(moved) - mean.to(moved.device), as_float64(true) - mean
    unit = unit_of(right.abs().amax())
    return left / unit, right.to(left.device) / unit


def _residual(left: Tensor, right: Tensor) -> float:
    """Squared distances of partners, in those of the second ones from zero."""
    spread = right.square().sum()
    return float((left - right).square().sum() / spread) if spread > 0 else math.nan


def _effective_rank(rows: Tensor) -> float:
    """Exponential of the entropy of the singular values about the mean; 0 if all are zero."""
    values = torch.linalg.svdvals(rows - rows.mean(0))
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp()) if values.sum() > 0 else 0.0


def _stretches(fitted: Translator, mean: Tensor, scale: Tensor) -> Tensor:
    """Singular values of the map's derivative at ``mean``: those of its matrix if it is affine."""
    step = 1e-3 * (scale if scale > 0 else torch.ones_like(scale))
    steps = step * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    wide = copy.deepcopy(fitted).double()
    values: Tensor = torch.linalg.svdvals((wide(mean + steps) - wide(mean - steps)) / (2 * step))
    return values
