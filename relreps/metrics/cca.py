"""Canonical correlations: which directions of two spaces agree, whatever their scales?

They come from orthonormal bases of both sides (thin singular value decompositions, in float64), so
no covariance is inverted. They are not differentiable; as a loss use `shape_distance` with
``alpha=0``, whose cosine is the mean canonical correlation of spaces of equal rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision
from relreps.metrics.paired import (
    Pair,
    centred64,
    paired_rows,
    unit_scales,
    warn_of_few_rows,
)


def mean_cca(x: Tensor, y: Tensor, rcond: float | None = None) -> Tensor:
    r"""Mean canonical correlation.

    .. math:: \frac1c \sum_{i=1}^{c} \rho_i, \qquad \rho = \sigma(U_x^\top U_y), \qquad
              c = \min(\operatorname{rank} X_c, \operatorname{rank} Y_c)

    with U an orthonormal basis of the columns of each centred side. :math:`O(N (D + E)^2)`.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        rcond: Directions whose singular value is at most this share of the largest count as
            none. By default ``max(N, D)`` roundings of the type of the rows, once each feature has
            been brought to unit variance.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 1]. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Warns:
        NumericalWarning: There are so few rows that some correlations are 1 whatever the data.

    Example:
        >>> x = torch.randn(50, 3)
        >>> bool(mean_cca(x, x @ torch.randn(3, 3)) > 0.999)
        True

    References:
        Raghu et al., arXiv:1706.05806; Kornblith et al., arXiv:1905.00414.
    """
    with torch.no_grad():
        return _mean_correlation(*_sides(x, y, rcond))


def svcca(x: Tensor, y: Tensor, variance: float = 0.99, rcond: float | None = None) -> Tensor:
    r"""Mean canonical correlation of the principal components that carry most of the variance.

    On each side the fewest components are kept whose squared singular values sum up to
    ``variance`` of their total; then as `mean_cca`. It depends on the scale of each direction, so
    its invariance is to rotations, no longer to every invertible map. :math:`O(N (D + E)^2)`.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        variance: Share of the variance to keep on each side, in [0, 1]; at least one component.
        rcond: As in `mean_cca`.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 1]. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Warns:
        NumericalWarning: There are so few rows that some correlations are 1 whatever the data.

    References:
        Raghu et al., arXiv:1706.05806.
    """
    checks.check_number("variance", variance, 0, 1)
    with torch.no_grad():
        return _mean_correlation(*_sides(x, y, rcond, variance))


def pwcca(x: Tensor, y: Tensor, rcond: float | None = None) -> Tensor:
    r"""Canonical correlations weighted by how much each matters to the first space.

    .. math:: \frac{\sum_i w_i \rho_i}{\sum_i w_i}, \qquad
              w_i = \sum_j \bigl| \langle h_i, x_j \rangle \bigr|

    over the :math:`c` correlations of `mean_cca`, with :math:`h_i` the canonical variates of ``x``,
    of unit length, and :math:`x_j` its centred features. Not symmetric, and defined for any two
    widths. The weights look at single features, so ``x`` may be permuted but not rotated; ``y``
    may be mapped by anything invertible. :math:`O(N (D + E)^2)`.

    Args:
        x: First encoding, which gives the weights.
        y: Second encoding of the same items, in the same order.
        rcond: As in `mean_cca`.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 1]. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Warns:
        NumericalWarning: There are so few rows that some correlations are 1 whatever the data.

    References:
        Morcos, Raghu and Bengio, arXiv:1806.05759.
    """
    with torch.no_grad():
        pair, first, second = _sides(x, y, rcond)
        left, rho, _ = torch.linalg.svd(first.basis.mT @ second.basis, full_matrices=False)
        weights = ((first.basis @ left).mT @ first.rows).abs().sum(-1)
        # Correlations beyond the smaller rank are no correlations: they belong to no direction.
        count = torch.minimum(first.rank, second.rank)
        weights = weights * (torch.arange(len(rho), device=rho.device) < count)
        value = (weights * rho.clamp(0, 1)).sum() / weights.sum()
        return pair.result(value)


class _Side(NamedTuple):
    """Centred rows, an orthonormal basis of their columns with zeros in the rest, and its size."""

    rows: Tensor
    basis: Tensor
    rank: Tensor


def _mean_correlation(pair: Pair, first: _Side, second: _Side) -> Tensor:
    rho = torch.linalg.svdvals(first.basis.mT @ second.basis).clamp(0, 1)
    return pair.result(rho.sum() / torch.minimum(first.rank, second.rank))


def _sides(
    x: Tensor, y: Tensor, rcond: float | None, variance: float | None = None
) -> tuple[Pair, _Side, _Side]:
    """Both sides; with ``variance`` only the principal components that carry this share of it."""
    if rcond is not None:
        checks.check_number("rcond", rcond, 0, 1)
    pair = paired_rows(x, y)
    sides = []
    for side in (pair.x, pair.y):
        rows = centred64(side)
        # Variance and shares of it are in the units of the features.
        even = rows
        if variance is None and rcond is None:
            even = rows * unit_scales(side, rows)
        with full_precision(rows):
            u, s, _ = torch.linalg.svd(even, full_matrices=False)
        noise = max(rows.shape) * torch.finfo(side.dtype).eps if rcond is None else rcond
        kept = s > noise * s[0]
        if variance is not None:
            energy = s.square()
            before = energy.cumsum(0) - energy
            kept = kept & (before < variance * energy.sum())
        kept[0] = s[0] > 0
        sides.append(_Side(rows, u * kept, kept.sum()))
    first, second = sides
    warn_of_few_rows(len(pair.x), first.rank, second.rank)
    return pair, first, second
