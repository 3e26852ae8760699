"""Rows as the samplers see them: checked, and as directions or as positions about their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import at_least_float32, full_precision, unit_rows
from relreps._core.rounding import safe_reciprocal, unit_of


def check_samples(x: Tensor, num_anchors: int) -> None:
    """Refuse what ``num_anchors`` different anchors cannot be chosen from. Synchronises."""
    checks.check_rows("x", x)
    if x.shape[1] == 0:
        raise ValueError(f"`x` must have at least one feature, got shape {tuple(x.shape)}.")
    if num_anchors > x.shape[0]:
        raise ValueError(
            f"`num_anchors` must be at most the number of samples, got {num_anchors} "
            f"anchors and {x.shape[0]} samples. Give more samples or ask for fewer anchors."
        )
    checks.check_readable("x", x)
    checks.check_finite("x", x)
    check_distinct("num_anchors", num_anchors, x)


def check_distinct(name: str, number: int, x: Tensor) -> None:
    """Refuse fewer different rows than ``number``. The first rows nearly always settle it."""
    x = x.detach()
    with full_precision(x):  # torch stacks the rows
        distinct = len(x[: 4 * number].unique(dim=0)) if number > 1 else 1
        if distinct < number:
            distinct = len(x.unique(dim=0))
    if distinct < number:
        raise ValueError(
            f"`{name}` must be at most the number of distinct samples, got {number} and "
            f"{distinct} distinct samples among {x.shape[0]}. Equal samples make equal columns: "
            "ask for fewer, or give samples that differ."
        )


def prepared(x: Tensor, normalize: bool) -> Tensor:
    """A copy of the rows in at least float32: directions, or positions about their mean.

    Positions end up near 1 in size, so that squares stay in the range of the type: no choice
    depends on the unit. Holds one copy of ``x`` and blocks.
    """
    rows = torch.empty_like(x, dtype=at_least_float32(x[:0]).dtype)
    if normalize:
        step = blocks.rows_at_once(x.shape[1], rows.dtype, x.device)
        for source, target in zip(x.split(step), rows.split(step), strict=True):
            target.copy_(unit_rows(at_least_float32(source)))
        return rows
    # Twice: a mean is exact to the rounding of the largest entry, and what is left may be tiny.
    _scale_(rows.copy_(x))
    return _scale_(rows.sub_(rows.mean(0)))


def directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows, and one factor a row that makes it a direction; ``x`` itself where squares are safe."""
    x = at_least_float32(x)
    lengths = torch.linalg.vector_norm(x, dim=1)
    room = torch.finfo(x.dtype).max ** 0.25
    safe = ((lengths > 1 / room) & (lengths < room)) | (lengths == 0)
    if not bool(safe.all()) or bool(x[lengths == 0].any()):  # a length of 0 by underflow
        x = prepared(x, normalize=True)
        lengths = torch.linalg.vector_norm(x, dim=1)
    return x, safe_reciprocal(lengths)


def squared_lengths(rows: Tensor) -> Tensor:
    """``|x|^2`` of each row, without a squared copy of all of them.

    A sum of squares: the square of a length is not exact where the sum is, as on a grid.
    """
    step = blocks.rows_at_once(rows.shape[1], rows.dtype, rows.device)
    return torch.cat([block.square().sum(1) for block in rows.split(step)])


def tie(squares: Tensor) -> Tensor:
    r"""Squared distances that differ by less are equal, given the squared lengths of the rows.

    :math:`|a|^2 - 2 a \cdot b + |b|^2` sums four terms of at most the largest squared length, each
    with the rounding of its own sum and of the addition: which of two equal distances is the
    smaller must not follow from that.
    """
    return 8 * torch.finfo(squares.dtype).eps * squares.max()


def _scale_(x: Tensor) -> Tensor:
    """Divide ``x`` in place by the unit of its largest entry."""
    return x.div_(unit_of(torch.stack(x.aminmax()).abs().max()))
