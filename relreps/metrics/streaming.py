"""What streams of measures share that look at pairs of rows: the rows, of batches and processes."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core import checks, distributed
from relreps._core.linalg import full_precision


class PairedRows:
    """Paired rows of two spaces, in the order in which they came."""

    def __init__(self) -> None:
        # Pairs of batches, so that no side can be ahead of the other.
        self._batches: list[tuple[Tensor, Tensor]] = []

    @property
    def count(self) -> int:
        """Number of rows so far."""
        return sum(len(x) for x, _ in self._batches)

    def update(self, x: Tensor, y: Tensor) -> Self:
        """Add a copy of paired rows ``(N, D)`` and ``(N, E)``; they stay on their device."""
        seen = self._batches[0] if self._batches else (None, None)
        for name, rows, before in zip("xy", (x, y), seen, strict=True):
            width = None if before is None else before.shape[1]
            checks.check_rows(name, rows, width, minimum=0)
            checks.check_finite(name, rows)
        checks.check_paired(x, y)
        if x.shape[0]:
            self._batches.append((x.detach().clone(), y.detach().clone()))
        return self

    def reset(self) -> Self:
        """Forget everything."""
        self._batches = []
        return self

    def merge(self, other: Self) -> Self:
        """Add the rows of another one of the same kind, after those that are here."""
        if repr(other) != repr(self):
            raise ValueError(f"`other` must be a {self}, got {other}. Merge what is built alike.")
        whole = copy.copy(self)
        whole._batches = list(self._batches)
        for x, y in list(other._batches):
            whole.update(x, y)
        self._batches = whole._batches
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
        sides = self.rows() if self._batches else (None, None)
        own = [torch.device("cpu") if rows is None else rows.device for rows in sides]
        mine = [None if rows is None else rows.cpu() for rows in sides]
        shards: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(shards, mine, group=group)
        joined = copy.copy(self).reset()
        for x, y in shards:
            if x is not None:
                joined.update(x.to(own[0]), y.to(own[1]))
        self._batches = joined._batches
        return self

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows so far, ``(N, D)`` and ``(N, E)``."""
        if not self._batches:
            raise RuntimeError(f"{self} has seen no rows yet. Call `update(x, y)` first.")
        x, y = zip(*self._batches, strict=True)
        with full_precision(x[0]):  # which takes batches of types that differ
            return torch.cat(x), torch.cat(y)
