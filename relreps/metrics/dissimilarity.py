"""Measures from the distances inside each space, which need no common coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import as_float64, full_precision, unit_rows
from relreps._core.pairwise import distances
from relreps.metrics.hsic import InnerProducts, from_sums, products, similarity_noise
from relreps.metrics.paired import Pair, centered, paired_rows
from relreps.moments import RowMoments, elementwise, row_moments

#: From rows and rows to the distances of each to each, ``(N, D), (M, D) -> (N, M)``.
Distances = Callable[[Tensor, Tensor], Tensor]

#: From the distances of all pairs in two spaces, ``(P,), (P,)``, to one number.
Comparison = Callable[[Tensor, Tensor], Tensor]

_PAIRS = ((0, 1), (0, 0), (1, 1))
_ALL_EQUAL = "its distances are all equal"


def rsa(
    x: Tensor,
    y: Tensor,
    rdm: str | Distances = "euclidean",
    compare: str | Comparison = "spearman",
) -> Tensor:
    r"""Representational similarity: do two spaces order the pairs of items alike?

    .. math:: \operatorname{corr}\bigl( (d(x_i, x_j))_{i<j},\ (d(y_i, y_j))_{i<j} \bigr)

    By ``compare="spearman"`` the distances are replaced by their ranks, mean ranks where they tie;
    :math:`O(N^2)` memory, and no gradient. ``"pearson"`` and ``"cosine"`` (not centred) are
    differentiable, and take memory for some rows of distances at a time. :math:`O(N^2 (D + E))`
    time. Euclidean distances come from differences, so that copies of a row tie; the others from
    products, whose last digit may part them.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        rdm: Distance within each space: ``"euclidean"``, ``"cosine"``, ``"correlation"`` (one
            minus the correlation of two rows over their features, which a rotation changes), or a
            function of rows and rows ``(N, D), (M, D) -> (N, M)``, such as `relreps.similarity.l1`,
            which gets them in the units they were given in, some at a time.
        compare: ``"spearman"``, ``"pearson"``, ``"cosine"``, or a function of the distances of all
            pairs in either space, ``(P,), (P,) -> scalar`` with P = N (N - 1) / 2.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`, at least 3 rows. Output: scalar in [-1, 1]. NaN with
          a `NumericalWarning` if all rows of a side are the same, or all distances equal.

    Raises:
        ValueError: A function does not give what it has to, or a name is not known.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> rsa(x, -2 * x)
        tensor(1.)

    References:
        Kriegeskorte, Mur and Bandettini 2008, Front. Syst. Neurosci. 2:4.
    """
    if not callable(compare):
        checks.check_choice("compare", compare, ("spearman", "pearson", "cosine"))
    rule = _resolved(rdm)
    pair = paired_rows(x, y, 3, "a correlation of distances", rescaled=rule.rescaled)
    with full_precision(pair.x):
        parts = _upper_triangles(pair, rule)
        if callable(compare):
            return pair.result(_compared(compare, *map(torch.cat, zip(*parts, strict=True))))
        if compare == "spearman":
            checks.check_readable("x", pair.x)
            checks.check_readable("y", pair.y)
            with torch.no_grad():
                a, b = map(torch.cat, zip(*parts, strict=True))
                sums = _of_ranks(a, b, rule, pair.eps)
        else:
            sums = _of_distances(parts, rule, pair.eps, centered=compare == "pearson")
        return pair.result(sums.cosine(_ALL_EQUAL if pair.speaks else None))


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    r"""Bias-corrected distance correlation: zero on average if two spaces are independent.

    .. math:: \frac{\langle \tilde A, \tilde B \rangle}
              {\sqrt{\langle \tilde A, \tilde A \rangle \langle \tilde B, \tilde B \rangle}}

    with :math:`A_{ij} = \lVert x_i - x_j \rVert`, :math:`B_{ij} = \lVert y_i - y_j \rVert`, and the
    tilde for U-centring. It is the debiased CKA with distances for similarities, on the scale of a
    squared correlation. Differentiable. :math:`O(N^2 (D + E))` time; memory for some rows of
    distances at a time, unless a gradient is needed.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`, at least 4 rows. Output: scalar in [-1, 1]. NaN with
          a `NumericalWarning` if all rows of a side are the same, or all distances equal.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> distance_correlation(x, -2 * x)
        tensor(1.)

    References:
        Szekely and Rizzo, arXiv:1310.2926.
    """
    pair = paired_rows(x, y, 4, "the debiased estimator")
    rule = _resolved("euclidean")
    parts, of_x, of_y = [], [], []
    with full_precision(pair.x):
        from_x, from_y = rule.of(pair.x), rule.of(pair.y)
        for rows in _row_blocks(pair.x):
            a, b = as_float64(from_x(rows, 0)), as_float64(from_y(rows, 0))
            parts.append(torch.stack(products(a, b)))
            of_x.append(a.sum(-1))
            of_y.append(b.sum(-1))
        sums = torch.stack(parts).sum(0).unbind()
        hsic = from_sums(sums, torch.cat(of_x), torch.cat(of_y), pair.eps, debiased=True)
        return pair.result(hsic.cosine(_ALL_EQUAL if pair.speaks else None))


@dataclass(frozen=True)
class _Dissimilarity:
    """Distances within a space, resolved once.

    Attributes:
        prepare: What is done to all rows first.
        between: From prepared rows ``(N, D)`` and ``(M, D)`` to their distances ``(N, M)``.
        rescaled: Whether rows may be brought to another unit.
        size: What numbers distances are rounded as, besides their own size.
    """

    prepare: Callable[[Tensor], Tensor]
    between: Distances
    rescaled: bool = False
    size: float = 0.0

    def of(self, x: Tensor) -> Callable[[slice, int], Tensor]:
        """Function of some rows to their distances to all rows from a certain one on."""
        x = self.prepare(x)
        return lambda rows, start: self.between(x[rows], x[start:])


def _resolved(rdm: str | Distances) -> _Dissimilarity:
    if callable(rdm):
        return _Dissimilarity(lambda x: x, partial(_given, rdm))
    checks.check_choice("rdm", rdm, ("euclidean", "cosine", "correlation"))
    if rdm == "euclidean":
        return _Dissimilarity(centered, distances, rescaled=True)
    # Cosines are rounded as numbers of size 1, however near two rows are.
    prepare = unit_rows if rdm == "cosine" else _unit_rows_about_own_mean
    return _Dissimilarity(prepare, lambda a, b: 1 - a @ b.mT, size=1.0)


def _unit_rows_about_own_mean(x: Tensor) -> Tensor:
    return unit_rows(x - x.mean(-1, keepdim=True))


def _given(rdm: Distances, a: Tensor, b: Tensor) -> Tensor:
    """What a function of the user gives, if it can be used."""
    found = rdm(a, b)
    shape, wanted = tuple(getattr(found, "shape", ())), (len(a), len(b))
    if not isinstance(found, Tensor) or shape != wanted:
        raise ValueError(
            f"`rdm` must give a tensor {wanted} for {len(a)} and {len(b)} rows, got a "
            f"{type(found).__name__} of shape {shape}. It is called with some rows and others: "
            "`torch.cdist`."
        )
    return found


def _compared(compare: Comparison, a: Tensor, b: Tensor) -> Tensor:
    """What a function of the user gives, if it is one number."""
    value = compare(a, b)
    if not isinstance(value, Tensor) or value.shape != ():
        raise ValueError(
            "`compare` must give a scalar tensor for the distances of all pairs in two spaces, got "
            f"a {type(value).__name__} of shape {tuple(getattr(value, 'shape', ()))}."
        )
    return value


def _row_blocks(x: Tensor) -> Iterator[slice]:
    step = blocks.rows_of_table(len(x), x.dtype)
    return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))


def _upper_triangles(pair: Pair, rdm: _Dissimilarity) -> Iterator[tuple[Tensor, Tensor]]:
    """Distances of every pair of rows, once, in both spaces, in blocks."""
    from_x, from_y = rdm.of(pair.x), rdm.of(pair.y)
    for rows in _row_blocks(pair.x):
        a, b = from_x(rows, rows.start), from_y(rows, rows.start)
        i, j = torch.triu_indices(a.shape[0], a.shape[1], 1, device=a.device)
        yield a[i, j], b[i, j]


def _moments(a: Tensor, b: Tensor) -> RowMoments:
    return row_moments(a[:, None], b[:, None], pairs=_PAIRS, product=elementwise)


def _of_distances(
    parts: Iterable[tuple[Tensor, Tensor]],
    rdm: _Dissimilarity,
    eps: tuple[float, float],
    centered: bool,
) -> InnerProducts:
    """Inner products of the distances in two spaces, about their means or about zero."""
    moments = reduce(add, (_moments(*part) for part in parts))
    about_zero = moments.about_zero()
    xy, xx, yy = (scatter.sum() for scatter in (moments if centered else about_zero).scatters)
    # Equal distances are no signal, unless they are compared about zero: there none are noise but
    # those that are zero up to the rounding of `size`.
    squares = [scatter.sum() * centered for scatter in about_zero.scatters[1:]]
    size = moments.total * rdm.size
    noise = (similarity_noise(s + size, e) for s, e in zip(squares, eps, strict=True))
    return InnerProducts(xy, xx, yy, *noise)


def _of_ranks(a: Tensor, b: Tensor, rdm: _Dissimilarity, eps: tuple[float, float]) -> InnerProducts:
    """Inner products of the centred ranks of distances; those of equal distances are none."""
    xy, xx, yy = (s.sum() for s in _moments(_mean_ranks(a), _mean_ranks(b)).scatters)
    noise = []
    for side, rounding in zip((a, b), eps, strict=True):
        wide = as_float64(side)
        left = similarity_noise(wide.square().sum() + len(wide) * rdm.size, rounding)
        noise.append(torch.where((wide - wide.mean()).square().sum() > left, 0.0, torch.inf))
    return InnerProducts(xy, xx, yy, *noise)


def _mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 1, in float64; equal values share the mean of theirs."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = as_float64(counts.cumsum(0))
    return (last - (as_float64(counts) - 1) / 2)[place]
