"""Parallel anchors discovered: from a few known pairs to hundreds."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks, draws
from relreps._core.linalg import full_precision, unit_rows
from relreps._core.warnings import warn
from relreps.correspondence import spaces, transport
from relreps.correspondence.pairs import Pairs, Seeds, checked_seeds

#: Regularisation of the last plan, relative to the mean cost.
EPSILON = 0.02
#: Sinkhorn iterations in a step of the alternation, and in the last one.
_ITERATIONS = 50, 2000
#: Agreement below which it is said that the pairs are not to be believed.
_DOUBTFUL = 0.25


class Anchors(NamedTuple):
    """Anchor directions of both spaces ``(A, D_x)``, ``(A, D_y)``, and the weight of each."""

    x: Tensor
    y: Tensor
    weights: Tensor


@torch.no_grad()
def discover_parallel_anchors(
    x: Tensor,
    y: Tensor,
    seeds: Seeds,
    num_anchors: int,
    *,
    epsilon: float = EPSILON,
    max_samples: int = 2000,
    generator: torch.Generator | None = None,
) -> Pairs:
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
        seeds: ``(indices_x, indices_y)`` of rows whose partners are known, in the same order, or
            the `Pairs` that something else found.
        num_anchors: Number of pairs A, seeds included.
        epsilon: Regularisation of the last plan, relative to the mean cost; the first one's is 0.2.
        max_samples: A space with more rows is represented by as many, the seeds and others at
            random, with a `PerformanceWarning`. Only what was drawn on both sides can be paired.
        generator: Source of randomness for that draw; torch's default one if not given.

    Returns:
        `Pairs`, on the device of ``x``: the seeds as they were given, then the others, the surest
        first. A score is the cosine of the two codes, minus that of the best rival of either row,
        so it is positive if and only if the rows are each other's nearest. Copies of a row are
        no rivals to it: which of them is paired is as right. A row of ``x``, or its copy, is no
        anchor to itself: no pair, seeds included, vouches for its own score.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(M, D_y)`; seeds: :math:`(S,)` each. Output:
          :math:`(A,)` each.

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
        >>> found = discover_parallel_anchors(x, y, (order[:4], torch.arange(4)), num_anchors=50)
        >>> (order[found.indices_y] == found.indices_x).float().mean()
        tensor(1.)

    References:
        Cannistraci et al., arXiv:2303.00721.
    """
    spaces.check_spaces(x, y, num_anchors, max_samples)
    checks.check_positive("epsilon", epsilon)
    checks.check_generator(generator)
    known = checked_seeds(seeds, len(x), len(y), x.device)
    s = len(known[0])
    if num_anchors < s:
        raise ValueError(
            f"`num_anchors` must be at least the number of seeds, which count, got {num_anchors} "
            f"anchors and {s} seeds."
        )
    with full_precision(x), full_precision(y):
        drawn_x, drawn_y = spaces.drawn(x, y, known, max_samples, num_anchors, generator)
        rows_x, rows_y = both_spaces(x[drawn_x], y[drawn_y.to(y.device)])
        start = Anchors(rows_x[:s], rows_y[:s], rows_x.new_ones(s))
        copies = spaces.copies(x[drawn_x]), spaces.copies(y[drawn_y.to(y.device)]).to(x.device)
        (i, j, scores), _ = matched(rows_x, rows_y, start, epsilon, s, copies)
    first = slice(num_anchors)
    return Pairs(drawn_x[i[first]], drawn_y[j[first]], scores[first])


