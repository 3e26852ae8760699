"""Retrieval: do two encodings of the same items agree on who is near whom?

Row i of ``x`` and row i of ``y`` encode the same item; both have the same width, as relative codes
do. Rows are compared by their cosine, every query ``x`` against every key ``y``, in chunks of
queries: O(N^2 D) time, O(chunk N) memory. Results are scalar tensors; they are not differentiable.
Where keys tie with the right answer, as copies of it do, or for the last places of a list, the
result is the expected value over their random orders: it does not depend on the order of the rows.
Where all keys point the same way there is nothing to find: the result is NaN, with a
`NumericalWarning`.
Definitions: Moschella et al., arXiv:2209.15430, section 4.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import full_precision
from relreps.metrics.search import (
    CHUNK,
    Nearest,
    Search,
    Space,
    chunks,
    nearest,
    overlap,
    searched_spaces,
)
from relreps.metrics.streaming import PairedRows
from relreps.metrics.ties import drawn, expected_jaccard, some_at_once


def retrieval_ranks(x: Tensor, y: Tensor, *, chunk_size: int = CHUNK) -> Tensor:
    r"""Rank of the right answer of each query, from 1: what MRR and recall are means of.

    .. math:: \rho_i = \tfrac12\Bigl(N + 1 + \sum_j \operatorname{sign}(s_{ij} - s_{ii})\Bigr)

    It is the rank of key i among all keys for query i, and the mean of the best and the worst rank
    where keys tie.

    Args:
        x: Queries.
        y: Keys; key i is the right answer to query i.
        chunk_size: Queries handled at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, D)`. Output: :math:`(N,)`, floating point.

    Example:
        >>> keys = torch.eye(3)
        >>> retrieval_ranks(torch.tensor([[3.0, 2.0, 1.0]] * 3), keys)
        tensor([1., 2., 3.])
    """
    queries, keys = _comparable(x, y)
    if keys.has_collapsed():
        return keys.nan().expand(len(keys.rows)).clone()
    return _places(queries, keys, chunk_size).mean_rank().to(keys.rows)


def mean_reciprocal_rank(
    x: Tensor, y: Tensor, *, k: int | None = None, chunk_size: int = CHUNK
) -> Tensor:
    r"""Mean over the items of one over the rank of the right answer.

    .. math:: \mathrm{MRR} = \frac1N \sum_i \frac{1}{\rho_i}, \qquad
              \mathbb E \frac{1}{\rho_i} = \frac1t \sum_{r=b+1}^{b+t} \frac1r

    with :math:`\rho_i` the rank of key i among all keys for query i: one more than the b keys that
    are nearer, and any of the next t, equally likely, where t keys tie, itself counted. Truncated
    at k, ranks beyond k count zero, which is what the released code of the paper computes; it is
    lower by at most 1 / (k + 1). By chance: :math:`H_N / N`, or :math:`H_k / N`. Range [0, 1].

    Args:
        x: Queries.
        y: Keys; key i is the right answer to query i.
        k: Last rank that counts, at most N; all by default.
        chunk_size: Queries handled at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, D)`. Output: scalar.

    Example:
        >>> x = torch.eye(3)
        >>> mean_reciprocal_rank(x, x)
        tensor(1.)
    """
    queries, keys = _comparable(x, y)
    if k is not None:
        k = checks.check_k(k, len(keys.rows))
    if keys.has_collapsed():
        return keys.nan()
    return _places(queries, keys, chunk_size).reciprocal(k).mean().to(keys.rows)


def recall_at_k(x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = CHUNK) -> Tensor:
    r"""Share of the queries whose right answer is among the ``k`` nearest keys.

    A right answer that ties with others counts by the chance that it is among them: of t that tie
    after b nearer ones, (k - b) / t, within [0, 1]. By chance: k / N. Range [0, 1].

    Args:
        x: Queries.
        y: Keys; key i is the right answer to query i.
        k: Number of nearest keys looked at, at most N.
        chunk_size: Queries handled at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, D)`. Output: scalar.

    Example:
        >>> x = torch.eye(3)
        >>> recall_at_k(x, x.roll(1, 0), k=1)
        tensor(0.)
    """
    queries, keys = _comparable(x, y)
    k = checks.check_k(k, len(keys.rows))
    if keys.has_collapsed():
        return keys.nan()
    return _places(queries, keys, chunk_size).recall(k).mean().to(keys.rows)


def jaccard_at_k(x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = CHUNK) -> Tensor:
    r"""Overlap of the ``k`` keys nearest to the query and those nearest to its right answer.

    .. math:: \frac1N \sum_i \frac{|T(x_i) \cap T(y_i)|}{|T(x_i) \cup T(y_i)|}

    with :math:`T(q)` the k rows of ``y`` most similar to q, the item itself included. Both lists
    search ``y``, so it depends on the direction, unlike mutual nearest neighbours. Where rows tie
    for the last places each list takes any of them, independently of the other: the expected index
    is exact, and below 1 then for equal spaces too. By chance: about k / 2N. Range [0, 1].

    Args:
        x: Queries.
        y: Keys; key i is the right answer to query i.
        k: Length of the lists, at most N.
        chunk_size: Queries handled at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, D)`. Output: scalar.

    Example:
        >>> angles = torch.tensor([0.0, 0.1, 0.3, 0.7])
        >>> x = torch.stack((angles.cos(), angles.sin()), 1)
        >>> jaccard_at_k(x, x, k=2)
        tensor(1.)
    """
    queries, keys = _comparable(x, y)
    k = checks.check_k(k, len(keys.rows))
    if keys.has_collapsed():
        return keys.nan()
    search = Search(keys, chunk_size)
    indices = []
    for rows in chunks(len(keys.rows), chunk_size):
        found = nearest(search(queries.rows[rows]), k)
        indices.append(_jaccard(search, queries, keys, rows, found))
    return torch.cat(indices).mean().to(keys.rows)


class RetrievalResult(NamedTuple):
    """Measures of a pair of spaces, both directions; ``xy`` queries ``y`` with ``x``."""

    mrr_xy: Tensor
    mrr_yx: Tensor
    jaccard_xy: Tensor
    jaccard_yx: Tensor
    cosine: Tensor
    recall_xy: Tensor
    recall_yx: Tensor


def retrieval_scores(
    x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = CHUNK
) -> RetrievalResult:
    r"""MRR, Jaccard@k and recall@k in both directions, and the mean cosine of paired rows.

    The direction matters, so both are given. The cosine alone is no evidence of alignment:
    relative codes share a large mean. Four products of all rows with all rows, and about a tenth
    more time than they take.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        k: Length of the lists of the Jaccard index, and last rank that recall counts; at most N.
        chunk_size: Queries handled at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, D)`. Output: seven scalars.
    """
    first, second = _comparable(x, y)
    k = checks.check_k(k, len(first.rows))
    cosine = (first.rows * second.rows).sum(-1).mean()
    mrr_xy, jaccard_xy, recall_xy = _one_direction(first, second, k, chunk_size)
    mrr_yx, jaccard_yx, recall_yx = _one_direction(second, first, k, chunk_size)
    return RetrievalResult(mrr_xy, mrr_yx, jaccard_xy, jaccard_yx, cosine, recall_xy, recall_yx)


class RetrievalScores(PairedRows):
    """`retrieval_scores` of rows that arrive in batches.

    A rank depends on all keys, so the rows themselves are kept: O(N D) memory, twice while
    `compute` puts them together. Give rows on the CPU if they do not fit their device.

    Args:
        k: As in `retrieval_scores`.

    Example:
        >>> scores = RetrievalScores(k=2)
        >>> for batch in torch.eye(6).split(2):
        ...     _ = scores.update(batch, 3 * batch)
        >>> scores.compute().mrr_xy
        tensor(1.)
    """

    def __init__(self, k: int = 10) -> None:
        super().__init__()
        k = checks.check_size("k", k)
        self.k = k

    def compute(self) -> RetrievalResult:
        """The measures of all rows so far. O(N^2 D)."""
        return retrieval_scores(*self.rows(), self.k)

    def __repr__(self) -> str:
        return f"RetrievalScores(k={self.k})"


def _one_direction(
    queries: Space, keys: Space, k: int, chunk_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """MRR, Jaccard@k and recall@k of one pass over the queries."""
    if keys.has_collapsed():
        return keys.nan(), keys.nan(), keys.nan()
    search = Search(keys, chunk_size)
    places, indices = [], []
    for rows in chunks(len(keys.rows), chunk_size):
        scores = search(queries.rows[rows])
        found = nearest(scores, k)
        places.append(_place(scores, search, queries, rows.start))
        indices.append(_jaccard(search, queries, keys, rows, found))
    place = _Places.joined(places)
    values = place.reciprocal(), torch.cat(indices), place.recall(k)
    mrr, jaccard, recall = (value.mean().to(keys.rows) for value in values)
    return mrr, jaccard, recall


def _comparable(x: Tensor, y: Tensor) -> tuple[Space, Space]:
    first, second = searched_spaces(x, y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`x` and `y` must have the same width to be compared, got {x.shape[1]} and "
            f"{y.shape[1]}. Compare relative codes, or translate one space into the other."
        )
    return first, second


class _Places(NamedTuple):
    """Where right answers stand, in float64 ``(rows,)``.

    Attributes:
        nearer: How many keys are nearer to the query.
        tied: How many are as near, the right answer counted.
    """

    nearer: Tensor
    tied: Tensor

    @classmethod
    def joined(cls, parts: list[_Places]) -> _Places:
        """Those of several chunks."""
        nearer, tied = (torch.cat(side) for side in zip(*parts, strict=True))
        return cls(nearer, tied)

    def mean_rank(self) -> Tensor:
        """Expected rank."""
        return self.nearer + (self.tied + 1) / 2

    def recall(self, k: int) -> Tensor:
        """Chance that the rank is at most ``k``."""
        return ((k - self.nearer) / self.tied).clamp(0, 1)

    def reciprocal(self, k: int | None = None) -> Tensor:
        """Expected value of one over the rank, ranks beyond ``k`` counting zero."""
        last = len(self.nearer) if k is None else k
        ranks = torch.arange(1, last + 1, dtype=torch.float64, device=self.nearer.device)
        harmonic = torch.cat((ranks.new_zeros(1), (1 / ranks).cumsum(0)))
        first, end = (
            harmonic[n.clamp(max=last).long()] for n in (self.nearer, self.nearer + self.tied)
        )
        return (end - first) / self.tied


def _places(queries: Space, keys: Space, chunk_size: int) -> _Places:
    search = Search(keys, chunk_size)
    slices = chunks(len(keys.rows), chunk_size)
    return _Places.joined(
        [_place(search(queries.rows[rows]), search, queries, rows.start) for rows in slices]
    )


def _place(scores: Tensor, search: Search, queries: Space, start: int) -> _Places:
    """Where key ``start + i`` stands in row i of the scores of a `Search`. Overwrites them."""
    n = scores.shape[1]
    right = scores.diagonal(start)[:, None].clone()
    ones = scores.new_ones(n)
    step = blocks.rows_in_passes(n, scores.device)
    parts, ties = [], []
    for some, own in zip(scores.split(step), right.split(step), strict=True):
        ahead = some.sub_(own).clamp_(-1, 1)  # +1 or -1, and in between for what ties
        # A product with ones adds up several times faster than a sum, and is exact for integers
        # below the 16 million that float32 holds.
        with full_precision(ahead):
            surplus = (ahead @ ones).double()
        nearer, tied = (surplus + (n - 1)) / 2, torch.ones_like(surplus)
        # Where only the right answer itself lies in between, n - 1 squares of 1 are left.
        between = n - torch.linalg.vector_norm(ahead, dim=1).double().square()
        ties.append((between > 1.25) | (surplus != surplus.round()))
        parts.append(_Places(nearer, tied))
    places = _Places.joined(parts)
    for part in some_at_once(torch.cat(ties).nonzero().flatten(), n):
        own = start + part
        exact = search.exact(queries.exact_rows(own))
        ahead = exact - exact.gather(1, own[:, None])
        places.nearer[part] = (ahead > 1).sum(1, dtype=torch.float64)
        places.tied[part] = (ahead.abs() <= 1).sum(1, dtype=torch.float64)
    return places


def _jaccard(search: Search, queries: Space, keys: Space, rows: slice, found: Nearest) -> Tensor:
    """Jaccard index of the lists ``found`` for some queries and those of their right answers."""
    k = found.columns.shape[1]
    right = nearest(search(keys.rows[rows]), k)
    common = overlap(found.columns, right.columns).double()
    index = common / (2 * k - common)
    open_rows = (found.tied | right.tied).nonzero().flatten()
    for part in some_at_once(open_rows, len(keys.rows)):
        own = rows.start + part
        lists = (drawn(search.exact(side.exact_rows(own)), k) for side in (queries, keys))
        index[part] = expected_jaccard(*lists)
    return index
