"""The pairs of points among which a spanning tree is chosen, and the strict order of these pairs.

All methods choose by the key (length, i, j) of a pair of points i < j. No two pairs have the same
key, and from that alone it follows that they find the same tree, ties and duplicates included:

1. Cut. Let S be some of the points, not all, and e the pair of the smallest key with one end in S.
   Then every minimum spanning tree has e: add e to a tree without it, and the ring that closes has
   another pair f that leaves S; e for f is a smaller tree, as the key of f is not equal but larger.
2. Ring. A pair whose key is the largest of some ring is in no minimum spanning tree: taken out of
   one, it leaves two parts, and the ring has another pair, a smaller one, that joins them.
3. So the tree is unique: a pair is in it if and only if no other path between its ends has smaller
   keys throughout.

Prim's and Boruvka's methods take pairs by 1, the closure those that 3 leaves, single linkage the
lengths at which parts join, which are those of 1. By 2, what is in the tree of a cloud is in that
of each part of the cloud that holds both its ends.

The orders agree where distances are the same numbers. Of points, methods may measure with different
kernels, which round differently: then they agree but for ties that rounding breaks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relreps.topo_loss.metric import Metric


class Candidates:
    """The pairs of points of each of B clouds: distances, as many at a time as a method wants.

    Pairs of different groups are as far apart as numbers go.

    Args:
        space: What the metric has prepared, ``(B, n, W)``.
        metric: Metric of the clouds.
        groups: Integers ``(B, n)``.
    """

    def __init__(self, space: Tensor, metric: Metric, groups: Tensor | None) -> None:
        self.clouds, self.size, _ = space.shape
        self.space, self.metric, self.groups = space, metric, groups

    def rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Distances ``(B, stop - start, n)`` of a range of points to all."""
        d = self.metric.pairwise(self.space[:, start:stop], self.space)
        if self.groups is None:
            return d
        return _apart(d, self.groups[:, start:stop, None] == self.groups[:, None])

    def row(self, i: Tensor) -> Tensor:
        """Distances ``(B, n)`` of point ``i`` ``(B, 1)`` of each cloud to all."""
        at = i[..., None].expand(-1, 1, self.space.shape[-1])
        d = self.metric.pairwise(self.space.gather(1, at), self.space)[:, 0]
        if self.groups is None:
            return d
        return _apart(d, self.groups.gather(1, i) == self.groups)

    def condensed(self) -> Tensor:
        """Distances ``(B, m)`` of the pairs i < j, row by row."""
        d = self.metric.condensed(self.space)
        if self.groups is None:
            return d
        i, j = torch.triu_indices(self.size, self.size, 1, device=d.device)
        return _apart(d, self.groups[:, i] == self.groups[:, j])

    def part(self, cloud: int, rows: Tensor | None = None) -> Candidates:
        """One cloud, or some of its points."""
        space, groups = self.space[cloud], None if self.groups is None else self.groups[cloud]
        if rows is not None:
            space = self.metric.part(space, rows)
            groups = None if groups is None else groups[rows]
        return Candidates(space[None], self.metric, None if groups is None else groups[None])


def strict_keys(d: Tensor) -> Tensor:
    """Numbers ``(B, m)`` in the order of the distances, all different: ties go by place.

    The place of a pair i < j, counted row by row, grows with (i, j).
    """
    if d.dtype == torch.float32 and d.device.type != "mps":
        return numbered(d)
    return d.argsort(dim=-1, stable=True).argsort(-1).to(d.dtype)


def numbered(d: Tensor) -> Tensor:
    """Single-precision distances in double, each with its place in the bits that it leaves free.

    A float32 has 23 bits of fraction, a float64 has 52: the last 29 are zero, and hold the places
    of up to 32 768 points. Numbers that are not negative are in the order of their bits, read as an
    integer: by the distance first, then by the place. A zero becomes the smallest normal number,
    lest the whole be one that is not normal, and be flushed.
    """
    wide = d.clamp_min(torch.finfo(d.dtype).tiny).double()
    place = torch.arange(d.shape[-1], device=d.device)
    return (wide.view(torch.int64) | place).view(torch.float64)


#: The bits of such a number that hold the place.
PLACE_BITS = (1 << 29) - 1


def sorted_edges(length: Tensor, pair: Tensor, n: int) -> Tensor:
    """Edges ``(B, k, 2)`` in the order of (length, i, j), from pair numbers ``i * n + j``."""
    pair, order = pair.sort(-1)
    order = length.gather(-1, order).sort(dim=-1, stable=True).indices
    pair = pair.gather(-1, order)
    return torch.stack((pair // n, pair % n), -1)


def _apart(d: Tensor, near: Tensor) -> Tensor:
    """Distances, the largest number where not ``near``."""
    return torch.where(near, d, torch.finfo(d.dtype).max)
