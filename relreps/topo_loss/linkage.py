"""Spanning trees by SciPy's single linkage, on the eager CPU; see `order`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relreps.topo_loss.order import PLACE_BITS, Candidates, numbered

#: Points that are linked at once; a larger cloud goes by pairs of parts half this size.
LINKAGE_SIZE = 4096


def single_linkage(pairs: Candidates) -> Tensor:
    """SciPy's single linkage, cloud by cloud; a large cloud by pairs of its parts."""
    return torch.stack([_tree(pairs, cloud) for cloud in range(pairs.clouds)])


def _tree(pairs: Candidates, cloud: int) -> Tensor:
    n = pairs.size
    if n <= LINKAGE_SIZE:
        length, i, j = _linked(pairs.part(cloud))
    else:
        # An edge of the tree is in the tree of every part of the cloud that holds both its ends.
        found = []
        for rows in _unions(n, LINKAGE_SIZE // 2):
            length, i, j = _linked(pairs.part(cloud, rows))
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
    parts = torch.arange(n, device="cpu").tensor_split(math.ceil(n / size))
    for b in range(len(parts)):
        for a in range(b):
            yield torch.cat((parts[a], parts[b]))


def _linked(pairs: Candidates) -> tuple[Any, Any, Any]:
    """Lengths and ends of the edges of the tree; in float64, of their ties as well.

    Linkage tells the heights at which clusters join, which are copies of distances, but not of
    which. Single precision leaves room after each distance for the number of its pair: that comes
    back with the height, and decides ties on the way. In double precision the heights at which the
    ends of every pair join are compared with its distance, exactly.
    """
    from scipy.cluster import hierarchy

    (condensed,) = pairs.condensed()
    d = condensed.numpy()
    if condensed.dtype == torch.float32:
        heights = hierarchy.linkage(numbered(condensed).numpy(), "single")[:, 2]
        at = heights.copy().view(np.int64) & PLACE_BITS
    else:
        heights = hierarchy.cophenet(hierarchy.linkage(d, "single"))
        at = np.flatnonzero(heights == d)
    n = pairs.size
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
