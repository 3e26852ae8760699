"""Minimum spanning trees of clouds: which pairs of points a single linkage joins.

Every method orders pairs by (length, i, j) with i < j, a strict order, so of the same distances all
find the same tree, ties and duplicates included. Of points, methods may measure with different
kernels, which round differently: then they agree but for ties that rounding breaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import at_least_float32
from relreps.topo_loss.metric import (
    KERNELS,
    Metric,
    check_cloud,
    check_distances,
    embed,
    on_host,
    pairwise,
    parse_metric,
)

METHODS = ("auto", "closure", "prim", "boruvka", "single_linkage")

#: Clouds of at most this many points go by the closure.
CLOSURE_SIZE = 32
#: Points that are linked at once on the CPU; a larger cloud goes by pairs of parts half this size.
LINKAGE_SIZE = 4096
#: Distances that Boruvka's method holds at once; of more, it measures rows anew each time. Traced,
#: it is for each cloud, so that one program runs for any number of clouds.
BLOCK = 1 << 26
#: Bits of a float64 that a float32 does not fill.
_SPARE_BITS = (1 << 29) - 1


def minimum_spanning_tree(distances: Tensor, method: str = "auto") -> Tensor:
    """Edges of the minimum spanning tree of each matrix of distances.

    Pairs are ordered by (length, i, j) with i < j, so the tree is unique: every method finds the
    same one, ties and zeros included. Infinite distances are allowed, for pairs that do not touch:
    the finite edges are then a spanning forest and come first. There is no gradient: measure the
    edges with `relreps.topo_loss.edge_lengths`.

    Args:
        distances: Symmetric to 1e-4 of each entry (the mean of both is taken), not negative. The
            diagonal is ignored. Values are checked on the CPU, outside of ``torch.compile``.
        method: As in `death_times`.

    Shape:
        - distances: :math:`(*, n, n)`. Output: :math:`(*, n - 1, 2)`, ``int64``, i < j in a row,
          rows in the order of the pairs.

    Raises:
        TypeError, ValueError: No real square matrix, NaN, negative or asymmetric distances, an
            unknown method.

    Example:
        >>> x = torch.tensor([[0.0], [5.0], [1.0]])
        >>> minimum_spanning_tree((x - x.T).abs())
        tensor([[0, 2],
                [1, 2]])
    """
    check_points("distances", distances, "precomputed")
    return spanning_edges(distances, "precomputed", method)


def spanning_edges(
    x: Tensor, metric: Metric = "l2", method: str = "auto", *, groups: Tensor | None = None
) -> Tensor:
    """Edges of the minimum spanning tree of each cloud, without gradient; values go unchecked.

    Pairs of different ``groups`` are infinitely far apart: the first edges then make a spanning
    forest, and those that join two groups come last, in no promised order.

    Args:
        x: Points, or distances where the metric is ``"precomputed"``.
        metric: As in `death_times`.
        method: As in `death_times`.
        groups: Integers.

    Shape:
        - x: :math:`(*, n, D)`; groups: :math:`(*, n)`. Output: :math:`(*, n - 1, 2)`.
    """
    check_cloud("x", x, metric)
    find = _FINDERS[resolve_method(method, x)]
    *batch, n, width = x.shape
    clouds = math.prod(batch)
    if n < 2 or not clouds:
        return torch.zeros(*batch, max(n - 1, 0), 2, dtype=torch.long, device=x.device)
    with torch.no_grad():
        pairs = _Pairs(x.detach().reshape(clouds, n, width), metric, groups)
        return find(pairs).view(*batch, n - 1, 2)


def check_points(name: str, x: Tensor, metric: Metric) -> None:
    """Refuse what is no cloud, and on the host values that are no points or distances."""
    check_cloud(name, x, metric)
    if not on_host(x):
        return
    if parse_metric(metric)[0] == "precomputed":
        check_distances(name, x)
    else:
        checks.check_finite(name, x.flatten(0, -2))


def resolve_method(method: str, x: Tensor) -> str:
    """The method that ``"auto"`` stands for; one that cannot run here is refused."""
    checks.check_choice("method", method, METHODS)
    if method == "single_linkage" and not on_host(x):
        raise ValueError(
            "`method` 'single_linkage' runs on the CPU outside of torch.compile only. Use 'auto', "
            "'closure', 'prim' or 'boruvka' here."
        )
    if method != "auto":
        return method
    if x.shape[-2] <= CLOSURE_SIZE:
        return "closure"
    return "single_linkage" if on_host(x) else "boruvka"


class _Pairs:
    """Distances of the pairs of each of B clouds, as many at a time as a method wants.

    Infinite ones come as the largest finite number: infinity itself means that a pair is excluded.
    """

    def __init__(self, x: Tensor, metric: Metric, groups: Tensor | None) -> None:
        self.clouds, self.size, _ = x.shape
        self.groups = None if groups is None else groups.reshape(self.clouds, self.size)
        self.matrix: Tensor | None = None
        if parse_metric(metric)[0] == "precomputed":
            wide = at_least_float32(x)
            self.matrix = wide / 2 + wide.mT / 2
            self.points, self.p = wide[..., :0], 2.0
        else:
            self.points, self.p = embed(x, metric)

    def rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Distances ``(B, stop - start, n)`` of a range of points to all."""
        if self.matrix is None:
            d = pairwise(self.points[:, start:stop], self.points, self.p)
        else:
            d = self.matrix[:, start:stop]
        if self.groups is None:
            return self._finite(d)
        return self._finite(d, self.groups[:, start:stop, None] == self.groups[:, None])

    def row(self, i: Tensor) -> Tensor:
        """Distances ``(B, n)`` of point ``i`` ``(B, 1)`` of each cloud to all."""
        if self.matrix is None:
            at = i[..., None].expand(-1, 1, self.points.shape[-1])
            d = pairwise(self.points.gather(1, at), self.points, self.p)[:, 0]
        else:
            d = self.matrix.gather(1, i[..., None].expand(-1, 1, self.size))[:, 0]
        if self.groups is None:
            return self._finite(d)
        return self._finite(d, self.groups.gather(1, i) == self.groups)

    def upper(self, i: Tensor, j: Tensor) -> Tensor:
        """Distances ``(B, m)`` of the pairs i < j, row by row."""
        if self.matrix is not None or self.p not in KERNELS or not on_host(self.points):
            return self.rows()[:, i, j]
        # Several times as fast as the general kernel, but of one cloud at a time.
        d = torch.stack([torch.pdist(points, self.p) for points in self.points.unbind()])
        if self.groups is None:
            return d
        return self._finite(d, self.groups[:, i] == self.groups[:, j])

    def condensed(self, cloud: int, rows: Tensor | None = None) -> Tensor:
        """Distances of the pairs i < j of some points of one cloud, row by row."""
        from scipy.spatial.distance import squareform

        keep = slice(None) if rows is None else rows
        points = self.points[cloud][keep]
        if self.matrix is None and self.p in KERNELS:
            d = torch.pdist(points, self.p)
        else:
            whole = self.matrix
            square = (
                pairwise(points, points, self.p) if whole is None else whole[cloud][keep][:, keep]
            )
            d = torch.from_numpy(squareform(square.numpy(), checks=False))
        if self.groups is None:
            return d if self.matrix is None else self._finite(d)
        groups = self.groups[cloud][keep]
        near = squareform((groups[:, None] == groups).numpy(), checks=False)
        return self._finite(d, torch.from_numpy(near))

    @staticmethod
    def _finite(d: Tensor, near: Tensor | None = None) -> Tensor:
        top = torch.finfo(d.dtype).max
        d = d.nan_to_num(nan=top, posinf=top)
        return d if near is None else torch.where(near, d, top)


