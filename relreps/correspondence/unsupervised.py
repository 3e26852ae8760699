"""Parallel anchors discovered without seeds: clusters, matched by their Gram matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks, draws
from relreps._core.linalg import full_precision, unit_rows
from relreps.anchors import lloyd
from relreps.correspondence import spaces
from relreps.correspondence.discovery import EPSILON, Anchors, both_spaces, matched
from relreps.correspondence.pairs import Pairs

#: Lloyd iterations of a clustering, starts of which the best is taken, and random orders from which
#: two clusterings are matched.
_ITERATIONS, _STARTS, _ORDERS = 20, 10, 30


@torch.no_grad()
def discover_parallel_anchors_unsupervised(
    x: Tensor,
    y: Tensor,
    num_anchors: int,
    *,
    num_clusters: int = 20,
    num_starts: int = 10,
    max_samples: int = 2000,
    generator: torch.Generator | None = None,
) -> tuple[Pairs, Tensor]:
    r"""Pairs of corresponding rows of two spaces, when none is known.

    Both spaces are clustered, and the order of the centres of the second is sought in which their
    centred Gram matrices agree best, a quadratic assignment (2-opt from 30 random orders):

    .. math:: \max_{\pi} \sum_{kl} G^x_{kl}\, G^y_{\pi(k)\pi(l)}

    The centres of several such runs together are the anchors that `discover_parallel_anchors`'
    alternation starts from. Clusters, the assignment and the pooled runs are those of
    mini-vec2vec; it then refines an orthogonal map by nearest neighbours, here the transport
    refines relative codes, so the widths may differ.

    **It may fail**, and returns pairs all the same; ``agreement`` tells. It fails where the spaces
    hold no clusters, where they are unrelated or share only part of what they hold, and where the
    two place their clusters differently, as two sentence encoders did with 1500 texts. On data
    with a symmetry every image of the right answer fits as well: then one of them is returned, and
    agreement is no evidence. Other generator states may succeed. A few seeds are worth far more.
    O(num_starts (N + M) D num_clusters) and the quadratic assignments, which stay small, then as
    `discover_parallel_anchors`.

    Args:
        x: Rows of the first space.
        y: Rows of the second space, in an order of their own.
        num_anchors: Number of pairs A.
        num_clusters: Number of clusters in each space.
        num_starts: Clusterings that are matched, each from another start, and pooled.
        max_samples: A space with more rows is represented by as many, drawn at random.
        generator: Source of randomness; torch's default one if not given.

    Returns:
        ``(pairs, agreement)``, on the device of ``x``: `Pairs`, the surest first, with the scores
        of `discover_parallel_anchors`, and a number, :math:`(a - a_0) / (1 - a_0)`, from 0 to 1.
        Here a is the share of the whole assignment, ``min(N, M)`` pairs, that are each other's
        nearest, and :math:`a_0` what centres matched at random reach, with three standard errors:
        up to nearly all pairs where one space has many more rows. Near 1 after a success, near 0
        after a failure, and also where too few rows face too many to tell.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(M, D_y)`. Output: three of :math:`(A,)`, and a
          scalar.

    Raises:
        ValueError: NaN or infinite rows; more anchors or clusters than rows.

    Warns:
        NumericalWarning: ``agreement`` is below a quarter, or the last transport did not converge.
        PerformanceWarning: A space is represented by a draw; two draws share few pairs.

    Example:
        >>> x = torch.randn(12, 6)[torch.arange(96) % 12] + 0.3 * torch.randn(96, 6)
        >>> generator = torch.Generator().manual_seed(0)
        >>> pairs, agreement = discover_parallel_anchors_unsupervised(
        ...     x, x.flip(0, 1), 50, num_clusters=12, num_starts=2, generator=generator
        ... )
        >>> bool((pairs.indices_x == 95 - pairs.indices_y).all()), bool(agreement > 0.9)
        (True, True)

    References:
        Dar, arXiv:2510.02348.
    """
    spaces.check_spaces(x, y, num_anchors, max_samples)
    num_clusters = checks.check_size("num_clusters", num_clusters, minimum=2)
    num_starts = checks.check_size("num_starts", num_starts)
    checks.check_generator(generator)
    with full_precision(x), full_precision(y):
        none = spaces.no_seeds(x.device)
        drawn_x, drawn_y = spaces.drawn(x, y, none, max_samples, num_anchors, generator)
        if num_clusters > min(len(drawn_x), len(drawn_y)):
            raise ValueError(
                "`num_clusters` must be at most the rows of the smaller space, got "
                f"{num_clusters} clusters, {len(drawn_x)} rows of `x` and {len(drawn_y)} of `y`. "
                "Ask for fewer clusters."
            )
        rows_x, rows_y = both_spaces(x[drawn_x], y[drawn_y.to(y.device)])
        start = matched_centers(rows_x, rows_y, num_clusters, num_starts, generator)
        copies = spaces.copies(x[drawn_x]), spaces.copies(y[drawn_y.to(y.device)]).to(x.device)
        (i, j, scores), agreement = matched(rows_x, rows_y, start, EPSILON, 0, copies)
    first = slice(num_anchors)
    return Pairs(drawn_x[i[first]], drawn_y[j[first]], scores[first]), agreement


def matched_centers(
    x: Tensor, y: Tensor, clusters: int, num_starts: int, generator: torch.Generator | None
) -> Anchors:
    """Centres of ``num_starts`` clusterings of both spaces, each matched, all of them together."""
    sides: tuple[list[Tensor], list[Tensor]] = [], []
    for _ in range(num_starts):
        centers_x, centers_y = (_centers(rows, clusters, generator) for rows in (x, y))
        order = _matching_order(_gram(centers_x), _gram(centers_y), generator)
        sides[0].append(centers_x)
        sides[1].append(centers_y[order.to(y.device)])
    pooled = torch.cat(sides[0])
    return Anchors(pooled, torch.cat(sides[1]), pooled.new_ones(len(pooled)))


def _centers(rows: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    """Directions of the centres of k-means, the best of several starts.

    Both spaces are to find the same clusters; best is the largest mean cosine of the rows.
    """
    tries = []
    for _ in range(_STARTS):
        centers = unit_rows(lloyd.clustered(rows, clusters, _ITERATIONS, 0.0, generator)[0])
        tries.append((float((rows @ centers.mT).amax(1).mean()), centers))
    return max(tries, key=lambda t: t[0])[1]


def _gram(centers: Tensor) -> Tensor:
    """Inner products of the centres, minus their row and column means."""
    rest = centers - centers.mean(0)
    return rest @ rest.mT


def _matching_order(a: Tensor, b: Tensor, generator: torch.Generator | None) -> Tensor:
    """The order of ``b`` in which it agrees best with ``a``: 2-opt from random orders, the best."""
    import numpy as np
    from scipy.optimize import quadratic_assignment

    device = draws.device_of(generator)
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    options = {"maximize": True, "rng": np.random.default_rng(seed)}
    left, right = a.double().cpu().numpy(), b.double().cpu().numpy()
    tries = (
        quadratic_assignment(left, right, method="2opt", options=options) for _ in range(_ORDERS)
    )
    return torch.from_numpy(max(tries, key=lambda t: float(t.fun)).col_ind)
