"""What a translator keeps, in numbers and in a plain sentence, before anything rests on it."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.draws import shuffled
from relreps._core.linalg import as_float64, unit_rows
from relreps._core.rounding import rank_tolerance, rounding_of
from relreps.metrics import recall_at_k
from relreps.translate.base import Translator
from relreps.translate.relative import InverseRelativeTranslator

#: Directions for each pair from which on least squares fits noise: the error of a row that was left
#: out is that of a fitted one over ``1 - directions / pairs``, on average.
_ILL_POSED = 0.5
#: A map of this condition number turns 1 part in a thousand into the whole of a direction.
_ILL_CONDITIONED = 1e3
#: Below this part of the effective rank of the target, its neighbourhoods are flattened.
_FLAT = 0.5


class TranslationReport(NamedTuple):
    """What `translation_report` found; ``str`` says it in words."""

    pairs: int
    """Pairs that the map was fitted on."""
    held_out: int
    """Pairs that it was measured on; they were not seen by the fit."""
    recall_at_1: float
    """Part of the held-out rows whose own partner is nearest to them in the target space."""
    recall_at_10: float
    """Part of the held-out rows whose own partner is among the ten nearest; 1 of ten rows."""
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
    def sentence(self) -> str:
        """The result in one sentence."""
        sentence = f"With {self.pairs} pairs {self.recall_at_1:.2f} of the neighbours are retained"
        advice = "; least squares is ill-posed here, use ridge" if self.ill_posed else ""
        return f"{sentence}{advice}."

    def __str__(self) -> str:
        lines = [
            self.sentence,
            f"recall@1 {self.recall_at_1:.3f}, recall@10 {self.recall_at_10:.3f} "
            f"among {self.held_out} held-out rows",
            f"cosine {self.cosine:.3f}",
            f"residual {self.residual:.3f}",
            f"effective rank {self.effective_rank:.1f} of {self.target_effective_rank:.1f}",
            f"condition number {self.condition_number:.3g}",
        ]
        lines += [f"warning: {text}" for text in self.warnings] or ["no warnings"]
        return "\n".join(lines)


@torch.no_grad()
def translation_report(
    translator: Translator,
    x: Tensor,
    y: Tensor,
    *,
    test: tuple[Tensor, Tensor] | None = None,
    held_out: float = 0.2,
    generator: torch.Generator | None = None,
) -> TranslationReport:
    r"""Fit a copy of a translator on some of the pairs and measure it on the others.

    ``translator`` itself stays as it is. With :math:`\hat y` the moved and :math:`y` the true
    held-out rows, and :math:`\mu` the mean of the target rows of the fit,

    .. math:: \text{residual} = \frac{\sum_i \lVert \hat y_i - y_i \rVert^2}
                                     {\sum_i \lVert y_i - \mu \rVert^2}, \qquad
              \text{effective rank} = \exp\Bigl(-\sum_j p_j \log p_j\Bigr), \quad
              p_j = \frac{\sigma_j}{\sum_l \sigma_l}

    where :math:`\sigma` are the singular values of the rows less their mean. Recall depends on how
    many rows are searched: compare it between maps, not between sets of other sizes.
    Moved rows are the queries. A map that draws them towards the mean, as ridge does, is worse at
    that than as what is searched: for an index of moved rows, search it.

    Cost: one fit, the search O(M² D_y) among M held-out rows, and singular values.

    Args:
        translator: A `Translator` of paired rows, fitted or not; one of your own is a subclass.
            An `InverseRelativeTranslator` needs ``test`` and as many pairs as it has anchors.
        x: Source rows.
        y: Target rows of the same samples, in the same order.
        test: Held-out pairs ``(x, y)``; the map is then fitted on all rows of ``x`` and ``y``.
        held_out: Otherwise, part of the pairs that is held out, drawn at random.
        generator: Of that draw.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(N, D_y)`.

    Raises:
        TypeError: If ``translator`` cannot be fitted on pairs.
        ValueError: Unpaired or non-finite rows, other widths in ``test``, or fewer than two rows
            on one side of the split.

    Example:
        >>> from relreps import ProcrustesTranslator
        >>> x = torch.randn(500, 8)
        >>> rotation = torch.linalg.qr(torch.randn(8, 8)).Q
        >>> print(translation_report(ProcrustesTranslator(8, 8), x, x @ rotation))
        With 400 pairs 1.00 of the neighbours are retained.
        recall@1 1.000, recall@10 1.000 among 100 held-out rows
        cosine 1.000
        residual 0.000
        effective rank 7.9 of 7.9
        condition number 1
        no warnings

    References:
        Effective rank: Roy and Vetterli 2007.
    """
    _check_translator(translator)
    _check_pairs("", x, y)
    if test is None:
        (x, y), test = _split(x, y, held_out, generator)
    if isinstance(translator, InverseRelativeTranslator) and translator.num_anchors != len(x):
        raise ValueError(
            f"`translator` has {translator.num_anchors} anchors, and so many pairs it is fitted "
            f"on, got {len(x)}. Give them as `x` and `y`, and other pairs as `test`."
        )
    _check_pairs("test", *test)
    checks.check_features("test[0]", test[0], x.shape[1])
    checks.check_features("test[1]", test[1], y.shape[1])
    fitted = copy.deepcopy(translator)
    fitted.fit(x, y)
    return _measure(fitted, x, y, *test)


def _check_translator(translator: Translator) -> None:
    """Refuse what cannot be fitted on pairs alone."""
    if not isinstance(translator, Translator) or not translator.paired:
        raise TypeError(
            "`translator` must be a `relreps.Translator` that is fitted by `fit(x, y)` on pairs, "
            f"got {type(translator).__name__}. Fit one that takes more, such as seeds or many "
            "spaces, yourself; `retrieval_scores` compares what it returns with held-out rows."
        )


def _check_pairs(side: str, x: Tensor, y: Tensor) -> None:
    names = (f"{side}[0]", f"{side}[1]") if side else ("x", "y")
    for name, rows in zip(names, (x, y), strict=True):
        checks.check_rows(name, rows, minimum=2)
        checks.check_finite(name, rows)
    checks.check_paired(x, y, names)


def _split(
    x: Tensor, y: Tensor, held_out: float, generator: torch.Generator | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Pairs to fit on, and pairs to measure on."""
    tested = round(held_out * len(x)) if 0 < held_out < 1 else 0
    if not 2 <= tested <= len(x) - 2:
        raise ValueError(
            f"`held_out` must leave at least two of the {len(x)} pairs on either side, got "
            f"{held_out}. It is a part of the pairs, such as 0.2."
        )
    order = shuffled(len(x), generator).to(x.device)
    test, fit = order[:tested], order[tested:]
    return (x[fit], y[fit]), (x[test], y[test])


def _measure(
    fitted: Translator, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor
) -> TranslationReport:
    """The report of a fitted map; ``x`` and ``y`` are the pairs that it was fitted on."""
    moved, true = as_float64(fitted(x_test)), as_float64(y_test)
    checks.check_finite("translator(x)", moved)
    mean = as_float64(y).mean(0)
    left, right = moved - mean, true - mean
    spread = right.square().sum()
    rank, target_rank = (_effective_rank(rows - rows.mean(0)) for rows in (moved, true))
    stretches = _stretches(fitted, as_float64(x).mean(0), as_float64(x).std())
    live = (
        stretches
        > rank_tolerance(max(x.shape[1], y.shape[1]), rounding_of(torch.float32)) * (stretches[:1])
    )
    condition = float(stretches[0] / stretches[-1]) if bool(live.all()) else math.inf
    residual = float((moved - true).square().sum() / spread) if spread > 0 else math.nan
    first, ten = (float(recall_at_k(moved, true, min(k, len(true)))) for k in (1, 10))
    return TranslationReport(
        pairs=len(x),
        held_out=len(true),
        recall_at_1=first,
        recall_at_10=ten,
        cosine=float((unit_rows(left) * unit_rows(right)).sum(-1).mean()),
        residual=residual,
        effective_rank=rank,
        target_effective_rank=target_rank,
        condition_number=condition,
        ill_posed=_directions(x) > _ILL_POSED * len(x),
        warnings=tuple(_warnings(residual, (rank, target_rank), condition, int((~live).sum()))),
    )


def _directions(x: Tensor) -> int:
    """Rank of the rows about their mean."""
    values = torch.linalg.svdvals(as_float64(x) - as_float64(x).mean(0))
    tolerance = rank_tolerance(x.shape[1], rounding_of(x.dtype))
    return int((values > values[:1] * tolerance).sum())


def _effective_rank(rows: Tensor) -> float:
    """Exponential of the entropy of the singular values; 0 if there is nothing but zeros."""
    values = torch.linalg.svdvals(rows)
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp()) if values.sum() > 0 else 0.0


def _stretches(fitted: Translator, mean: Tensor, scale: Tensor) -> Tensor:
    """Singular values of the map's derivative at ``mean``: those of its matrix if it is affine."""
    step = 1e-3 * (scale if scale > 0 else torch.ones_like(scale))
    steps = step * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    wide = copy.deepcopy(fitted).double()
    values: Tensor = torch.linalg.svdvals((wide(mean + steps) - wide(mean - steps)) / (2 * step))
    return values


def _warnings(
    residual: float, ranks: tuple[float, float], condition: float, dropped: int
) -> list[str]:
    """What to mind, the gravest first."""
    found = []
    if residual >= 1:
        found.append(
            f"squared distances to the partners are {residual:.2g} times those of the mean of the "
            "target: give more pairs, or a translator that fits less freely."
        )
    if ranks[0] < _FLAT * ranks[1]:
        found.append(
            f"the moved rows use {ranks[0]:.0f} directions where the target uses {ranks[1]:.0f}: "
            "neighbours are flattened together."
        )
    if dropped:
        found.append(f"the map drops {dropped} direction{'s' if dropped > 1 else ''}.")
    elif condition > _ILL_CONDITIONED:
        found.append(
            f"the map stretches some directions {condition:.2g} times as much as others: it "
            "magnifies what is noise there."
        )
    return found
