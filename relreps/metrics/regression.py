"""Linear predictability: how much of one space does an affine map of the other explain?"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision
from relreps._core.warnings import NumericalWarning
from relreps.metrics.paired import (
    centred64,
    differentiable_once,
    paired_rows,
    unit_scales,
)


def regression_r2(x: Tensor, y: Tensor) -> Tensor:
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

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 1]. NaN with a
          `NumericalWarning` if all rows of a side are the same.

    Warns:
        NumericalWarning: ``x`` has as many directions as rows allow, so that it explains anything.

    Example:
        >>> x = torch.randn(50, 3)
        >>> regression_r2(x, x @ torch.randn(3, 8) + 1)
        tensor(1.)

    References:
        Kornblith et al., arXiv:1905.00414.
    """
    pair = paired_rows(x, y)
    with full_precision(pair.x):
        x, y = centred64(pair.x), centred64(pair.y)
        units = unit_scales(pair.x, x)
        u, s, vh = torch.linalg.svd(x.detach() * units, full_matrices=False)
        live = s > max(x.shape) * torch.finfo(pair.x.dtype).eps * s[:1]
        inverse = torch.where(live, 1 / torch.where(live, s, 1), 0)
        weights = units[:, None] * ((vh.mT * inverse) @ (u.mT @ y.detach()))
        size = y.square().sum()
        value = 1 - (y - x @ weights).square().sum() / torch.where(size > 0, size, 1)
    if checks.eager() and not x.is_meta and int(live.sum()) >= x.shape[0] - 1:
        warnings.warn(
            f"`x` has {int(live.sum())} independent directions in {x.shape[0]} rows: it explains "
            "whatever `y` is. Give more rows, or a space of lower rank.",
            NumericalWarning,
            stacklevel=2,
        )
    return differentiable_once(pair.result(value), "regression_r2")
