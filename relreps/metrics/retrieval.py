"""Retrieval: do two encodings of the same items agree on who is near whom?

Row i of ``x`` and row i of ``y`` encode the same item; both have the same width, as relative codes
do. Rows are compared by their cosine, every query ``x`` against every key ``y``, in chunks of
queries: O(N^2 D) time, O(chunk N) memory. Results are scalar tensors; they are not differentiable.
Copies of a key tie exactly, and a right answer that ties with others has their mean rank. Where all
keys point the same way there is nothing to find: the result is NaN, with a `NumericalWarning`.
Definitions: Moschella et al., arXiv:2209.15430, section 4.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision
from relreps.metrics.search import (
    CHUNK,
    Search,
    Space,
    chunks,
    overlap,
    searched_spaces,
    top_k,
)
from relreps.metrics.streaming import PairedRows


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
    return _ranks(queries, keys, chunk_size)


def mean_reciprocal_rank(
    x: Tensor, y: Tensor, *, k: int | None = None, chunk_size: int = CHUNK
) -> Tensor:
    r"""Mean over the items of one over the rank of the right answer.

    .. math:: \mathrm{MRR} = \frac1N \sum_i \frac{1}{\rho_i}, \qquad
              \rho_i = \tfrac12\Bigl(N + 1 + \sum_j \operatorname{sign}(s_{ij} - s_{ii})\Bigr)

    :math:`\rho_i` is the rank of key i among all keys for query i, and the mean of the best and
    the worst rank where keys tie. Truncated at k, ranks beyond k count zero, which is what the
    released code of the paper computes; it is lower by at most 1 / (k + 1). By chance:
    :math:`H_N / N`, or :math:`H_k / N`. Range [0, 1].

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
    return _reciprocal(_ranks(queries, keys, chunk_size), k)


def recall_at_k(x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = CHUNK) -> Tensor:
    r"""Share of the queries whose right answer is among the ``k`` nearest keys.

    A right answer tied with others counts by its mean rank. By chance: k / N. Range [0, 1].

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
    return _recall(_ranks(queries, keys, chunk_size), k)


def jaccard_at_k(x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = CHUNK) -> Tensor:
    r"""Overlap of the ``k`` keys nearest to the query and those nearest to its right answer.

    .. math:: \frac1N \sum_i \frac{|T(x_i) \cap T(y_i)|}{|T(x_i) \cup T(y_i)|}

    with :math:`T(q)` the k rows of ``y`` most similar to q, the item itself included; ties go to
    the lowest index. Both lists search ``y``, so it depends on the direction, unlike mutual
    nearest neighbours. By chance: about k / 2N. Range [0, 1].

    Args:
        x: Queries.
        y: Keys; key i is the right answer to query i.
        k: Length of the lists, at most N.
        chunk_size: Queries handled at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, D)`. Output: scalar.

    Example:
        >>> x = torch.eye(4)
        >>> jaccard_at_k(x, x, k=2)
        tensor(1.)
    """
    queries, keys = _comparable(x, y)
    k = checks.check_k(k, len(keys.rows))
    if keys.has_collapsed():
        return keys.nan()
    search = Search(keys, chunk_size)
    common = [
        overlap(top_k(search(queries.rows[rows]), k), top_k(search(keys.rows[rows]), k))
        for rows in chunks(len(keys.rows), chunk_size)
    ]
    return _jaccard(torch.cat(common), k, keys)


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
    ranks, common = [], []
    for rows in chunks(len(keys.rows), chunk_size):
        similar = search(queries.rows[rows])
        found = top_k(similar, k)
        ranks.append(_mean_ranks(similar, rows.start))
        common.append(overlap(found, top_k(search(keys.rows[rows]), k)))
    rank = torch.cat(ranks)
    return _reciprocal(rank, None), _jaccard(torch.cat(common), k, keys), _recall(rank, k)


def _comparable(x: Tensor, y: Tensor) -> tuple[Space, Space]:
    first, second = searched_spaces(x, y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`x` and `y` must have the same width to be compared, got {x.shape[1]} and "
            f"{y.shape[1]}. Compare relative codes, or translate one space into the other."
        )
    return first, second


def _ranks(queries: Space, keys: Space, chunk_size: int) -> Tensor:
    search = Search(keys, chunk_size)
    slices = chunks(len(keys.rows), chunk_size)
    return torch.cat([_mean_ranks(search(queries.rows[rows]), rows.start) for rows in slices])


def _mean_ranks(similar: Tensor, start: int) -> Tensor:
    """Rank of key ``start + i`` in row i; the mean rank where keys tie. Overwrites ``similar``."""
    right = similar.diagonal(start)[:, None].clone()
    signs = similar.sub_(right).sign_()
    # A product with ones adds up several times faster than a sum, and is exact for integers below
    # the 16 million that float32 holds.
    with full_precision(signs):
        return (signs.shape[1] + 1 + signs @ signs.new_ones(signs.shape[1])) / 2


def _reciprocal(ranks: Tensor, k: int | None) -> Tensor:
    reciprocal = 1 / ranks
    return (reciprocal if k is None else torch.where(ranks <= k, reciprocal, 0)).mean()


def _recall(ranks: Tensor, k: int) -> Tensor:
    return (ranks <= k).to(ranks.dtype).mean()


def _jaccard(common: Tensor, k: int, keys: Space) -> Tensor:
    return (common / (2 * k - common)).to(keys.rows).mean()
