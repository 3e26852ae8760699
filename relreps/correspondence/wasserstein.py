"""Wasserstein-Procrustes: a plan gives an orthogonal map, and the map the next plan."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core.linalg import at_least_float32, full_precision, unit_rows
from relreps.correspondence import spaces, transport
from relreps.correspondence.unsupervised import matched_centers

#: Sinkhorn iterations in a step of the alternation, and in the last one.
_ITERATIONS = 20, 500
#: Clusterings that are matched and pooled, where there are no seeds.
_STARTS = 10


def coupled(
    x: Tensor,
    y: Tensor,
    seeds: int,
    epsilon: float,
    num_clusters: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, float, float]:
    r"""Rows that the last plan sends to each other, its mean cost, and its marginal error.

    For centred directions :math:`x_i, y_j` and :math:`X^\top P Y = U S V^\top`, the orthogonal map
    that is best for a plan P is :math:`R = U V^\top`, so that :math:`\cos(x_i R, y_j)` is the
    cosine of :math:`x_i U` and :math:`y_j V`. Of these coordinates only the leading ones are
    compared, as many as the `effective_rank` of S: the pairs so far say little about the others.

    Args:
        x: Source rows.
        y: Target rows.
        seeds: So many first rows of both sides are pairs.
        epsilon: Regularisation of the last plan, relative to the mean cost.
        num_clusters: Number of clusters on each side, where there are no seeds.
        generator: Source of the clusters.
    """
    wide = torch.promote_types(at_least_float32(x[:0]).dtype, y.dtype)
    with full_precision(x):
        rows_x = spaces.centered_directions("x", x).to(wide)
        rows_y = spaces.centered_directions("y", y).to(rows_x)
        if seeds:
            moment = rows_x[:seeds].mT @ rows_y[:seeds]
        else:
            moment = _moment_of_clusters(x, y, rows_x, rows_y, num_clusters, generator)
        scalings = None
        for level, iterations in transport.schedule(epsilon, _ITERATIONS):
            u, s, vh = torch.linalg.svd(moment, full_matrices=False)
            rank = effective_rank(s)
            cost = 1 - unit_rows(rows_x @ u[:, :rank]) @ unit_rows(rows_y @ vh[:rank].mT).mT
            plan, scalings, error = transport.sinkhorn(cost, level, iterations, scalings)
            moment = rows_x.mT @ transport.barycenters(plan, rows_y, seeds)
    transport.warn_unless_converged(error, epsilon, _ITERATIONS[1], plan)
    to_y, to_x = plan.argmax(1), plan.argmax(0)
    i = torch.arange(len(to_y), device=to_y.device)
    i = i[to_x[to_y] == i]
    return i, to_y[i], transport.mean_cost(cost, plan), error


def effective_rank(s: Tensor) -> int:
    """Exponential of the entropy of singular values: how many directions carry something."""
    shares = s.double() / s.double().sum()
    return max(1, round(float(torch.special.entr(shares).sum().exp())))


def _moment_of_clusters(
    x: Tensor,
    y: Tensor,
    rows_x: Tensor,
    rows_y: Tensor,
    num_clusters: int,
    generator: torch.Generator | None,
) -> Tensor:
    """A first moment from clusters of softly whitened rows, matched by their geometry."""
    white_x, white_y = spaces.softly_whitened("x", x), spaces.softly_whitened("y", y)
    white_x, white_y = white_x.to(rows_x), white_y.to(rows_y)
    found = matched_centers(white_x, white_y, num_clusters, _STARTS, generator)
    # Each centre as the mean of the rows nearest to it, in the coordinates of the plan.
    means = []
    for rows, white, centers in ((rows_x, white_x, found.x), (rows_y, white_y, found.y)):
        near = (centers @ white.mT).topk(max(1, len(rows) // (2 * num_clusters)), 1)
        means.append(unit_rows(rows[near.indices].mean(1)))
    return means[0].mT @ means[1]
