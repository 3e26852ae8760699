"""Rows as the samplers see them: checked, and as directions or as positions about their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import at_least_float32, unit_rows

#: Rows copied or widened at once.
_STEP = 1 << 15


def check_samples(x: Tensor, num_anchors: int) -> None:
    """Refuse what ``num_anchors`` different anchors cannot be chosen from. Synchronises.

    Keeps no copy of ``x``: all entries are finite if the smallest and the largest are.
    """
    checks.check_rows("x", x)
    if x.shape[1] == 0:
        raise ValueError(f"`x` must have at least one feature, got shape {tuple(x.shape)}.")
    if num_anchors > x.shape[0]:
        raise ValueError(
            f"`num_anchors` must be at most the number of samples, got {num_anchors} "
            f"anchors and {x.shape[0]} samples. Give more samples or ask for fewer anchors."
        )
    if not bool(torch.stack(x.aminmax()).isfinite().all()):
        checks.check_finite("x", x)
    check_distinct("num_anchors", num_anchors, x)


def check_distinct(name: str, number: int, x: Tensor) -> None:
    """Refuse fewer different rows than ``number``. The first rows nearly always settle it."""
    x = x.detach()
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

    Positions end up at most 1 large, so that squares stay in the range of the type: no choice
    depends on the unit. Holds one copy of ``x`` and blocks.
    """
    rows = torch.empty_like(x, dtype=at_least_float32(x[:0]).dtype)
    if normalize:
        for source, target in zip(x.split(_STEP), rows.split(_STEP), strict=True):
            target.copy_(unit_rows(at_least_float32(source)))
        return rows
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
    return x, torch.where(lengths > 0, 1 / lengths, 0)


def _scale_(x: Tensor) -> Tensor:
    """Divide ``x`` in place by its largest entry."""
    largest = torch.stack(x.aminmax()).abs().max()
    return x.div_(torch.where(largest > 0, largest, 1))
