"""What a set of anchors can and cannot do, in numbers and in plain words."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import as_float64, full_precision, unit_rows
from relreps._core.rounding import rank_tolerance, rounding_of, unit_of
from relreps.anchors.subset import angle_rounding

#: Anchors nearer than this, as part of the size of the set, repeat each other.
_SAME = 1e-5
#: A basis of this condition number turns 1 part in a thousand into the whole of a coordinate.
_ILL_CONDITIONED = 1e3
#: Above this mean cosine, anchors mostly show what they share.
_CROWDED = 0.5


class AnchorReport(NamedTuple):
    """What `anchor_report` found; ``str`` says it in words."""

    rank: int
    """Numerical rank of the anchors."""
    condition_number: float
    """Largest over smallest singular value; infinite below full rank."""
    coverage_radius: float
    """Largest distance of a sample to its nearest anchor; without samples, of an anchor to its
    nearest other one, and NaN where there is none."""
    duplicates: int
    """Number of anchors that repeat an earlier one."""
    warnings: tuple[str, ...]
    """What to mind, one sentence or two each."""
    smallest_leverage: float
    """Leverage of the anchor that adds least to the others; A such anchors sum to the rank."""
    lost_energy: float
    """Part of the squared length of the samples that lies outside the span of the anchors; NaN
    without samples."""

    def __str__(self) -> str:
        lines = [
            f"rank {self.rank}",
            f"condition number {self.condition_number:.3g}",
            "coverage radius "
            + ("unknown" if math.isnan(self.coverage_radius) else f"{self.coverage_radius:.3g}"),
            f"duplicates {self.duplicates}",
            f"smallest leverage {self.smallest_leverage:.3g}",
        ]
        if not math.isnan(self.lost_energy):
            lines.append(f"lost energy {self.lost_energy:.2%}")
        lines += [f"warning: {text}" for text in self.warnings] or ["no warnings"]
        return "\n".join(lines)


@torch.no_grad()
def anchor_report(
    anchors: Tensor, x: Tensor | None = None, *, normalize: bool = True
) -> AnchorReport:
    r"""Diagnose anchors: what a relative code over them loses, repeats, or makes unstable.

    Rank, condition number and leverage are those of the anchors as given, because the ``"basis"``
    similarity and the inverses of codes take them as they are: centre or scale them before as your
    code will. Distances, duplicates and energy are those of directions, or of positions. Two
    positions repeat each other where their distance is under 1e-5 of the root mean square distance
    of the anchors to their mean, two directions where it is under 1e-5. All in float64.
    O(AD min(A, D) + A²D + NAD) time; distances are taken in blocks.

    Args:
        anchors: Anchors.
        x: Samples, to measure what the anchors miss. Without them that part is left open.
        normalize: Measure between directions (rows scaled to length one, so that distances are
            :math:`\sqrt{2 - 2\cos}`), as a cosine code does, rather than between positions.

    Shape:
        - anchors: :math:`(A, D)`. x: :math:`(N, D)`.

    Raises:
        ValueError: If a row is not finite or has no features, or the widths differ.

    Example:
        >>> print(anchor_report(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])))
        rank 2
        condition number 1.41
        coverage radius 1.41
        duplicates 1
        smallest leverage 0.5
        warning: 1 anchor repeats an earlier one (1 repeats 0): use `prune_anchors(anchors, 1e-6)`.
    """
    checks.check_rows("anchors", anchors)
    checks.check_readable("anchors", anchors)
    checks.check_finite("anchors", anchors)
    if anchors.shape[1] == 0:
        raise ValueError(
            f"`anchors` must have at least one feature, got shape {tuple(anchors.shape)}."
        )
    if x is not None:
        checks.check_rows("x", x, anchors.shape[1])
        checks.check_device(anchors, x, ("anchors", "x"))
        checks.check_finite("x", x)
    with full_precision(anchors):
        return _report(anchors, x, normalize)


def _report(anchors: Tensor, x: Tensor | None, normalize: bool) -> AnchorReport:
    """`anchor_report` of checked rows."""
    rows = as_float64(anchors)
    u, s, vh = torch.linalg.svd(rows, full_matrices=False)
    tolerance = rank_tolerance(rows.shape[1], rounding_of(anchors.dtype))
    rank = int((s > s[0] * tolerance).sum())
    leverage = u[:, :rank].square().sum(1)
    frame = _Frame(rows, x, normalize)
    repeats, radius = _neighbors(frame.place(rows), (rows != 0).any(1), normalize)
    lost = math.nan
    if x is not None:
        radius, lost = _missed(x, frame.place(rows), vh[:rank], frame)
    condition = float(s[0] / s[-1]) if rank == min(rows.shape) else math.inf
    threshold = max(1e-6, 4 * angle_rounding(anchors) ** 2)  # what sets copies apart from the limit
    warnings = _warnings(rows, rank, condition, leverage, repeats, lost, threshold)
    radius *= frame.unit
    return AnchorReport(
        rank, condition, radius, len(repeats), warnings, float(leverage.min()), lost
    )


class _Frame:
    """Where distances are taken: between directions, or positions in units near one.

    Positions are relative to the mean of the anchors, because far from the origin their squares
    hold little else, and in the unit of their largest entry, so that squares stay in range.
    """

    def __init__(self, anchors: Tensor, x: Tensor | None, normalize: bool) -> None:
        largest = [anchors.abs().max()]
        if x is not None:
            largest.append(as_float64(x.abs().max()))
        self.normalize = normalize
        self.unit = 1.0 if normalize else float(unit_of(torch.stack(largest).max()))
        self.middle = (anchors / self.unit).mean(0)

    def place(self, rows: Tensor) -> Tensor:
        """Rows in float64 as they are compared."""
        return unit_rows(rows) if self.normalize else rows / self.unit - self.middle


def _neighbors(
    space: Tensor, nonzero: Tensor, normalize: bool
) -> tuple[list[tuple[int, int]], float]:
    """Pairs (anchor, the earlier one it repeats), and the largest distance to a nearest other."""
    size = 1.0 if normalize else float(space.square().sum(1).mean()) ** 0.5
    repeats, farthest = [], 0.0 if space.shape[0] > 1 else math.nan
    step = blocks.rows_of_table(space.shape[0], space.dtype, space.device)
    for start in range(0, space.shape[0], step):
        distance = torch.cdist(
            space[start : start + step], space, compute_mode="donot_use_mm_for_euclid_dist"
        )
        own = torch.arange(start, start + len(distance), device=space.device)
        near = (distance <= _SAME * size) & nonzero[start : start + step, None] & nonzero
        near &= torch.arange(space.shape[0], device=space.device) < own[:, None]
        for i in near.any(1).nonzero().flatten().tolist():
            repeats.append((start + i, int(near[i].to(torch.uint8).argmax())))
        distance[own - start, own] = torch.inf
        if space.shape[0] > 1:
            farthest = max(farthest, float(distance.amin(1).max()))
    return repeats, farthest


def _missed(x: Tensor, space: Tensor, span: Tensor, frame: _Frame) -> tuple[float, float]:
    """Distance of the worst served sample, and the part of the energy outside the span."""
    radius, inside, total = 0.0, 0.0, 0.0
    unit = unit_of(as_float64(x.abs().max()))
    half = space.square().sum(1) / 2
    for block in x.split(blocks.rows_of_table(max(space.shape), space.dtype, x.device)):
        rows = as_float64(block)
        placed = frame.place(rows)
        # Products choose the nearest anchor; its distance is that of the two rows, exactly 0 if so.
        nearest = torch.addmm(half, placed, space.mT, alpha=-1).argmin(1)
        gaps = torch.linalg.vector_norm(placed - space[nearest], dim=1)
        radius = max(radius, float(gaps.max()))
        scaled = placed if frame.normalize else rows / unit
        inside += float((scaled @ span.mT).square().sum())
        total += float(scaled.square().sum())
    return radius, max(0.0, 1 - inside / total) if total > 0 else 0.0


def _warnings(
    rows: Tensor,
    rank: int,
    condition: float,
    leverage: Tensor,
    repeats: list[tuple[int, int]],
    lost: float,
    threshold: float,
) -> tuple[str, ...]:
    """What to mind, the gravest first."""
    number, width = rows.shape
    found = []
    zero = (rows == 0).all(1).nonzero().flatten().tolist()
    if zero:
        found.append(f"{_count(zero, 'is', 'are')} zero ({_listed(zero)}): a constant column each.")
    if repeats:
        pairs = _listed([f"{i} repeats {j}" for i, j in repeats])
        found.append(
            f"{_count(repeats, 'repeats an earlier one', 'repeat earlier ones')} ({pairs}): "
            f"use `prune_anchors(anchors, {_short(threshold)})`."
        )
    found += _about_rank(number, width, rank, lost)
    if condition > _ILL_CONDITIONED:
        why = "they are dependent" if math.isinf(condition) else f"condition number {condition:.2g}"
        found.append(
            f"The basis similarity, and every inverse of a code, will be ill-conditioned ({why}): "
            "add a ridge, take more anchors, or keep those of `pivoted_anchors`."
        )
    units = unit_rows(rows)
    # |sum u_i|^2 is the sum of all cosines, of which the A of a row with itself are 1.
    shared = float((units.sum(0).square().sum() - number) / max(number * (number - 1), 1))
    if number > 1 and shared > _CROWDED:
        found.append(
            f"The mean cosine between anchors is {shared:.2f}: they mostly show what all share. "
            "Centre first."
        )
    weak = int(leverage.argmin())
    if not zero and number > rank and float(leverage[weak]) < 0.01 * rank / number:
        found.append(
            f"Anchor {weak} is too short to count among the others (leverage "
            f"{float(leverage[weak]):.1g}, mean {rank / number:.2g})."
        )
    return tuple(found)


def _about_rank(number: int, width: int, rank: int, lost: float) -> list[str]:
    """What a span smaller than the space costs."""
    if rank == width:
        return []
    anchors = "1 anchor" if number == 1 else f"{number} anchors"
    few = f"Only {anchors} for {width} dimensions"
    low = f"{anchors} of rank {rank} for {width} dimensions"
    cause = low if rank < number else few
    if math.isnan(lost):
        cost = "what lies outside their span is lost. Give samples `x` to measure how much"
    else:
        cost = f"{lost:.1%} of the energy of the samples lies outside their span and is lost"
    return [f"{cause}: {cost}."]


def _short(value: float) -> str:
    """One digit and an exponent, as one writes them."""
    return f"{value:.0e}".replace("e-0", "e-")


def _count(items: list[int] | list[tuple[int, int]], one: str, many: str) -> str:
    return f"1 anchor {one}" if len(items) == 1 else f"{len(items)} anchors {many}"


def _listed(items: list[int] | list[str]) -> str:
    return ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")
