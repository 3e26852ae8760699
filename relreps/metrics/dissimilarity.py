"""Measures from the distances inside each space, which need no common coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, full_precision, unit_rows
from relreps.metrics.hsic import centred_hsic
from relreps.metrics.paired import centred, noise, paired_rows, rounding, varying
from relreps.moments import RowMoments, elementwise, row_moments

#: Distances computed at once.
_BLOCK = 1 << 20

_PAIRS = ((0, 1), (0, 0), (1, 1))


def rsa(x: Tensor, y: Tensor, rdm: str = "euclidean", compare: str = "spearman") -> Tensor:
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
        rdm: Distance within each space: ``"euclidean"``, ``"cosine"``, or ``"correlation"`` (one
            minus the correlation of two rows over their features, which a rotation changes).
        compare: ``"spearman"``, ``"pearson"`` or ``"cosine"``.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`, at least 3 rows. Output: scalar in [-1, 1]. NaN with
          a `NumericalWarning` if all rows of a side are the same, or all distances equal.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> rsa(x, -2 * x)
        tensor(1.)

    References:
        Kriegeskorte, Mur and Bandettini 2008, Front. Syst. Neurosci. 2:4.
    """
    checks.check_choice("rdm", rdm, ("euclidean", "cosine", "correlation"))
    checks.check_choice("compare", compare, ("spearman", "pearson", "cosine"))
    euclidean = rdm == "euclidean"
    pair = paired_rows(x, y, 3, "a correlation of distances", rescaled=euclidean)
    eps = rounding(pair.x)
    # Cosines are rounded as numbers of size 1, however near two rows are.
    size = 0 if euclidean else 1
    with full_precision(pair.x):
        blocks = _upper_triangles(pair.x, pair.y, rdm)
        if compare == "spearman":
            with torch.no_grad():
                sides = zip(*blocks, strict=True)
                parts = iter([tuple(_mean_ranks(torch.cat(side), size) for side in sides)])
        else:
            parts = blocks
        moments = reduce(add, (_moments(*part) for part in parts))
        products = [s.sum() for s in moments.scatters]
        a, b = (mean.sum() for mean in moments.means)
        means = [moments.total * mean for mean in (a * b, a * a, b * b)]
        floors = [noise(mean + moments.total * size, eps) for mean in means[1:]]
        if compare == "cosine":
            products = list(map(torch.add, products, means))
            floors = [noise(moments.total * size, eps)] * 2
        elif compare == "spearman":
            floors = [torch.zeros_like(product) for product in products[1:]]
        return pair.ratio(products + floors, "its distances are all equal")


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
    sums: list[list[Tensor]] = []
    lengths: tuple[list[Tensor], list[Tensor]] = ([], [])
    with full_precision(pair.x):
        from_x, from_y = _distances(pair.x, "euclidean"), _distances(pair.y, "euclidean")
        for block in _row_blocks(pair.x.shape[0]):
            a, b = as_float64(from_x(block, 0)), as_float64(from_y(block, 0))
            sums.append([(a * b).sum(), (a * a).sum(), (b * b).sum()])
            lengths[0].append(a.sum(-1))
            lengths[1].append(b.sum(-1))
        totals = [torch.stack(kind).sum() for kind in zip(*sums, strict=True)]
        rows = torch.cat(lengths[0]), torch.cat(lengths[1])
        hsic = centred_hsic(totals, *rows, debiased=True, eps=rounding(pair.x))
        return pair.ratio(hsic, "its distances are all equal")


def _row_blocks(n: int) -> Iterator[slice]:
    step = max(1, _BLOCK // n)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _distances(x: Tensor, rdm: str) -> Callable[[slice, int], Tensor]:
    """Function of some rows to their distances to all rows from a certain one on."""
    if rdm == "euclidean":
        x = centred(x)
        exact = "donot_use_mm_for_euclid_dist"
        return lambda rows, start: torch.cdist(x[rows], x[start:], compute_mode=exact)
    unit = unit_rows(x - x.mean(-1, keepdim=True) if rdm == "correlation" else x)
    return lambda rows, start: 1 - unit[rows] @ unit[start:].mT


def _upper_triangles(x: Tensor, y: Tensor, rdm: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Distances of every pair of rows, once, in both spaces, in blocks."""
    from_x, from_y = _distances(x, rdm), _distances(y, rdm)
    for rows in _row_blocks(x.shape[0]):
        a, b = from_x(rows, rows.start), from_y(rows, rows.start)
        i, j = torch.triu_indices(a.shape[0], a.shape[1], 1, device=a.device)
        yield a[i, j], b[i, j]


def _moments(a: Tensor, b: Tensor) -> RowMoments:
    return row_moments(a[:, None], b[:, None], pairs=_PAIRS, product=elementwise)


def _mean_ranks(values: Tensor, size: float) -> Tensor:
    """Ranks from 1, in float64; equal values share the mean of theirs.

    All are equal if they differ by no more than a distance is rounded, about as much as a number of
    their size, or of ``size``.
    """
    largest = max(float(values.max()), size)
    if not bool(varying(values, 4 * largest)):
        return as_float64(torch.zeros_like(values))
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = as_float64(counts.cumsum(0))
    return (last - (as_float64(counts) - 1) / 2)[place]
