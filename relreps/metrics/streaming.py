"""What streams of measures share that look at pairs of rows: the rows, of batches and processes."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core import checks, distributed


class PairedRows:
    """Paired rows of two spaces, in the order in which they came."""

    def __init__(self) -> None:
        self._x: list[Tensor] = []
        self._y: list[Tensor] = []

    @property
    def count(self) -> int:
        """Number of rows so far."""
        return sum(map(len, self._x))

    def update(self, x: Tensor, y: Tensor) -> Self:
        """Add a copy of paired rows ``(N, D)`` and ``(N, E)``; they stay on their device."""
        for name, rows, seen in (("x", x, self._x), ("y", y, self._y)):
            checks.check_rows(name, rows, seen[0].shape[1] if seen else None, minimum=0)
            checks.check_finite(name, rows)
        checks.check_paired(x, y)
        if x.shape[0]:
            self._x.append(x.detach().clone())
            self._y.append(y.detach().clone())
        return self

    def reset(self) -> Self:
        """Forget everything."""
        self._x, self._y = [], []
        return self

    def merge(self, other: Self) -> Self:
        """Add the rows of another one of the same kind, after those that are here."""
        if repr(other) != repr(self):
            raise ValueError(f"`other` must be a {self}, got {other}. Merge what is built alike.")
        for x, y in zip(list(other._x), list(other._y), strict=True):
            self.update(x, y)
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Put the rows of all processes together, by rank; every process then holds them all.

        The numbers of rows may differ. Call it once, before `compute`.

        Args:
            group: The processes; all of them by default.

        Raises:
            RuntimeError: There is no process group.
            ValueError: The processes hold different measures, or rows of different widths.
        """
        distributed.check_agreement("The measure", repr(self), group)
        own = [rows[0].device if rows else torch.device("cpu") for rows in (self._x, self._y)]
        mine = [torch.cat(rows).cpu() if rows else None for rows in (self._x, self._y)]
        shards: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(shards, mine, group=group)
        joined = copy.copy(self).reset()
        for x, y in shards:
            if x is not None:
                joined.update(x.to(own[0]), y.to(own[1]))
        self._x, self._y = joined._x, joined._y
        return self

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows so far, ``(N, D)`` and ``(N, E)``."""
        if not self._x:
            raise RuntimeError(f"{self} has seen no rows yet. Call `update(x, y)` first.")
        return torch.cat(self._x), torch.cat(self._y)
