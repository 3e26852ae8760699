"""Retrieval: do two encodings of the same items agree on who is near whom?

Row i of ``x`` and row i of ``y`` encode the same item; both have the same width, as relative codes
do. Rows are compared by their cosine, every query ``x`` against every key ``y``, in chunks of
queries: O(N^2 D) time, O(chunk N) memory. Results are scalar tensors; they are not differentiable.
Definitions: Moschella et al., arXiv:2209.15430, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from relreps import _checks
from relreps._linalg import unit_rows

_CHUNK = 1024


def mean_reciprocal_rank(x: Tensor, y: Tensor, *, chunk_size: int = _CHUNK) -> Tensor:
    r"""Mean over the items of one over the rank of the right answer.

    .. math:: \mathrm{MRR} = \frac1N \sum_i \frac{1}{\rho_i}, \qquad
              \rho_i = \tfrac12\Bigl(N + 1 + \sum_j \operatorname{sign}(s_{ij} - s_{ii})\Bigr)

    :math:`\rho_i` is the rank of key i among all keys for query i, and the mean of the best and
    the worst rank where keys tie. By chance: :math:`H_N / N`. Range (0, 1].

    Args:
        x: Queries.
        y: Keys; key i is the right answer to query i.
        chunk_size: Queries handled at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, D)`. Output: scalar.

    Example:
        >>> x = torch.eye(3)
        >>> mean_reciprocal_rank(x, x)
        tensor(1.)
    """
    return (1 / _ranks(*_unit(x, y), chunk_size)).mean()


def recall_at_k(x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = _CHUNK) -> Tensor:
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
    queries, keys = _unit(x, y)
    _checks.check_k(k, keys.shape[0])
    return (_ranks(queries, keys, chunk_size) <= k).to(queries.dtype).mean()


def jaccard_at_k(x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = _CHUNK) -> Tensor:
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
    queries, keys = _unit(x, y)
    _checks.check_k(k, keys.shape[0])
    similarity = _similarity_to(keys)
    scores = []
    for rows in _chunks(keys.shape[0], chunk_size):
        found, wanted = (_top_k(similarity(q[rows]), k) for q in (queries, keys))
        common = (found & wanted).sum(-1)
        scores.append(common / (2 * k - common))
    return torch.cat(scores).to(queries.dtype).mean()


class RetrievalResult(NamedTuple):
    """Three measures of a pair of spaces, both directions; ``xy`` queries ``y`` with ``x``."""

    mrr_xy: Tensor
    mrr_yx: Tensor
    jaccard_xy: Tensor
    jaccard_yx: Tensor
    cosine: Tensor


def retrieval_scores(
    x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = _CHUNK
) -> RetrievalResult:
    r"""MRR and Jaccard@k in both directions, and the mean cosine of paired rows.

    The direction matters, so both are given. The cosine alone is no evidence of alignment:
    relative codes share a large mean.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        k: Length of the neighbour lists of the Jaccard index, at most N.
        chunk_size: Queries handled at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, D)`. Output: five scalars.
    """
    first, second = _unit(x, y)
    return RetrievalResult(
        mean_reciprocal_rank(first, second, chunk_size=chunk_size),
        mean_reciprocal_rank(second, first, chunk_size=chunk_size),
        jaccard_at_k(first, second, k, chunk_size=chunk_size),
        jaccard_at_k(second, first, k, chunk_size=chunk_size),
        (first * second).sum(-1).mean(),
    )


def _unit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    _checks.check_rows("x", x)
    _checks.check_rows("y", y)
    _checks.check_paired(x, y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`x` and `y` must have the same width to be compared, got {x.shape[1]} and "
            f"{y.shape[1]}. Compare relative codes, or translate one space into the other."
        )
    _checks.check_finite("x", x)
    _checks.check_finite("y", y)
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return unit_rows(x.detach().to(dtype)), unit_rows(y.detach().to(dtype))


def _chunks(n: int, chunk_size: int) -> Iterator[slice]:
    _checks.check_size("chunk_size", chunk_size)
    return (slice(start, start + chunk_size) for start in range(0, n, chunk_size))


def _similarity_to(keys: Tensor) -> Callable[[Tensor], Tensor]:
    """The map from rows to their inner products with every key; equal keys tie exactly.

    A product rounds equal columns differently, depending on where they stand, so each distinct key
    is multiplied once. Autocast would round so coarsely that different keys tie.
    """
    distinct, index = keys.unique(dim=0, return_inverse=True)
    repeated = len(distinct) < len(keys)

    def similarity(rows: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            return (rows @ distinct.mT)[:, index] if repeated else rows @ keys.mT

    return similarity


def _ranks(queries: Tensor, keys: Tensor, chunk_size: int) -> Tensor:
    """Rank of key i for query i, from 1; the mean rank where keys tie."""
    similarity = _similarity_to(keys)
    ranks = []
    for rows in _chunks(keys.shape[0], chunk_size):
        similar = similarity(queries[rows])
        right = similar.diagonal(rows.start)[:, None]
        ranks.append((similar.shape[1] + 1 + (similar - right).sign_().sum(-1)) / 2)
    return torch.cat(ranks)


def _top_k(scores: Tensor, k: int) -> Tensor:
    """Mask of the ``k`` largest entries of each row; ties go to the lowest index."""
    least = scores.kthvalue(scores.shape[1] - k + 1, dim=-1, keepdim=True).values
    above, tied = scores > least, scores == least
    room = k - above.sum(-1, keepdim=True)
    return above | (tied & (tied.cumsum(-1) <= room))
