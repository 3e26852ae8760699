"""Parallel anchors discovered: from a few known pairs, or from none, to hundreds."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from relreps import _checks
from relreps._warnings import NumericalWarning
from relreps.anchors import _clusters, _inputs, _transport
from relreps.anchors._transport import Anchors

#: Regularisation of the last plan, relative to the mean cost.
_EPSILON = 0.02


class ParallelAnchors(NamedTuple):
    """Pairs of rows that encode the same thing, and how far each is ahead of its rivals."""

    indices_x: Tensor
    indices_y: Tensor
    scores: Tensor


class UnsupervisedAnchors(NamedTuple):
    """Pairs found without seeds; ``agreement`` says whether to believe them."""

    indices_x: Tensor
    indices_y: Tensor
    scores: Tensor
    agreement: Tensor


@torch.no_grad()
def discover_parallel_anchors(
    x: Tensor,
    y: Tensor,
    seeds_x: Tensor,
    seeds_y: Tensor,
    num_anchors: int,
    *,
    epsilon: float = _EPSILON,
    max_samples: int = 2000,
    generator: torch.Generator | None = None,
) -> ParallelAnchors:
    r"""Many pairs of corresponding rows of two spaces, from a few that are known.

    Rows are centred and softly whitened within each space, which needs no pairs. Then, 20 times,
    the rows' codes relative to the present anchors give a transport plan, and the plan new anchors:

    .. math:: P = \arg\min_{P} \sum_{ij} P_{ij} \bigl(1 - \cos(r_x(i), r_y(j))\bigr)
              - \epsilon H(P), \qquad b_i = \sum_j P_{ij}\, y_j \Big/ \sum_j P_{ij}

    with uniform marginals. Row i of ``x`` is an anchor, its partner in the other space has the
    direction of :math:`b_i`, a point of the sphere, and :math:`\lVert b_i \rVert`, the certainty of
    the plan, weighs its column of the codes. The seeds are anchors throughout. At last the rows
    are paired one to one by an assignment of their codes, and the surest pairs are returned.

    Codes relative to seeds and to free anchors on the sphere, matched by Sinkhorn, snapped to rows
    at the end: Cannistraci et al. The paper moves its anchors by gradient descent on a mean squared
    error; barycentres, certainty weights, whitening, the falling :math:`\epsilon`, the slack for
    spaces of different sizes, and the scores are this library's.

    Nothing depends on a rotation, translation or scale of either space, and the widths may
    differ. Both spaces have to hold mostly the same things: what has no partner gets one too, with
    a low score. With too few seeds it fails all at once, not by degrees: nearly all pairs are then
    wrong, though the surest of them still score above zero. To find out, ask for as many anchors as
    there are rows: nearly all scores are positive after a success, and few after a failure.
    O(NM (N + iterations)) time, O(NM) memory, on the device of ``x`` but for the assignment, which
    runs on the CPU.

    Args:
        x: Rows of the first space.
        y: Rows of the second space, in an order of their own.
        seeds_x: Indices of rows of ``x`` whose partners are known.
        seeds_y: Indices of these partners in ``y``, in the same order.
        num_anchors: Number of pairs A, seeds included.
        epsilon: Regularisation of the last plan, relative to the mean cost; the first one's is 0.2.
        max_samples: A space with more rows is represented by as many, the seeds and others at
            random, with a `PerformanceWarning`. Only what was drawn on both sides can be paired.
        generator: Source of randomness for that draw; torch's default one if not given.

    Returns:
        ``(indices_x, indices_y, scores)``: the seeds as they were given, then the other pairs, the
        surest first. A score is the cosine of the two codes less that of the best rival of either
        row, so it is positive if and only if the rows are each other's nearest. A row of ``x`` is
        no anchor to itself: no pair, seeds included, vouches for its own score.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(M, D_y)`; seeds: :math:`(S,)`. Output: :math:`(A,)` each.

    Raises:
        ValueError: NaN or infinite rows; seeds that repeat, are out of range or of unequal number;
            ``num_anchors`` below the number of seeds or above that of rows.

    Warns:
        NumericalWarning: The last transport did not converge; it gives the error of its marginals.

    Example:
        >>> x = torch.randn(100, 4)
        >>> order = torch.randperm(100)
        >>> y = x[order].flip(-1)  # mirrored and shuffled
        >>> found = discover_parallel_anchors(x, y, order[:4], torch.arange(4), num_anchors=50)
        >>> (order[found.indices_y] == found.indices_x).float().mean()
        tensor(1.)

    References:
        Cannistraci et al., arXiv:2303.00721.
    """
    _inputs.check_spaces(x, y, num_anchors, max_samples)
    _inputs.check_seeds(seeds_x, seeds_y, x.shape[0], y.shape[0], num_anchors)
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"`epsilon` must be positive and finite, got {epsilon}.")
    seeds = seeds_x.to(x.device).long(), seeds_y.to(x.device).long()
    drawn_x = _inputs.drawn("x", x, seeds[0], max_samples, num_anchors, generator)
    drawn_y = _inputs.drawn("y", y, seeds[1], max_samples, num_anchors, generator)
    rows_x, rows_y = _inputs.directions(x[drawn_x], y[drawn_y])
    s = len(seeds_x)
    known = Anchors(rows_x[:s], rows_y[:s], rows_x.new_ones(s))
    anchors = _transport.alternate(rows_x, rows_y, known, epsilon, seeds=s)
    i, j, scores = _snapped(_transport.agreement(rows_x, rows_y, anchors), s, num_anchors)
    return ParallelAnchors(drawn_x[i], drawn_y[j], scores)


@torch.no_grad()
def discover_parallel_anchors_unsupervised(
    x: Tensor,
    y: Tensor,
    num_anchors: int,
    *,
    clusters: int = 20,
    runs: int = 10,
    max_samples: int = 2000,
    generator: torch.Generator | None = None,
) -> UnsupervisedAnchors:
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
    O(runs (N + M) D clusters) and the quadratic assignments, which stay small, then as
    `discover_parallel_anchors`.

    Args:
        x: Rows of the first space.
        y: Rows of the second space, in an order of their own.
        num_anchors: Number of pairs A.
        clusters: Number of clusters in each space.
        runs: Clusterings that are matched, each from another start.
        max_samples: A space with more rows is represented by as many, drawn at random.
        generator: Source of randomness; torch's default one if not given.

    Returns:
        ``(indices_x, indices_y, scores, agreement)``, the surest pairs first. ``agreement`` is the
        share of the whole assignment, ``min(N, M)`` pairs, that are each other's nearest: near 1
        after a success, about 0.1 after a failure.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(M, D_y)`. Output: :math:`(A,)` three times, and a scalar.

    Raises:
        ValueError: NaN or infinite rows; more anchors or clusters than rows.

    Warns:
        NumericalWarning: ``agreement`` is below one half, or the last transport did not converge.

    Example:
        >>> x = torch.randn(12, 6)[torch.arange(96) % 12] + 0.3 * torch.randn(96, 6)
        >>> generator = torch.Generator().manual_seed(0)
        >>> found = discover_parallel_anchors_unsupervised(
        ...     x, x.flip(0, 1), 50, clusters=12, runs=2, generator=generator
        ... )
        >>> bool((found.indices_x == 95 - found.indices_y).all()), bool(found.agreement > 0.9)
        (True, True)

    References:
        Dar, arXiv:2510.02348.
    """
    _inputs.check_spaces(x, y, num_anchors, max_samples)
    _checks.check_size("clusters", clusters, minimum=2)
    _checks.check_size("runs", runs)
    none = torch.empty(0, dtype=torch.long, device=x.device)
    drawn_x = _inputs.drawn("x", x, none, max_samples, num_anchors, generator)
    drawn_y = _inputs.drawn("y", y, none, max_samples, num_anchors, generator)
    if clusters > min(len(drawn_x), len(drawn_y)):
        raise ValueError(
            f"`clusters` must be at most the rows of the smaller space, got {clusters} clusters, "
            f"{len(drawn_x)} rows of `x` and {len(drawn_y)} of `y`. Ask for fewer clusters."
        )
    rows_x, rows_y = _inputs.directions(x[drawn_x], y[drawn_y])
    start = _clusters.matched_centres(rows_x, rows_y, clusters, runs, generator)
    anchors = _transport.alternate(rows_x, rows_y, start, _EPSILON)
    least = min(len(rows_x), len(rows_y))
    i, j, scores = _snapped(_transport.agreement(rows_x, rows_y, anchors), 0, least)
    agreement = (scores > 0).to(scores.dtype).mean()
    if agreement < 0.5:
        warnings.warn(
            f"Only {float(agreement):.0%} of the rows are each other's nearest: the spaces were "
            "not brought together, and the pairs are likely to be wrong. Give seeds, more rows, or "
            "another number of clusters.",
            NumericalWarning,
            stacklevel=3,
        )
    first = slice(num_anchors)
    return UnsupervisedAnchors(drawn_x[i[first]], drawn_y[j[first]], scores[first], agreement)


def _snapped(similarity: Tensor, seeds: int, num_anchors: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``seeds`` rows with their columns, then the surest of the pairs of the others."""
    rows, columns = _transport.assign(similarity[seeds:, seeds:])
    scores = _transport.margins(similarity, rows + seeds, columns + seeds)
    order = scores.argsort(descending=True, stable=True)[: num_anchors - seeds]
    known = torch.arange(seeds, device=rows.device)
    i, j = torch.cat((known, rows[order] + seeds)), torch.cat((known, columns[order] + seeds))
    return i, j, _transport.margins(similarity, i, j)
