"""Parallel anchors discovered: from a few known pairs, or from none, to hundreds."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision
from relreps._core.warnings import NumericalWarning
from relreps.correspondence import clusters, spaces, transport
from relreps.correspondence.transport import Anchors

#: Regularisation of the last plan, relative to the mean cost.
_EPSILON = 0.02
#: Agreement below which it is said that the pairs are not to be believed.
_DOUBTFUL = 0.25


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
    wrong, though many of them still score above zero, about a third at :math:`N = M`, three
    quarters at :math:`N = M / 4`, nearly all at :math:`N = M / 7`. Hence the alternation runs once
    more, or twice, from wrong seeds, those of ``y`` drawn at random, with a warning unless clearly
    more scores are positive than there; of few rows against many, 30 against 200, it may come after
    a success too. O(NM (N + iterations)) time, O(NM) memory, on the device of ``x`` but for the
    assignment, which runs on the CPU.

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
        ``(indices_x, indices_y, scores)``, on the device of ``x``: the seeds as they were given,
        then the other pairs, the surest first. A score is the cosine of the two codes less that of
        the best rival of either row, so it is positive if and only if the rows are each other's
        nearest. A row of ``x`` is no anchor to itself: no pair, seeds included, vouches for its own
        score.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(M, D_y)`; seeds: :math:`(S,)`. Output: :math:`(A,)` each.

    Raises:
        ValueError: NaN or infinite rows; seeds that repeat, are out of range or of unequal number;
            ``num_anchors`` below the number of seeds or above that of rows.

    Warns:
        NumericalWarning: Hardly more scores are positive than from wrong seeds, or the last
            transport did not converge; this gives the error of its marginals.
        PerformanceWarning: A space is represented by a draw. Two draws share few pairs: the number
            to expect is given, to be compared with ``num_anchors``.

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
    spaces.check_spaces(x, y, num_anchors, max_samples)
    spaces.check_seeds(seeds_x, seeds_y, x.shape[0], y.shape[0])
    if num_anchors < len(seeds_x):
        raise ValueError(
            f"`num_anchors` must be at least the number of seeds, which count, got {num_anchors} "
            f"anchors and {len(seeds_x)} seeds."
        )
    checks.check_positive("epsilon", epsilon)
    with full_precision(x), full_precision(y):
        seeds = seeds_x.to(x.device).long(), seeds_y.to(x.device).long()
        drawn_x, drawn_y = spaces.drawn(x, y, seeds, max_samples, num_anchors, generator)
        rows_x, rows_y = spaces.both_spaces(x[drawn_x], y[drawn_y.to(y.device)])
        s = len(seeds_x)
        known = Anchors(rows_x[:s], rows_y[:s], rows_x.new_ones(s))
        i, j, scores, _ = _found(rows_x, rows_y, known, epsilon, s)
    first = slice(num_anchors)
    return ParallelAnchors(drawn_x[i[first]], drawn_y[j[first]], scores[first])


@torch.no_grad()
def discover_parallel_anchors_unsupervised(
    x: Tensor,
    y: Tensor,
    num_anchors: int,
    *,
    num_clusters: int = 20,
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
    O(runs (N + M) D num_clusters) and the quadratic assignments, which stay small, then as
    `discover_parallel_anchors`.

    Args:
        x: Rows of the first space.
        y: Rows of the second space, in an order of their own.
        num_anchors: Number of pairs A.
        num_clusters: Number of clusters in each space.
        runs: Clusterings that are matched, each from another start.
        max_samples: A space with more rows is represented by as many, drawn at random.
        generator: Source of randomness; torch's default one if not given.

    Returns:
        ``(indices_x, indices_y, scores, agreement)``, on the device of ``x``, the surest pairs
        first. ``agreement`` is :math:`(a - a_0) / (1 - a_0)`, from 0 to 1. Here a is the share of
        the whole assignment, ``min(N, M)`` pairs, that are each other's nearest, and :math:`a_0`
        what centres matched at random reach, with three standard errors: up to nearly all pairs
        where one space has many more rows. Near 1 after a success, near 0 after a failure, and
        also where too few rows face too many to tell.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(M, D_y)`. Output: :math:`(A,)` three times, and a scalar.

    Raises:
        ValueError: NaN or infinite rows; more anchors or clusters than rows.

    Warns:
        NumericalWarning: ``agreement`` is below a quarter, or the last transport did not converge.
        PerformanceWarning: A space is represented by a draw; two draws share few pairs.

    Example:
        >>> x = torch.randn(12, 6)[torch.arange(96) % 12] + 0.3 * torch.randn(96, 6)
        >>> generator = torch.Generator().manual_seed(0)
        >>> found = discover_parallel_anchors_unsupervised(
        ...     x, x.flip(0, 1), 50, num_clusters=12, runs=2, generator=generator
        ... )
        >>> bool((found.indices_x == 95 - found.indices_y).all()), bool(found.agreement > 0.9)
        (True, True)

    References:
        Dar, arXiv:2510.02348.
    """
    spaces.check_spaces(x, y, num_anchors, max_samples)
    checks.check_size("num_clusters", num_clusters, minimum=2)
    checks.check_size("runs", runs)
    with full_precision(x), full_precision(y):
        none = torch.empty(0, dtype=torch.long, device=x.device)
        drawn_x, drawn_y = spaces.drawn(x, y, (none, none), max_samples, num_anchors, generator)
        if num_clusters > min(len(drawn_x), len(drawn_y)):
            raise ValueError(
                "`num_clusters` must be at most the rows of the smaller space, got "
                f"{num_clusters} clusters, {len(drawn_x)} rows of `x` and {len(drawn_y)} of `y`. "
                "Ask for fewer clusters."
            )
        rows_x, rows_y = spaces.both_spaces(x[drawn_x], y[drawn_y.to(y.device)])
        start = clusters.matched_centres(rows_x, rows_y, num_clusters, runs, generator)
        i, j, scores, agreement = _found(rows_x, rows_y, start, _EPSILON, 0)
    first = slice(num_anchors)
    return UnsupervisedAnchors(drawn_x[i[first]], drawn_y[j[first]], scores[first], agreement)


