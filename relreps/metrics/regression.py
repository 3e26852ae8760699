"""Linear predictability: how much of one space does an affine map of the other explain?"""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, differentiable_once, full_precision
from relreps._core.warnings import warn
from relreps.metrics.cca import directions, warn_of_dropped
from relreps.metrics.paired import centered, paired_rows


def regression_r2(x: Tensor, y: Tensor, *, rcond: float | None = None) -> Tensor:
    r"""Share of the variance of ``y`` that the best affine map of ``x`` explains.

    .. math:: R^2 = 1 - \min_B \frac{\lVert Y_c - X_c B \rVert_F^2}{\lVert Y_c \rVert_F^2}
              = \frac{\lVert Q_x^\top Y_c \rVert_F^2}{\lVert Y_c \rVert_F^2}

    with :math:`Q_x` an orthonormal basis of the columns of :math:`X_c`. On the rows it is fitted
    on, so it grows with the width of ``x``. Not symmetric. Differentiable in both, once: the best
    map is a constant to autograd, which changes no first derivative. :math:`O(N D (D + E))` time,
    in float64.

    Args:
        x: What is given, the source.
        y: What is predicted, the target: the same items, in the same order.
        rcond: As in `mean_cca`: from which share of the largest on a direction of ``x`` counts.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 1]. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Warns:
        NumericalWarning: ``x`` has as many directions as rows allow, so that it explains anything;
            or directions of it that may be more than rounding were left out.

    Example:
        >>> x = torch.randn(50, 3)
        >>> regression_r2(x, x @ torch.randn(3, 8) + 1)
        tensor(1.)

    References:
        Kornblith et al., arXiv:1905.00414.
    """
    if rcond is not None:
        checks.check_number("rcond", rcond, 0, 1)
    pair = paired_rows(x, y)
    given = directions(pair.x, pair.eps[0], rcond=rcond, in_units=rcond is None)
    if rcond is None and pair.speaks:
        warn_of_dropped("x", given.live, given.s, given.floor)
    with full_precision(pair.x):
        inverse = given.vh.mT * torch.where(given.live, 1 / torch.where(given.live, given.s, 1), 0)
        target = centered(as_float64(pair.y))
        weights = given.units[:, None] * (inverse @ (given.u.mT @ target.detach()))
        size = target.square().sum()
        rest = (target - given.rows @ weights).square().sum()
        value = 1 - rest / torch.where(size > 0, size, 1)
    if pair.speaks and int(given.live.sum()) >= len(x) - 1:
        warn(
            f"`x` has {int(given.live.sum())} independent directions in {len(x)} rows: it explains "
            "whatever `y` is. Give more rows, or a space of lower rank."
        )
    return differentiable_once(pair.result(value), "regression_r2")
