r"""Ties: what a list of the ``k`` nearest has in common with another, whichever of equals it takes.

Where keys tie for the last places of a list, the list is a random one: the keys before them are in
it for sure, and of the t that tie any r are, equally likely, where r is the room that is left. Two
lists are drawn independently of each other. Breaking ties by the index of a row instead would break
them alike in both lists, and so find agreement where there is none. Expectations are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import blocks


class Drawn(NamedTuple):
    """Random lists of some rows.

    Attributes:
        sure: Which keys are in the list for sure, ``(rows, N)``.
        tied: Which keys tie for the rest of it.
        room: How many of these are taken, float64 ``(rows, 1)``.
    """

    sure: Tensor
    tied: Tensor
    room: Tensor

    @property
    def ties(self) -> Tensor:
        """How many keys tie, float64 ``(rows, 1)``."""
        return self.tied.sum(1, keepdim=True, dtype=torch.float64)

    @property
    def chance(self) -> Tensor:
        """How likely each key is to be in the list, float64 ``(rows, N)``."""
        return self.sure + self.tied * (self.room / self.ties)

    @property
    def repulsion(self) -> Tensor:
        r"""How much less likely two keys that tie are to be in it both, ``(rows, 1)``.

        .. math:: \Bigl(\frac rt\Bigr)^2 - \frac{r (r - 1)}{t (t - 1)}
        """
        t, r = self.ties, self.room
        both = torch.where(t > 1, r * (r - 1) / (t * (t - 1)).clamp(min=1), 1)
        return (r / t).square() - both


def drawn(scores: Tensor, k: int) -> Drawn:
    """The random lists of the ``k`` largest scores of a `Search`, which tie if 1 apart or less."""
    last = scores.topk(k).values[:, -1:]
    sure = scores > last + 1
    room = k - sure.sum(1, keepdim=True, dtype=torch.float64)
    return Drawn(sure, (scores >= last - 1) & ~sure, room)


def some_at_once(rows: Tensor, columns: int) -> Iterator[Tensor]:
    """Parts of row indices, whose tables of float64 are held at once."""
    step = blocks.rows_of_table(columns, torch.float64, rows.device)
    return iter(rows.split(step)) if len(rows) else iter(())


def expected_common(a: Drawn, b: Drawn) -> Tensor:
    """Expected number of keys that two lists share, float64 ``(rows,)``."""
    return (a.chance * b.chance).sum(1)


def expected_jaccard(a: Drawn, b: Drawn) -> Tensor:
    """Expected Jaccard index of two lists, float64 ``(rows,)``. O(rows N), and O(k^3) a case."""
    # The index is no linear function of what is shared, but what is shared is decided by a few
    # counts, which are the same for many rows.
    counts = [
        (a.sure & b.sure).sum(1),
        (a.tied & b.sure).sum(1),
        (a.sure & b.tied).sum(1),
        (a.tied & b.tied).sum(1),
        *(n[:, 0].long() for n in (a.ties, a.room, b.ties, b.room)),
    ]
    length = a.sure.sum(1) + counts[5]
    table, place = torch.stack((*counts, length), 1).unique(dim=0, return_inverse=True)
    most = 1 + max(int(table[:, 5].max()), int(table[:, 7].max()))
    step = blocks.rows_of_table(most * most, torch.float64, table.device)
    return torch.cat([_jaccard_of_counts(part, most) for part in table.split(step)])[place]


def _jaccard_of_counts(counts: Tensor, most: int) -> Tensor:
    sure, a_only, b_only, both, ties_a, room_a, ties_b, room_b, k = counts.double().T[..., None]
    n = torch.arange(most, dtype=torch.float64, device=counts.device)
    # The second list takes i of those that the first has for sure, and j of those that tie in both,
    # a hypergeometric draw. Of the keys that tie in the first, a_only + j are then in the second,
    # and the first list takes h of them, another one. Shared are sure + i + h.
    i, j = n[:, None], n
    rest = ties_b - b_only - both
    draw_b = (
        _log_choose(b_only[..., None], i)
        + _log_choose(both[..., None], j)
        + _log_choose(rest[..., None], room_b[..., None] - i - j)
        - _log_choose(ties_b, room_b)[..., None]
    ).exp()
    found, h = (a_only + n)[..., None], n
    draw_a = (
        _log_choose(found, h)
        + _log_choose(ties_a[..., None] - found, room_a[..., None] - h)
        - _log_choose(ties_a, room_a)[..., None]
    ).exp()
    shared = torch.minimum(sure[..., None] + i + h, k[..., None])
    return (draw_b @ draw_a * shared / (2 * k[..., None] - shared)).sum((1, 2))


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """Logarithm of the number of ways to take k out of n; minus infinity where there is none."""
    some = (k >= 0) & (k <= n)
    n, k = torch.where(some, n, 0), torch.where(some, k, 0)
    ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return torch.where(some, ways, -torch.inf)
