"""Neighbours across two spaces in common coordinates: scores without hubs, and mutual matches."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import full_precision, unit_rows
from relreps.correspondence.pairs import Pairs


def csls(x: Tensor, y: Tensor, k: int = 10) -> Tensor:
    r"""Cross-domain similarity local scaling: cosines, corrected for rows that are near to all.

    .. math:: s_{ij} = 2\cos(x_i, y_j) - r_y(x_i) - r_x(y_j)

    where :math:`r_y(x_i)` is the mean cosine of :math:`x_i` to its k nearest rows of ``y``, and
    :math:`r_x(y_j)` likewise. Both spaces have to lie in the same coordinates: translate first, and
    subtract a common mean where cosines are all high. Differentiable; the neighbours are constant.
    O(NMD) time, O(NM) memory; `mutual_nearest` needs only O(N + M).

    Args:
        x: Translated rows.
        y: Rows to match them with.
        k: Number of neighbours, at most the rows of either side.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(M, D)`. Output: :math:`(N, M)`.

    Example:
        >>> x = torch.eye(3)
        >>> csls(x, x.flip(0), k=1).argmax(1)
        tensor([2, 1, 0])

    References:
        Conneau et al., arXiv:1710.04087.
    """
    check_common_space(x, y, k)
    with full_precision(x):
        dtype = torch.promote_types(x.dtype, y.dtype)
        wide = torch.promote_types(dtype, torch.float32)
        cosines = unit_rows(x.to(wide)) @ unit_rows(y.to(wide)).mT
        rows, columns = (cosines.topk(k, dim).values.mean(dim, keepdim=True) for dim in (1, 0))
        return (2 * cosines - rows - columns).to(dtype)


@torch.no_grad()
def mutual_nearest(x: Tensor, y: Tensor, k: int = 10) -> Pairs:
    """Rows of two spaces that are each other's nearest by `csls`.

    A tie goes to the first row. O(NMD) time, O(N + M) memory: scores are made in chunks.

    Args:
        x: Translated rows.
        y: Rows to match them with.
        k: Number of neighbours of the scores, at most the rows of either side.

    Returns:
        `Pairs`, the surest first. A score says how far a pair is ahead of the best rival
        of either row: zero at a tie, infinite if neither has any.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(M, D)`. Output: :math:`(P,)` each, P at most min(N, M).

    Example:
        >>> x = torch.eye(3)
        >>> found = mutual_nearest(x, x.flip(0), k=1)
        >>> bool((found.indices_x == 2 - found.indices_y).all())
        True

    References:
        Conneau et al., arXiv:1710.04087, for the pairs; the scores are this library's.
    """
    check_common_space(x, y, k)
    for name, rows in (("x", x), ("y", y)):
        checks.check_readable(name, rows)
        checks.check_finite(name, rows)
    return matched(x, y, k)


def matched(x: Tensor, y: Tensor, k: int) -> Pairs:
    """`mutual_nearest` of checked rows."""
    with full_precision(x):
        wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        a, b = unit_rows(x.to(wide)), unit_rows(y.to(x.device, wide))
        # Of s_ij = 2 cos - r_i - r_j, the best j of a row i does not depend on r_i, nor the best i
        # of a row j on r_j: each side only needs the other's mean cosines. The lead of a pair over
        # its rivals in a row, or in a column, does not depend on the term left out either.
        near_a, near_b = _mean_nearest(a, b, k), _mean_nearest(b, a, k)
        to_b, margin_a = _best(a, b, near_b)
        to_a, margin_b = _best(b, a, near_a)
    i = torch.arange(len(a), device=a.device)
    i = i[to_a[to_b] == i]
    j = to_b[i]
    scores = torch.minimum(margin_a[i], margin_b[j])
    order = scores.argsort(descending=True, stable=True)
    return Pairs(i[order], j[order], scores[order])


def check_common_space(x: Tensor, y: Tensor, k: int) -> None:
    """Refuse rows of two widths, and more neighbours than either side has rows."""
    checks.check_rows("x", x)
    checks.check_rows("y", y, x.shape[1])
    checks.check_device(x, y)
    k = checks.check_k(k, min(x.shape[0], y.shape[0]))


def _mean_nearest(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Mean cosine of each row of ``a`` to its k nearest rows of ``b``."""
    step = blocks.rows_of_table(len(b), b.dtype, b.device)
    return torch.cat([(rows @ b.mT).topk(k, 1).values.mean(1) for rows in a.split(step)])


def _best(a: Tensor, b: Tensor, near_b: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of ``a`` the best row of ``b``, the first of equals, and its lead."""
    best, leads = [], []
    for rows in a.split(blocks.rows_of_table(len(b), b.dtype, b.device)):
        scores = 2 * (rows @ b.mT) - near_b
        first = scores.max(1)
        best.append(first.indices)
        rest = scores.scatter_(1, first.indices[:, None], -torch.inf)
        leads.append(first.values - rest.amax(1))
    return torch.cat(best), torch.cat(leads)
