"""Spanning trees in torch: static in shape, on any device, traced or not; see `order`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from relreps._core import checks
from relreps.topo_loss.order import Candidates, sorted_edges, strict_keys

#: Distances that Boruvka's method holds at once; of more, it measures rows anew each time. Traced,
#: it is for each cloud, so that one program runs for any number of clouds.
BLOCK = 1 << 26


def closure(pairs: Candidates) -> Tensor:
    """An edge is in the tree iff every path around it has a larger edge (Floyd-Warshall)."""
    n = pairs.size
    i, j = torch.triu_indices(n, n, 1, device=pairs.space.device)
    place = torch.zeros(n, n, dtype=torch.long, device=i.device)
    place[i, j] = torch.arange(len(i), device=i.device)
    key = strict_keys(pairs.condensed())
    # reach[a, b] is the least that the largest edge of a path from a to b can be, of paths over the
    # points before k: reach_k[a, b] = min(reach[a, b], max(reach[a, k], reach[k, b])). Clouds last,
    # which is the fastest. What stands on the diagonal does not matter.
    reach = key.mT.contiguous().index_select(0, (place + place.mT).flatten()).view(n, n, -1)
    for k in range(n):
        reach = torch.minimum(reach, torch.maximum(reach[:, k : k + 1], reach[k : k + 1]))
    top = torch.finfo(key.dtype).max
    at = torch.where(reach[i, j].mT == key, key, top).topk(n - 1, largest=False).indices
    return torch.stack((i[at], j[at]), -1)


def prim(pairs: Candidates) -> Tensor:
    """Grows one tree from point 0, always by the nearest point outside, in O(Bn) memory."""
    n = pairs.size
    here = torch.arange(n, device=pairs.space.device)
    new = here.new_zeros(pairs.clouds, 1)
    done = here.new_zeros(pairs.clouds, n, dtype=torch.bool)
    parent = here.new_zeros(pairs.clouds, n)
    best = pairs.space.new_full((pairs.clouds, n), math.inf)
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
    return sorted_edges(torch.cat(lengths, 1), torch.cat(chosen, 1), n)


def boruvka(pairs: Candidates) -> Tensor:
    """Every component takes its smallest edge to another one; at most half remain each round."""
    # Follow the edges taken from component to component: each key is smaller than the one before,
    # or the same, where two took one edge. So the only rings are such two, and one of them stays.
    n, device = pairs.size, pairs.space.device
    here = torch.arange(n, device=device)
    none = n * n
    label = here.expand(pairs.clouds, n)
    # A component that joins another one dies: its edge is kept under its name. One survives.
    pair = label.new_full((pairs.clouds, n), none)
    length = pairs.space.new_full((pairs.clouds, n), math.inf)
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
        # Of two components that took the same edge, the one of the smaller number stays.
        dies = live & ((target.gather(1, target) != here) | (target < here))
        pair, length = torch.where(dies, number, pair), torch.where(dies, lowest, length)
        target = torch.where(dies, target, here)
        for _ in range(_rounds(n)):
            target = target.gather(1, target)
        label = target.gather(1, label)
    return sorted_edges(length, pair, n)[:, : n - 1]


def _nearest(
    pairs: Candidates, whole: Tensor | None, label: Tensor, block: int
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


def _rounds(n: int) -> int:
    return math.ceil(math.log2(n))
