"""What to mind about a map, in sentences: the words of `translation_report`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core.linalg import as_float64
from relreps._core.rounding import rank_tolerance, rounding_of, safe_reciprocal
from relreps.translate.base import Translator

#: A map of this condition number turns 1 part in a thousand into the whole of a direction.
_ILL_CONDITIONED = 1e3
#: Below this part of the effective rank of the target, its neighbourhoods are flattened.
_FLAT = 0.5
#: Numbers of pairs within this part of the width: least squares passes through all of them.
_PEAK = 0.2
#: A map that is this much nearer to the pairs it was fitted on than to others interpolates them,
#: unless what is left is nothing at all.
_INTERPOLATES, _EXACT = 0.05, 1e-6
#: Part of the rows that centring has to bring back to be spoken of, and part of the residual that
#: the best scale has to leave.
_CENTERED, _HALF = 0.05, 0.5
#: A map as wide as its target is farther from it than the mean where cosines are below a half: that
#: is too far only if it is wider, or says nearly nothing by any scale.
_WILD, _UNRELATED = 1.2, 0.9
#: How far rows of one length may be from it, and moved ones from theirs.
_UNIT, _OTHER_LENGTH = 1e-3, 1e-2
#: Part of fresh rows among the nearest, of a half, below which moved ones hide them, and above
#: which they hide the moved ones.
_UNFAIR = (0.35, 0.65)


class Evidence(NamedTuple):
    """What the sentences rest on."""

    translator: Translator
    pairs: tuple[int, int]  # of a fold, and all
    rank: int  # directions that the pairs of a fold have in the source
    width: int  # the same, or the width of the source where more pairs would show more
    ill_posed: bool
    residual: float
    fit_residual: float  # of the pairs that a map was fitted on
    scaled_residual: float  # about the means of both sides, by the best scale
    moved_search: bool  # the direction of the next two: that in which centring helps more
    at_10: float  # own row among ten, of the held-out pairs alone
    centered_at_10: float  # the same by the cosine about the target's mean
    ranks: tuple[float, float]
    condition: float
    dropped: int  # directions that the map drops
    spread: float  # of the moved rows about their mean, in that of the target
    length: float  # of the moved rows, in that of the target
    unit_targets: bool
    fresh_at_10: float
    missing: int  # held-out rows that are not in what is searched

    @property
    def ridge(self) -> object:
        """The ridge of the map; None if it can have none."""
        return getattr(self.translator, "ridge", None)


def directions(x: Tensor) -> int:
    """Rank of the rows about their mean."""
    values = torch.linalg.svdvals(as_float64(x) - as_float64(x).mean(0))
    tolerance = rank_tolerance(x.shape[1], rounding_of(x.dtype))
    return int((values > values[:1] * tolerance).sum())


def warnings_of(seen: Evidence) -> tuple[str, ...]:
    """What to mind, the gravest first."""
    found = [*_of_the_fit(seen)]
    if seen.ranks[0] < _FLAT * seen.ranks[1]:
        found.append(
            f"the moved rows use {seen.ranks[0]:.0f} directions where the target uses "
            f"{seen.ranks[1]:.0f}: neighbours are flattened together."
        )
    if seen.dropped:
        found.append(f"the map drops {seen.dropped} direction{'s' if seen.dropped > 1 else ''}.")
    elif seen.condition > _ILL_CONDITIONED:
        found.append(
            f"the map stretches some directions {seen.condition:.2g} times as much as others: it "
            "magnifies what is noise there."
        )
    return (*found, *_of_the_search(seen))


def _of_the_fit(seen: Evidence) -> Iterator[str]:
    if _near_the_peak(seen):
        fewer, most = seen.pairs
        count = f"{fewer} to {most}" if fewer < most else f"{most}"
        has_ridge = seen.ridge is not None
        yield (
            f"{count} pairs are within a fifth of {seen.width} directions, where a map without a "
            "ridge fits the noise of each pair, and is worse than one of fewer: "
            + ("give it a ridge, or many more." if has_ridge else "give many more.")
        )
    elif seen.ill_posed and _has_no_ridge(seen):
        yield (
            f"least squares is ill-posed with {seen.pairs[0]} pairs for {seen.rank} directions: "
            "give it a ridge."
        )
    if _misplaced(seen):
        costs = []
        if _centring_helps(seen):
            costs.append(
                f"about the target's mean {seen.centered_at_10:.3f} of the held-out rows find "
                f"their own among ten, as returned {seen.at_10:.3f}, where moved rows "
                f"{'search' if seen.moved_search else 'are searched'}"
            )
        if _scattered(seen):
            costs.append(
                f"the residual is {seen.scaled_residual:.2g} by the best scale, "
                f"{seen.residual:.2g} as returned"
            )
        unscaled = getattr(seen.translator, "scale", None) == "none"
        yield (
            f"scale or centring are wrong, more than directions: {'; '.join(costs)}; moved rows "
            f"spread {seen.spread:.2g} times as far as the target's. "
            f"{'Give another `scale`, or subtract' if unscaled else 'Subtract'} the target's mean "
            "from both sides, for a search by cosine."
        )
    elif seen.residual >= 1 and (seen.spread > _WILD or seen.scaled_residual > _UNRELATED):
        yield (
            f"squared distances to the partners are {seen.residual:.2g} times those of the mean of "
            "the target: give more pairs, or a translator that fits less freely."
        )


def _of_the_search(seen: Evidence) -> Iterator[str]:
    if seen.unit_targets and abs(seen.length - 1) > _OTHER_LENGTH:
        yield (
            f"the target's rows have length 1, the moved ones {seen.length:.2f} on average, which "
            "an index by inner product or distance takes for a difference: normalise them."
        )
    if not _UNFAIR[0] <= seen.fresh_at_10 <= _UNFAIR[1]:
        sides = ("those that are not moved", "moved ones")
        hidden, before = sides if seen.fresh_at_10 < 0.5 else sides[::-1]
        yield (
            f"where half of an index is moved, {seen.fresh_at_10:.2f} of the ten nearest are not, "
            f"and 0.5 would be fair: {hidden} vanish behind {before}."
        )
    if seen.missing:
        yield (
            f"{seen.missing} of the held-out rows are not among what is searched, and count as if "
            "they were: give pairs of stored rows, as they are stored."
        )


def _has_no_ridge(seen: Evidence) -> bool:
    return isinstance(seen.ridge, int | float) and seen.ridge == 0


def _misplaced(seen: Evidence) -> bool:
    """Whether what is wrong is where the moved rows lie as a whole, and how far apart."""
    return (_centring_helps(seen) or _scattered(seen)) and not _near_the_peak(seen)


def _centring_helps(seen: Evidence) -> bool:
    return seen.centered_at_10 > seen.at_10 + _CENTERED


def _scattered(seen: Evidence) -> bool:
    """Whether most of the residual is scale and centring."""
    return seen.residual > _EXACT and seen.scaled_residual < _HALF * seen.residual


def _near_the_peak(seen: Evidence) -> bool:
    """Whether the map all but passes through its pairs, which are about as many as directions.

    With as many as directions least squares fits every pair, the noise of it included, by whatever
    weights that takes; more pairs, or fewer, are better.
    """
    if all(abs(count - seen.width) > _PEAK * seen.width for count in seen.pairs):
        return False
    if _has_no_ridge(seen):
        return True
    return seen.residual > _EXACT and seen.fit_residual < _INTERPOLATES * seen.residual


def spread_and_rest(moved: Tensor, true: Tensor) -> tuple[float, float]:
    """How far moved rows are from their mean, in the same of true ones; and the residual of these.

    The latter by the best scale that is not negative.
    """
    left, right = moved - moved.mean(0), true - true.mean(0)
    sizes = [torch.linalg.matrix_norm(rows) for rows in (left, right)]
    inverse = [safe_reciprocal(size) for size in sizes]
    cosine = (left * inverse[0] * right * inverse[1]).sum()
    return float(sizes[0] * inverse[1]), float(1 - cosine.clamp(min=0).square())


def all_unit(rows: Tensor) -> bool:
    """Whether all rows have length one, to three digits."""
    lengths = torch.linalg.vector_norm(as_float64(rows), dim=1)
    return bool(((lengths - 1).abs() < _UNIT).all())