def _found(
    x: Tensor, y: Tensor, start: Anchors, epsilon: float, seeds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All pairs, seeds first, their scores and the agreement; warns where they are doubtful."""
    anchors, error = transport.alternate(x, y, start, epsilon, seeds)
    transport.warn_of(error, epsilon, x.dtype, stacklevel=5)
    i, j, scores = _snapped(transport.agreement(x, y, anchors), seeds)
    free = scores[seeds:]
    if len(free) == 0:
        return i, j, scores, scores.new_ones(())
    share = (free > 0).double().mean()
    agreement, by_chance = share.new_zeros(()), 1.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):  # a wrong start may succeed by chance, and would belie a success
        chance = _share_by_chance(x, y, start, epsilon, seeds, generator)
        by_chance = min(by_chance, chance)
        # The rule of succession: no share is certain, however few the rows.
        level = (by_chance * len(free) + 1) / (len(free) + 2)
        level += 3 * (level * (1 - level) / len(free)) ** 0.5
        if level < 1:
            agreement = ((share - level) / (1 - level)).clamp(0, 1)
        if agreement >= _DOUBTFUL:
            break
    else:
        warnings.warn(
            f"Only {float(share):.0%} of the pairs are each other's nearest, {by_chance:.0%} from "
            "a wrong start: that is no evidence that the spaces were brought together; even the "
            "surest pairs may be wrong too. Give "
            + ("more seeds, or more rows." if seeds else "seeds, more rows, or other clusters."),
            NumericalWarning,
            stacklevel=4,
        )
    return i, j, scores, agreement.to(scores.dtype)


def _share_by_chance(
    x: Tensor, y: Tensor, start: Anchors, epsilon: float, seeds: int, generator: torch.Generator
) -> float:
    """Share of the pairs that are each other's nearest after a start that pairs at random."""
    shuffled = y if seeds else start.y
    shuffled = shuffled[torch.randperm(len(shuffled), generator=generator).to(y.device)]
    if seeds:
        y, shuffled = shuffled, shuffled[:seeds]
    anchors, _ = transport.alternate(x, y, start._replace(y=shuffled), epsilon, seeds)
    scores = _snapped(transport.agreement(x, y, anchors), seeds)[2]
    return float((scores[seeds:] > 0).double().mean())


def _snapped(similarity: Tensor, seeds: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``seeds`` rows with their columns, then the pairs of the others, surest first."""
    rows, columns = transport.assign(similarity[seeds:, seeds:])
    scores = transport.margins(similarity, rows + seeds, columns + seeds)
    order = scores.argsort(descending=True, stable=True)
    known = torch.arange(seeds, device=rows.device)
    i, j = torch.cat((known, rows[order] + seeds)), torch.cat((known, columns[order] + seeds))
    return i, j, transport.margins(similarity, i, j)
