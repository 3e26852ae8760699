"""Where a search without seeds starts: centres of clusters, matched by their Gram matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core.linalg import unit_rows
from relreps.anchors import lloyd
from relreps.correspondence.transport import Anchors

_ITERATIONS = 20
_STARTS = 10
_RESTARTS = 30


def matched_centres(
    x: Tensor, y: Tensor, clusters: int, runs: int, generator: torch.Generator | None
) -> Anchors:
    """Centres of ``runs`` clusterings of both spaces, each matched, all of them together."""
    found = []
    for _ in range(runs):
        centres_x, centres_y = (_centres(rows, clusters, generator) for rows in (x, y))
        order = _matched(_gram(centres_x), _gram(centres_y), generator)
        found.append((centres_x, centres_y[order.to(y.device)]))
    centres = [torch.cat(side) for side in zip(*found, strict=True)]
    return Anchors(centres[0], centres[1], centres[0].new_ones(len(centres[0])))


def _centres(rows: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    """Directions of the centres of k-means, the best of several starts.

    Both spaces are to find the same clusters; best is the largest mean cosine of the rows.
    """
    tries = []
    for _ in range(_STARTS):
        first = lloyd.plus_plus(rows, clusters, generator)
        centres = unit_rows(lloyd.iterated(rows, first, _ITERATIONS, 0.0)[0])
        tries.append((float((rows @ centres.mT).amax(1).mean()), centres))
    return max(tries, key=lambda t: t[0])[1]


def _gram(centres: Tensor) -> Tensor:
    """Inner products of the centres, less their row and column means."""
    centred = centres - centres.mean(0)
    return centred @ centred.mT


def _matched(a: Tensor, b: Tensor, generator: torch.Generator | None) -> Tensor:
    """The order of ``b`` in which it agrees best with ``a``: 2-opt from random orders, the best."""
    import numpy as np
    from scipy.optimize import quadratic_assignment

    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    options = {"maximize": True, "rng": np.random.default_rng(seed)}
    left, right = a.double().cpu().numpy(), b.double().cpu().numpy()
    tries = (
        quadratic_assignment(left, right, method="2opt", options=options) for _ in range(_RESTARTS)
    )
    return torch.as_tensor(max(tries, key=lambda t: float(t.fun)).col_ind)