def _ordered(length: Tensor, pair: Tensor, n: int) -> Tensor:
    """Edges ``(B, k, 2)`` in the order of (length, i, j), from pair numbers ``i * n + j``."""
    pair, order = pair.sort(-1)
    order = length.gather(-1, order).sort(dim=-1, stable=True).indices
    pair = pair.gather(-1, order)
    return torch.stack((pair // n, pair % n), -1)


def _rounds(n: int) -> int:
    return math.ceil(math.log2(n))


def _closure(pairs: _Pairs) -> Tensor:
    """An edge is in the tree iff every path around it has a larger edge (Floyd-Warshall)."""
    n = pairs.size
    i, j = torch.triu_indices(n, n, 1, device=pairs.points.device)
    place = torch.zeros(n, n, dtype=torch.long, device=i.device)
    place[i, j] = torch.arange(len(i), device=i.device)
    key = _strictly_ordered(pairs.upper(i, j))
    # The largest edge of the best path so far, clouds last, which is the fastest. What stands on
    # the diagonal does not matter.
    reach = key.mT.contiguous().index_select(0, (place + place.mT).flatten()).view(n, n, -1)
    for k in range(n):
        reach = torch.minimum(reach, torch.maximum(reach[:, k : k + 1], reach[k : k + 1]))
    top = torch.finfo(key.dtype).max
    at = torch.where(reach[i, j].mT == key, key, top).topk(n - 1, largest=False).indices
    return torch.stack((i[at], j[at]), -1)


def _strictly_ordered(d: Tensor) -> Tensor:
    """Numbers ``(B, m)`` in the order of the distances, all different: ties go by place."""
    if d.dtype == torch.float32 and d.device.type != "mps":
        return _numbered(d)
    return d.argsort(dim=-1, stable=True).argsort(-1).to(d.dtype)


def _numbered(d: Tensor) -> Tensor:
    """Single-precision distances in double, each with its place in the bits that it leaves free.

    A zero becomes the smallest normal number, lest the whole be one that is not normal.
    """
    wide = d.clamp_min(torch.finfo(d.dtype).tiny).double()
    place = torch.arange(d.shape[-1], device=d.device)
    return (wide.view(torch.int64) | place).view(torch.float64)


def _prim(pairs: _Pairs) -> Tensor:
    """Grows one tree from point 0, always by the nearest point outside, in O(Bn) memory."""
    n = pairs.size
    here = torch.arange(n, device=pairs.points.device)
    new = here.new_zeros(pairs.clouds, 1)
    done = here.new_zeros(pairs.clouds, n, dtype=torch.bool)
    parent = here.new_zeros(pairs.clouds, n)
    best = pairs.points.new_full((pairs.clouds, n), math.inf)
    lengths, chosen = [], []
    for _ in range(n - 1):
        done = done.scatter(1, new, True)
        row = pairs.row(new)
        # For one outer end, the smaller inner end makes the smaller pair.
        closer = (row < best) | ((row == best) & (new < parent))
        best, parent = torch.where(closer, row, best), torch.where(closer, new, parent)
        outside = torch.where(done, math.inf, best)
        lowest = outside.amin(-1, keepdim=True)
        pair = torch.minimum(parent, here) * n + torch.maximum(parent, here)
        pair = torch.where(outside == lowest, pair, n * n)
        new = pair.argmin(-1, keepdim=True)
        lengths.append(lowest)
        chosen.append(pair.gather(1, new))
    return _ordered(torch.cat(lengths, 1), torch.cat(chosen, 1), n)


def _boruvka(pairs: _Pairs) -> Tensor:
    """Every component takes its smallest edge to another one; at most half remain each round."""
    n, device = pairs.size, pairs.points.device
    here = torch.arange(n, device=device)
    none = n * n
    label = here.expand(pairs.clouds, n)
    # A component that joins another one dies: its edge is kept under its name. One survives.
    pair = label.new_full((pairs.clouds, n), none)
    length = pairs.points.new_full((pairs.clouds, n), math.inf)
    block = max(1, BLOCK // (n * pairs.clouds if checks.eager() else n))
    whole = pairs.rows() if block >= n else None
    for _ in range(_rounds(n)):
        best, other = _nearest(pairs, whole, label, block)
        number = torch.minimum(here, other) * n + torch.maximum(here, other)
        lowest = torch.full_like(best, math.inf).scatter_reduce(1, label, best, "amin")
        tied = (best == lowest.gather(1, label)) & (best < math.inf)
        number = torch.where(tied, number, none)
        number = torch.full_like(number, none).scatter_reduce(1, label, number, "amin")
        live = number < none
        i = label.gather(1, torch.where(live, number // n, 0))
        j = label.gather(1, torch.where(live, number % n, 0))
        target = torch.where(live, i + j - here, here)  # one of both ends is here
        # Two components that chose the same edge point at each other: the smaller one stays.
        dies = live & ((target.gather(1, target) != here) | (target < here))
        pair, length = torch.where(dies, number, pair), torch.where(dies, lowest, length)
        target = torch.where(dies, target, here)
        for _ in range(_rounds(n)):
            target = target.gather(1, target)
        label = target.gather(1, label)
    return _ordered(length, pair, n)[:, : n - 1]


def _nearest(
    pairs: _Pairs, whole: Tensor | None, label: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """Distance and number of the nearest point of another component, for each point."""
    best, other = [], []
    for start in range(0, pairs.size, block):
        d = pairs.rows(start, start + block) if whole is None else whole
        same = label[:, start : start + block, None] == label[:, None]
        d = torch.where(same, math.inf, d)
        at = d.argmin(-1, keepdim=True)  # the first of equal ones: the smallest pair
        best.append(d.gather(-1, at)[..., 0])
        other.append(at[..., 0])
    return torch.cat(best, 1), torch.cat(other, 1)


def _single_linkage(pairs: _Pairs) -> Tensor:
    """SciPy's single linkage, cloud by cloud; a large cloud by pairs of its parts."""
    return torch.stack([_linkage_tree(pairs, cloud) for cloud in range(pairs.clouds)])


def _linkage_tree(pairs: _Pairs, cloud: int) -> Tensor:
    n = pairs.size
    if n <= LINKAGE_SIZE:
        length, i, j = _linked(pairs.condensed(cloud), n)
    else:
        # An edge of the tree is in the tree of every part of the cloud that holds both its ends.
        found = []
        for rows in _unions(n, LINKAGE_SIZE // 2):
            length, i, j = _linked(pairs.condensed(cloud, rows), len(rows))
            keep = _kruskal(length, i, j, len(rows))
            number = rows.numpy()
            found.append((length[keep], number[i[keep]], number[j[keep]]))
        length, i, j = (np.concatenate(part) for part in zip(*found, strict=True))
        _, first = np.unique(i * n + j, return_index=True)
        length, i, j = length[first], i[first], j[first]
    keep = _kruskal(length, i, j, n)
    return torch.from_numpy(np.stack((i[keep], j[keep]), -1))


def _unions(n: int, size: int) -> Iterator[Tensor]:
    """Row numbers of every two parts of about ``size`` of n points, ascending."""
    parts = torch.arange(n).tensor_split(math.ceil(n / size))
    for b in range(len(parts)):
        for a in range(b):
            yield torch.cat((parts[a], parts[b]))


def _linked(condensed: Tensor, n: int) -> tuple[Any, Any, Any]:
    """Lengths and ends of the edges of the tree; in float64, of their ties as well.

    Linkage tells the heights at which clusters join, which are copies of distances, but not of
    which. Single precision leaves room behind each distance for the number of its pair: that comes
    back with the height, and decides ties on the way. In double precision the heights at which the
    ends of every pair join are compared with its distance, exactly.
    """
    from scipy.cluster import hierarchy

    d = condensed.numpy()
    if condensed.dtype == torch.float32:
        heights = hierarchy.linkage(_numbered(condensed).numpy(), "single")[:, 2]
        at = heights.copy().view(np.int64) & _SPARE_BITS
    else:
        heights = hierarchy.cophenet(hierarchy.linkage(d, "single"))
        at = np.flatnonzero(heights == d)
    row = np.arange(n)
    starts = row * (2 * n - row - 1) // 2  # of each row in the condensed order
    i = np.searchsorted(starts, at, side="right") - 1
    return d[at], i, at - starts[i] + i + 1


def _kruskal(length: Any, i: Any, j: Any, n: int) -> Any:
    """Which of some pairs make the tree, in the order of (length, i, j)."""
    order = np.lexsort((j, i, length))
    if len(order) < n:  # no more than a tree has
        return order
    from scipy.sparse import csgraph, csr_array

    # Ranks instead of lengths: all different, and none so small that SciPy takes it for 0.
    rank = np.arange(1, len(order) + 1)
    graph = csr_array((rank, (i[order], j[order])), shape=(n, n))
    return order[np.sort(csgraph.minimum_spanning_tree(graph).data).astype(np.int64) - 1]


_FINDERS: dict[str, Callable[[_Pairs], Tensor]] = {
    "closure": _closure,
    "prim": _prim,
    "boruvka": _boruvka,
    "single_linkage": _single_linkage,
}
