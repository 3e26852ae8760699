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
from relreps._core.linalg import as_float64
from relreps._core.rounding import is_constant, rank_tolerance, safe_reciprocal
from relreps._core.warnings import warn
from relreps.metrics.paired import Pair, centered, paired_rows


def mean_cca(x: Tensor, y: Tensor, rcond: float | None = None) -> Tensor:
    r"""Mean canonical correlation.

    .. math:: \frac1c \sum_{i=1}^{c} \rho_i, \qquad \rho = \sigma(U_x^\top U_y), \qquad
              c = \min(\operatorname{rank} X_c, \operatorname{rank} Y_c)

    with U an orthonormal basis of the columns of each centred side. :math:`O(N (D + E)^2)`.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        rcond: Directions whose singular value is at most this share of the largest count as
            none. By default what rounding of the rows may leave, once each feature has been
            brought to unit variance: about :math:`10 \sqrt D` roundings, whatever N.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 1]. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Warns:
        NumericalWarning: There are so few rows that some correlations are 1 whatever the data; or
            directions that may be more than rounding were left out.

    Example:
        >>> x = torch.randn(50, 3)
        >>> bool(mean_cca(x, x @ torch.randn(3, 3)) > 0.999)
        True

    References:
        Raghu et al., arXiv:1706.05806; Kornblith et al., arXiv:1905.00414.
    """
    with torch.no_grad():
        return _mean_correlation(_bases(x, y, rcond))


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
        return _mean_correlation(_bases(x, y, rcond, variance))


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
        NumericalWarning: There are so few rows that some correlations are 1 whatever the data; or
            directions that may be more than rounding were left out.

    References:
        Morcos, Raghu and Bengio, arXiv:1806.05759.
    """
    with torch.no_grad():
        pair, first, second, size = _bases(x, y, rcond)
        left, rho, _ = torch.linalg.svd(first.basis.mT @ second.basis, full_matrices=False)
        weights = ((first.basis @ left).mT @ first.rows).abs().sum(-1)
        # Correlations beyond the smaller rank are no correlations: they belong to no direction.
        weights = weights * (torch.arange(len(rho), device=rho.device) < size)
        return pair.result((weights * rho.clamp(0, 1)).sum() / weights.sum())


class Directions(NamedTuple):
    r"""Rows of a space without their mean, :math:`X_c`, and a basis of their columns, in float64.

    Attributes:
        rows: :math:`X_c`, ``(N, D)``.
        units: What each feature was multiplied with, ``(D,)``, for :math:`U S V^\top`.
        u: Left singular vectors ``(N, K)``.
        s: Singular values, the largest first.
        vh: Right ones, ``(K, D)``.
        live: Which of these directions count.
        floor: What rounding of the entries alone may make of each singular value.
    """

    rows: Tensor
    units: Tensor
    u: Tensor
    s: Tensor
    vh: Tensor
    live: Tensor
    floor: Tensor

    @property
    def basis(self) -> Tensor:
        """Orthonormal columns, and zeros for directions that do not count."""
        return self.u * self.live


def directions(
    x: Tensor, eps: float, *, rcond: float | None = None, in_units: bool = True
) -> Directions:
    """Directions in which rows do more than round; the first counts if there is any.

    The decomposition is a constant to autograd.

    Args:
        x: Rows ``(N, D)``.
        eps: Their relative rounding.
        rcond: Share of the largest singular value up to which one does not count.
        in_units: Bring every feature to length one first: rank is a matter of directions, and does
            not depend on the units of the features.
    """
    given = as_float64(x)
    rows = centered(given)
    squares, about_zero = (z.detach().square().sum(0) for z in (rows, given))
    units = torch.ones_like(squares)
    if in_units:
        constant = is_constant(squares, about_zero, eps)
        units = safe_reciprocal(torch.where(constant, 0, squares).sqrt())
    u, s, vh = torch.linalg.svd(rows.detach() * units, full_matrices=False)
    n, d = x.shape
    least = s[:1] * (rank_tolerance(d, eps) if rcond is None else rcond)
    floor = 2 * eps * s[:1].expand_as(s)
    if rcond is None:
        # `rank_tolerance` is for numbers of the size of what they do. About a large mean they are
        # rounded by more: entry (i, j) by at most eps |x_ij|, so that the direction v has
        #   eps sqrt(sum_j (v_j units_j |x_j|)^2) (1 + sqrt(D / N))
        # of rounding, the last factor as in `rank_tolerance`.
        noise = (vh.square() @ (units.square() * about_zero)).sqrt()
        noise = noise * (eps * (1 + (d / n) ** 0.5))
        least, floor = torch.maximum(least, noise), torch.maximum(floor, noise)
    live = (s > 0) & ((s > least) | (s == s[:1]))
    return Directions(rows, units, u, s, vh, live, floor)


def warn_of_dropped(name: str, live: Tensor, s: Tensor, floor: Tensor) -> None:
    """Warn if directions were taken for rounding that may be more.

    Args:
        name: Of the argument.
        live: Which directions count.
        s: Their singular values, the largest of them first or last.
        floor: What rounding of the entries alone may make of them.
    """
    if not checks.eager() or live.is_meta:
        return
    # More than the floor is dropped because rows may have been computed in many steps, which is
    # not known: see the margin of `rank_tolerance`.
    doubtful = int((~live & (s > floor)).sum())
    if doubtful:
        warn(
            f"{doubtful} of {len(s)} directions of `{name}` are so small, "
            f"{float(s[~live].amax() / s.amax()):.1g} of the largest, that they are taken for "
            "rounding and left out. If they are not, give float64 rows, or `rcond`, the share from "
            "which on they count."
        )


def warn_of_few_rows(n: int, rank_x: Tensor, rank_y: Tensor) -> None:
    """Warn if so many directions in so few rows have canonical correlations of 1 by counting."""
    if not checks.readable(rank_x, rank_y) or rank_x.is_meta:
        return
    a, b = int(rank_x), int(rank_y)
    surplus = a + b - (n - 1)
    if surplus > 0:
        warn(
            f"There are {n} rows for {a} and {b} directions: {min(surplus, a, b)} canonical "
            "correlations are 1 whatever the data. Give more rows, or keep fewer directions."
        )


class _Bases(NamedTuple):
    """Both sides, and how many canonical correlations they have."""

    pair: Pair
    x: Directions
    y: Directions
    size: Tensor


def _bases(x: Tensor, y: Tensor, rcond: float | None, variance: float | None = None) -> _Bases:
    """Both sides; with ``variance`` only the principal components that carry this share of it."""
    if rcond is not None:
        checks.check_number("rcond", rcond, 0, 1)
    pair = paired_rows(x, y)
    # Variance and shares of it are in the units of the features, and `rcond` is of what was given.
    in_units = variance is None and rcond is None
    first, second = (
        directions(side, eps, rcond=rcond, in_units=in_units)
        for side, eps in zip(pair[:2], pair.eps, strict=True)
    )
    if variance is not None:
        first, second = _carrying(first, variance), _carrying(second, variance)
    elif rcond is None and pair.speaks:
        for name, side in (("x", first), ("y", second)):
            warn_of_dropped(name, side.live, side.s, side.floor)
    rank_x, rank_y = first.live.sum(), second.live.sum()
    warn_of_few_rows(len(pair.x), rank_x, rank_y)
    return _Bases(pair, first, second, torch.minimum(rank_x, rank_y))


def _carrying(side: Directions, variance: float) -> Directions:
    """The fewest directions that carry this share of the variance, at least one."""
    energy = side.s.square()
    before = energy.cumsum(0) - energy
    first = torch.arange(len(energy), device=energy.device) == 0
    return side._replace(live=side.live & (first | (before < variance * energy.sum())))


def _mean_correlation(bases: _Bases) -> Tensor:
    rho = torch.linalg.svdvals(bases.x.basis.mT @ bases.y.basis).clamp(0, 1)
    return bases.pair.result(rho.sum() / bases.size)
