"""Distances between shapes: how far are two spaces apart after the best rotation?"""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, differentiable_once, full_precision, inverse_sqrt
from relreps._core.rounding import rank_tolerance, safe_reciprocal, safe_sqrt
from relreps.metrics.cca import warn_of_dropped, warn_of_few_rows
from relreps.metrics.paired import Pair, centered, paired_rows
from relreps.moments import RowMoments, elementwise, outer, row_moments


def procrustes_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Squared distance between centred spaces of unit size after the best rotation.

    .. math:: d = \min_{Q^\top Q = I} \lVert \frac{X_c}{\lVert X_c \rVert} -
              \frac{Y_c}{\lVert Y_c \rVert} Q \rVert_F^2
              = 2 - 2 \frac{\lVert X_c^\top Y_c \rVert_*}{\lVert X_c \rVert \lVert Y_c \rVert}

    The narrower space is padded by zeros. Differentiable once, also where singular values coincide;
    the gradient at equal shapes is 0. `shape_distance` is the angle between the same two points,
    and a metric. :math:`O(N D E + D E \min(D, E))` time, with N for D and E where it is less;
    products in float64.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 2]. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Example:
        >>> x = torch.eye(3)
        >>> bool(procrustes_distance(x, 7 - 2 * x.roll(1, 1)) < 1e-6)
        True

    References:
        Ding, Denain and Steinhardt, arXiv:2108.01661.
    """
    pair = paired_rows(x, y)
    value = (2 - 2 * _cosine(pair, 1.0)).clamp(min=0)
    return differentiable_once(pair.result(value), "procrustes_distance")


def shape_distance(
    x: Tensor, y: Tensor, alpha: float = 1.0, *, rcond: float | None = None
) -> Tensor:
    r"""Angle between two spaces after the best rotation, with some of their scales evened out.

    .. math:: \theta = \arccos \frac{\lVert Z_x^\top Z_y \rVert_*}
              {\lVert Z_x \rVert \lVert Z_y \rVert}, \qquad
              Z = \alpha \frac{X_c}{\lVert X_c \rVert} +
              (1 - \alpha) \frac{X_c (X_c^\top X_c)^{-1/2}}{\sqrt{\operatorname{rank} X_c}}

    A metric: symmetric, zero for equal shapes, and it satisfies the triangle inequality. With
    :math:`\alpha = 1` spaces are compared up to rotation, with 0 up to any invertible map (the
    cosine is then the mean canonical correlation), and between the two in part. Both parts have
    unit size, so the scale of a space plays no role; where it has :math:`\lVert X_c \rVert^2 =
    \operatorname{rank} X_c`, this is the partial whitening of the paper. Differentiable once, with
    gradient 0 at equal shapes. Cost as `procrustes_distance`, and :math:`O(D^3)` for each space if
    :math:`\alpha < 1`.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        alpha: From 0, every direction counts the same, to 1, each by its variance.
        rcond: Directions whose singular value is at most this share of the largest are not evened
            out, but left out of that part; by default what rounding of the rows may leave.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in :math:`[0, \pi / 2]`. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Warns:
        NumericalWarning: With ``alpha=0``, there are so few rows that some directions agree
            whatever the data; below 1, directions that may be more than rounding were left out.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
        >>> shape_distance(x, x @ torch.diag(torch.tensor([1.0, 2.0])), alpha=0)
        tensor(0.)

    References:
        Williams et al., arXiv:2110.14739.
    """
    checks.check_number("alpha", alpha, 0, 1)
    if rcond is not None:
        checks.check_number("rcond", rcond, 0, 1)
    pair = paired_rows(x, y)
    cosine = _cosine(pair, alpha, rcond)
    # The angle by its tangent: the arc cosine has an infinite slope at 1, which stands for equal.
    squared_sine = 1 - cosine.square()
    apart = squared_sine > 64 * torch.finfo(cosine.dtype).eps
    sine = safe_sqrt(torch.where(apart, squared_sine, 0))
    angle = torch.where(apart, torch.atan2(sine, cosine), 0)
    return differentiable_once(pair.result(angle), "shape_distance")


def _cosine(pair: Pair, alpha: float, rcond: float | None = None) -> Tensor:
    """Largest cosine between the two spaces over all rotations, in float64."""
    with full_precision(pair.x):
        x, y = _narrowed(pair.x), _narrowed(pair.y)
        pairs = ((0, 0), (0, 1), (1, 1))
        own = outer if alpha < 1 else elementwise
        moments = row_moments(x, y, pairs=pairs, product=(own, outer, own), exact=True)
        xx, xy, yy = moments.scatters
        if alpha < 1:
            (to_x, rank_x), (to_y, rank_y) = (
                _evening(moments, side, alpha, pair, rcond) for side in (0, 1)
            )
            if alpha == 0:
                warn_of_few_rows(len(x), rank_x, rank_y)
            xx, xy, yy = to_x @ xx @ to_x, to_x @ xy @ to_y, to_y @ yy @ to_y
            xx, yy = xx.diagonal(), yy.diagonal()
        return _nuclear_norm(xy) * safe_reciprocal(safe_sqrt(xx.sum() * yy.sum()))


def _narrowed(x: Tensor) -> Tensor:
    """No more features than rows: coordinates in a basis of the rows, a constant to autograd.

    The gradient stays exact, because what is left out is orthogonal to every row.
    """
    if x.shape[1] <= x.shape[0]:
        return x
    x = centered(as_float64(x))
    basis: Tensor = torch.linalg.qr(x.detach().mT).Q
    return x @ basis


def _evening(
    moments: RowMoments, side: int, alpha: float, pair: Pair, rcond: float | None
) -> tuple[Tensor, Tensor]:
    """The map from centred rows to what is compared, see `shape_distance`; and their rank."""
    scatter = moments.of(side).xx
    size = scatter.trace()
    size = torch.where(size > 0, size, 1)
    # As in `directions`: a share of what a feature does, and what it is rounded by about its mean.
    d, n, eps = len(scatter), moments.total, pair.eps[side]
    if rcond is None:
        noise = rank_tolerance(d, eps) ** 2 * scatter.diagonal() / size
        about_mean = n * moments.means[side].square() / size * (eps * (1 + (d / n) ** 0.5)) ** 2
        noise = noise + about_mean
    else:
        noise = (rcond**2 * torch.linalg.eigvalsh(scatter.detach() / size)[-1]).expand(d)
    root = inverse_sqrt(scatter / size, noise.detach())
    rank = ((root @ scatter @ root).trace().detach() / size).round().clamp(min=1)
    if rcond is None and pair.speaks and int(rank) < d:
        s = torch.linalg.eigvalsh(scatter.detach() / size).clamp(min=0).sqrt()
        floor = torch.maximum(2 * eps * s[-1], about_mean.max().sqrt())
        warn_of_dropped("xy"[side], torch.arange(d, device=s.device) >= d - rank, s, floor)
    eye = torch.eye(len(scatter), dtype=scatter.dtype, device=scatter.device)
    return alpha * eye + (1 - alpha) / rank.sqrt() * root, rank


def _nuclear_norm(m: Tensor) -> Tensor:
    """Sum of the singular values; its gradient is the polar factor, whatever values coincide."""
    # Of those that are zero up to rounding, vectors are what rounding makes of them: left out.
    u, s, vh = torch.linalg.svd(m.detach(), full_matrices=False)
    live = s > rank_tolerance(min(m.shape), torch.finfo(s.dtype).eps) * s[:1]
    norm: Tensor = (m * ((u * live) @ vh)).sum()
    return norm
