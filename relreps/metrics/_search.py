"""Exact cosine search in chunks, which retrieval and neighbour measures share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from relreps import _checks
from relreps._linalg import full_precision, unit_rows
from relreps._warnings import NumericalWarning

#: Rows compared with all keys at once.
CHUNK = 1024


def unit_pair(x: Tensor, y: Tensor, minimum: int = 1) -> tuple[Tensor, Tensor]:
    """Paired, finite rows, at least ``minimum`` of them, with length one in float32 at least."""
    _checks.check_rows("x", x, minimum=minimum)
    _checks.check_rows("y", y, minimum=minimum)
    _checks.check_paired(x, y)
    _checks.check_finite("x", x)
    _checks.check_finite("y", y)
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return unit_rows(x.detach().to(dtype)), unit_rows(y.detach().to(dtype))


def chunks(n: int, chunk_size: int) -> Iterator[slice]:
    """Slices that cover ``range(n)``."""
    _checks.check_size("chunk_size", chunk_size)
    return (slice(start, min(start + chunk_size, n)) for start in range(0, n, chunk_size))


def is_constant(name: str, rows: Tensor, stacklevel: int = 3) -> bool:
    """Whether unit rows all point the same way, up to rounding; warns if so. Synchronises."""
    tolerance = 4 * torch.finfo(rows.dtype).eps
    if bool(((rows - rows[:1]).abs() > tolerance).any()):
        return False
    warnings.warn(
        f"`{name}` is constant: its {rows.shape[0]} rows all point the same way, so none is nearer "
        "than another and the measure is NaN. Look for a collapsed encoder.",
        NumericalWarning,
        stacklevel=stacklevel,
    )
    return True


class Search:
    """Cosines of unit rows with all keys, where copies of a key tie exactly.

    A product rounds equal columns differently, depending on where they stand, so each distinct key
    is multiplied once. Each call writes into the memory of the one before: fetching it anew costs
    a fifth of the product.

    Args:
        keys: Unit rows ``(N, D)``.
        chunk_size: Most rows in a call.
    """

    def __init__(self, keys: Tensor, chunk_size: int) -> None:
        distinct, index = keys.unique(dim=0, return_inverse=True)
        repeated = len(distinct) < len(keys)
        self._keys: Tensor = distinct if repeated else keys
        self._index: Tensor | None = index if repeated else None
        size = min(chunk_size, len(keys))
        self._products = keys.new_empty(size, len(self._keys))
        self._spread = keys.new_empty(size, len(keys)) if repeated else self._products

    def __call__(self, rows: Tensor) -> Tensor:
        """Cosines ``(rows, N)``, the caller's to change until the next call."""
        with full_precision(rows):
            out = torch.mm(rows, self._keys.mT, out=self._products[: len(rows)])
        if self._index is None:
            return out
        return torch.index_select(out, 1, self._index, out=self._spread[: len(rows)])


def top_k(scores: Tensor, k: int) -> Tensor:
    """Columns of the ``k`` largest entries of each row, in no order; ties go to the lowest."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    if k == scores.shape[1]:
        return columns
    # Only where the next value equals the last one is there a choice to make.
    open_rows = (values[:, k - 1] == values[:, k]).nonzero().flatten()
    columns = columns[:, :k]
    if len(open_rows):
        least, rows = values[open_rows, k - 1, None], scores[open_rows]
        above, tied = rows > least, rows == least
        room = k - above.sum(-1, keepdim=True)
        chosen = above | (tied & (tied.cumsum(-1) <= room))
        columns[open_rows] = chosen.nonzero()[:, 1].view(-1, k)
    return columns


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """How many indices two lists ``(N, k)`` without repetition share, row by row."""
    both = torch.cat((a, b), 1).sort(-1).values
    return (both[:, 1:] == both[:, :-1]).sum(-1)
