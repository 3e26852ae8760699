"""What a correspondence is: rows of one space, their partners in another, and how sure each is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks


class Pairs(NamedTuple):
    """Rows of two spaces that encode the same thing, and how far each pair is ahead of its rivals.

    It unpacks, and is taken wherever ``seeds`` are: what one method found is where another starts.
    What a score is measured in, the function that made it says; the higher, the surer.

    Example:
        >>> pairs = Pairs(torch.tensor([0, 2]), torch.tensor([5, 1]), torch.tensor([0.3, 0.1]))
        >>> indices_x, indices_y, scores = pairs
    """

    indices_x: Tensor
    """Rows of the first space ``(P,)``, no row twice."""
    indices_y: Tensor
    """Their partners in the second ``(P,)``."""
    scores: Tensor
    """One number a pair ``(P,)``."""


#: Known pairs: row indices of both spaces in the same order, or the pairs that a method found.
Seeds = tuple[Tensor, Tensor] | Pairs

#: Row indices of both spaces, checked and on one device.
Indices = tuple[Tensor, Tensor]


def checked_seeds(seeds: Seeds, n: int, m: int, device: torch.device) -> Indices:
    """Seeds as int64 indices on ``device``: distinct, paired rows of two spaces of n and m."""
    if not isinstance(seeds, Pairs) and (not isinstance(seeds, tuple | list) or len(seeds) != 2):
        raise TypeError(
            "`seeds` must be a pair (indices_x, indices_y) of index tensors, or `Pairs`, got "
            f"{type(seeds).__name__}. Rows that are paired one by one are "
            "`(torch.arange(n), torch.arange(n))`."
        )
    for side, rows in enumerate((n, m)):
        _check_indices(f"seeds[{side}]", seeds[side], rows)
    checks.check_paired(seeds[0], seeds[1], ("seeds[0]", "seeds[1]"))
    return seeds[0].to(device).long(), seeds[1].to(device).long()


def united(known: Indices, i: Tensor, j: Tensor) -> Indices:
    """The known pairs, then those of ``i`` and ``j`` that share no row with them, ascending."""
    free = ~(torch.isin(i, known[0]) | torch.isin(j, known[1]))
    i, j = i[free], j[free]
    order = i.argsort()
    return torch.cat((known[0], i[order])), torch.cat((known[1], j[order]))


def _check_indices(name: str, indices: Tensor, rows: int) -> None:
    """Refuse what are not some of ``rows`` rows, each named once."""
    if not isinstance(indices, Tensor) or indices.dtype not in (torch.int64, torch.int32):
        came = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"`{name}` must be a tensor of row indices (int64), got {came}.")
    if indices.dim() != 1 or len(indices) == 0:
        raise ValueError(
            f"`{name}` must have shape (seeds,) with at least one, got {tuple(indices.shape)}."
        )
    low, high = (int(end) for end in indices.aminmax())
    if low < 0 or high >= rows:
        raise ValueError(
            f"`{name}` must be row indices from 0 to {rows - 1}, got values from {low} to {high}."
        )
    different = len(indices.unique())
    if different < len(indices):
        raise ValueError(
            f"`{name}` must name each row once, got {different} different rows in "
            f"{len(indices)} seeds. Drop the repeated pairs."
        )