def both_spaces(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both spaces softly whitened, in one type, on the device of ``x``."""
    rows_x, rows_y = spaces.softly_whitened("x", x), spaces.softly_whitened("y", y)
    dtype = torch.promote_types(rows_x.dtype, rows_y.dtype)
    return rows_x.to(dtype), rows_y.to(x.device, dtype)


def matched(
    x: Tensor, y: Tensor, start: Anchors, epsilon: float, seeds: int, copies: tuple[Tensor, Tensor]
) -> tuple[Pairs, Tensor]:
    """Pairs of all rows, seeds first, and their agreement; warns where they are doubtful.

    Copies of a row, the same number in ``copies``, are no rivals: any of them is as right. With a
    the share of the pairs beyond the seeds that are each other's nearest, and :math:`a_0` what
    wrong starts reach, the agreement is :math:`(a - a_0) / (1 - a_0)`, from 0 to 1.
    """
    same = copies[0][:, None] == copies[0]
    anchors, plan, error = _alternated(x, y, start, epsilon, seeds, same)
    transport.warn_unless_converged(error, epsilon, _ITERATIONS[1], plan)
    pairs = _snapped(_similarity(x, y, anchors, same), seeds, copies)
    free = pairs.scores[seeds:]
    if len(free) == 0:
        return pairs, free.new_ones(())
    share = (free > 0).double().mean()
    agreement, by_chance = share.new_zeros(()), 1.0
    generator = torch.Generator("cpu").manual_seed(0)
    for _ in range(2):  # a wrong start may succeed by chance, and would belie a success
        order = draws.shuffled(len(y if seeds else start.y), generator).to(y.device)
        chance = _share_by_chance(x, y, start, epsilon, seeds, copies, order)
        by_chance = min(by_chance, chance)
        level = _certain_level(by_chance, len(free))
        if level < 1:
            agreement = ((share - level) / (1 - level)).clamp(0, 1)
        if agreement >= _DOUBTFUL:
            break
    else:
        warn(
            f"Only {float(share):.0%} of the pairs are each other's nearest, {by_chance:.0%} from "
            "a wrong start: that is no evidence that the spaces were brought together; even the "
            "surest pairs may be wrong too. Give "
            + ("more seeds, or more rows." if seeds else "seeds, more rows, or other clusters.")
        )
    return pairs, agreement.to(free.dtype)


def _alternated(
    x: Tensor, y: Tensor, start: Anchors, epsilon: float, seeds: int, same: Tensor
) -> tuple[Anchors, Tensor, float]:
    r"""Anchors found from those to start with, the last log plan, and its share out of place.

    The first ``seeds`` rows of both sides are pairs. The codes relative to the present anchors give
    a plan P, and every row of ``x`` becomes an anchor whose partner is the mean
    :math:`b_i = \sum_j P_{ij} y_j / \sum_j P_{ij}` of the rows of ``y`` that the plan gives it: its
    direction lies on the sphere, its length, between 0 and 1 for a mean of unit vectors, says how
    certain the plan is, and weighs the column of the code.
    """
    own = same[:, :seeds] if seeds else None  # seeds are rows of `x`; other anchors are not
    anchors, scalings = start, None
    for level, iterations in transport.schedule(epsilon, _ITERATIONS):
        cost = 1 - _similarity(x, y, anchors, own)
        plan, scalings, error = transport.sinkhorn(cost, level, iterations, scalings)
        means = transport.barycenters(plan, y, seeds)
        anchors = Anchors(x, unit_rows(means), torch.linalg.vector_norm(means, dim=-1))
        own = same
    return anchors, plan, error


def _similarity(x: Tensor, y: Tensor, anchors: Anchors, own: Tensor | None) -> Tensor:
    """Cosine ``(N, M)`` between the weighted relative codes of every two rows.

    A row of ``x`` leaves out of its code the anchors that are itself or a copy of it, ``own``
    ``(N, A)``: else every pair would be confirmed by itself, right or wrong.
    """
    codes_x, codes_y = x @ anchors.x.mT, y @ anchors.y.mT
    if own is not None:
        codes_x.masked_fill_(own, 0)
    codes = unit_rows(torch.cat((codes_x, codes_y)) * anchors.weights)
    return codes[: len(x)] @ codes[len(x) :].mT


def _share_by_chance(
    x: Tensor,
    y: Tensor,
    start: Anchors,
    epsilon: float,
    seeds: int,
    copies: tuple[Tensor, Tensor],
    order: Tensor,
) -> float:
    """Share of the pairs that are each other's nearest after a start that pairs in this order."""
    if seeds:
        y, copies = y[order], (copies[0], copies[1][order])
        start = start._replace(y=y[:seeds])
    else:
        start = start._replace(y=start.y[order])
    same = copies[0][:, None] == copies[0]
    anchors = _alternated(x, y, start, epsilon, seeds, same)[0]
    scores = _snapped(_similarity(x, y, anchors, same), seeds, copies).scores
    return float((scores[seeds:] > 0).double().mean())


def _certain_level(share: float, count: int) -> float:
    """A share of ``count`` that chance does not exceed, if ``share`` is what it reached once."""
    # The rule of succession, (hits + 1) / (count + 2): no share is certain, however few the rows.
    # A binomial share has a standard error of sqrt(p (1 - p) / count), and three are allowed for.
    level = (share * count + 1) / (count + 2)
    return level + 3 * math.sqrt(level * (1 - level) / count)


def _snapped(similarity: Tensor, seeds: int, copies: tuple[Tensor, Tensor]) -> Pairs:
    """The first ``seeds`` rows with their columns, then the pairs of the others, surest first."""
    rows, columns = transport.assign(similarity[seeds:, seeds:])
    scores = _margins(similarity, rows + seeds, columns + seeds, copies)
    order = scores.argsort(descending=True, stable=True)
    known = torch.arange(seeds, device=rows.device)
    i, j = torch.cat((known, rows[order] + seeds)), torch.cat((known, columns[order] + seeds))
    return Pairs(i, j, _margins(similarity, i, j, copies))


def _margins(
    similarity: Tensor, rows: Tensor, columns: Tensor, copies: tuple[Tensor, Tensor]
) -> Tensor:
    """How far each pair is ahead of the best rival of either member ``(K,)``; alone, itself."""
    own = similarity[rows, columns]
    in_row = copies[1] == copies[1][columns, None]
    in_column = copies[0] == copies[0][rows, None]
    rival = torch.maximum(
        similarity[rows].masked_fill(in_row, -torch.inf).amax(1),
        similarity.mT[columns].masked_fill(in_column, -torch.inf).amax(1),
    )
    return own - torch.where(rival > -torch.inf, rival, 0)
