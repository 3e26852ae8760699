"""Lloyd's k-means in blocks: no table of all rows by all centres is ever held."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from relreps._core import blocks, draws
from relreps.anchors.rows import squared_lengths, tie


def clustered(
    rows: Tensor,
    clusters: int,
    max_iterations: int,
    tolerance: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Centres ``(K, D)`` of a k-means clustering, and the cluster of each row."""
    return iterated(rows, plus_plus(rows, clusters, generator), max_iterations, tolerance)


def plus_plus(rows: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    """k-means++ start ``(K, D)``: rows drawn in proportion to their squared distance so far."""
    n = rows.shape[0]
    chosen = [int(draws.shuffled(n, generator)[0])]
    points = draws.uniform(clusters, generator)
    squares = squared_lengths(rows)
    nearest = torch.full_like(squares, torch.inf)
    for point in points.tolist()[1:]:
        last = chosen[-1]
        distance = torch.addmv(squares, rows, rows[last], alpha=-2).add_(squares[last])
        torch.minimum(nearest, distance.clamp_(min=0), out=nearest)
        nearest[last] = 0
        total = nearest.cpu().cumsum(0, dtype=torch.float64)  # on a device, not deterministic
        if total[-1] == 0:  # every row is a start already: any one will do
            total = torch.arange(1, n + 1, dtype=total.dtype, device=total.device)
        chosen.append(min(int(torch.searchsorted(total, point * total[-1], right=True)), n - 1))
    return rows[torch.tensor(chosen, device=rows.device)]


def iterated(
    rows: Tensor, centers: Tensor, max_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Centres ``(K, D)`` after Lloyd's iterations, and the cluster of each row by them.

    Stops when no row changes its cluster, when the squared shifts of all centres sum to at most
    ``tolerance`` times the mean variance of a feature, or after ``max_iterations``.
    """
    squares = squared_lengths(rows)
    spread = squares.mean() - rows.mean(0).square().sum()
    bound = tolerance * spread / rows.shape[1]
    previous = torch.full_like(squares, -1, dtype=torch.long)
    for _ in range(max_iterations):
        assigned, scores = nearest_center(rows, centers)
        if torch.equal(assigned, previous):
            return centers, assigned
        previous = assigned
        moved = _cluster_means(rows, assigned, scores, squares, len(centers))
        shift = (moved - centers).square().sum()
        centers = moved
        if shift <= bound:
            break
    return centers, nearest_center(rows, centers)[0]


def nearest_center(rows: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest centre of each row, the lowest if tied, and its score.

    The score is ``x.c - |c|^2 / 2``, as ``|x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2)``: of the first
    term every centre has the same.
    """
    half = squared_lengths(centers) / 2
    number = centers.shape[0]
    step = blocks.rows_in_cache(number, rows.device)
    # The first of the best is the one that counts most down. This says which one wins a tie on
    # every device, and is twice as fast as a maximum that reports its index.
    down = torch.arange(number, 0, -1, dtype=rows.dtype, device=rows.device)
    assigned = torch.empty(rows.shape[0], dtype=torch.long, device=rows.device)
    scores = rows.new_empty(rows.shape[0])
    for block, index, score in zip(
        rows.split(step), assigned.split(step), scores.split(step), strict=True
    ):
        table = torch.addmm(half, block, centers.mT, beta=-1)
        torch.amax(table, -1, out=score)
        index.copy_(number - torch.ge(table, score[:, None], out=table).mul_(down).amax(-1))
    return assigned, scores


def nearest_free_rows(rows: Tensor, centers: Tensor) -> Tensor:
    """For each centre in turn, the nearest row not taken by an earlier one, the lowest if tied.

    Both rows of a cluster of two are equally near to its mean: rounding must not choose.
    """
    squares = squared_lengths(rows)
    rounding = tie(squares)
    taken = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
    chosen = torch.empty(centers.shape[0], dtype=torch.long, device=rows.device)
    for i, center in enumerate(centers):
        distance = torch.addmv(squares, rows, center, alpha=-2).masked_fill_(taken, torch.inf)
        chosen[i] = (distance <= distance.min() + rounding).to(torch.uint8).argmax()
        taken[chosen[i]] = True
    return chosen


def _cluster_means(
    rows: Tensor, assigned: Tensor, scores: Tensor, squares: Tensor, clusters: int
) -> Tensor:
    """Means of the clusters; an empty one restarts at the row worst served, one row each."""
    counts = torch.bincount(assigned, minlength=clusters)
    by_cluster, starts = assigned.argsort(stable=True), counts.cumsum(0) - counts
    sums: Tensor = F.embedding_bag(by_cluster, rows, starts, mode="sum")
    means = sums / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        means[empty] = rows[(squares - 2 * scores).topk(len(empty)).indices]
    return means
