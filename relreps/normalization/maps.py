"""The maps of the normalisers, for given statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import at_least_float32, unit_rows
from relreps._core.rounding import safe_reciprocal
from relreps.moments import RowMoments


def center(x: Tensor, mean: Tensor) -> Tensor:
    r"""Subtract a mean, :math:`x - \mu`, in at least float32.

    Shape:
        - x: :math:`(*, D)`; mean: :math:`(D,)`. Output: as ``x``.
    """
    wide = at_least_float32(x)
    return (wide - mean.to(wide.dtype)).to(x.dtype)


def standard_scale(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""Centre and divide each feature by its deviation, :math:`(x - \mu) / \sigma`.

    A feature with :math:`\sigma = 0` maps to 0, for rows that vary in it too: leaving it as it is
    would tie the output to the unit of that feature.

    Shape:
        - x: :math:`(*, D)`; mean, std: :math:`(D,)`. Output: as ``x``.
    """
    wide = at_least_float32(x)
    return ((wide - mean.to(wide.dtype)) * safe_reciprocal(std.to(wide.dtype))).to(x.dtype)


def inverse_standard_scale(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""Undo `standard_scale`, :math:`\sigma x + \mu`; constant features are their mean.

    Shape:
        - x: :math:`(*, D)`; mean, std: :math:`(D,)`. Output: as ``x``.
    """
    wide = at_least_float32(x)
    return (wide * std.to(wide.dtype) + mean.to(wide.dtype)).to(x.dtype)


def whiten(x: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    r"""Centre and multiply by a matrix, :math:`(x - \mu) W`. O(ND^2).

    Shape:
        - x: :math:`(*, D)`; mean: :math:`(D,)`; matrix: :math:`(D, D)`. Output: as ``x``.
    """
    wide = at_least_float32(x)
    return ((wide - mean.to(wide.dtype)) @ matrix.to(wide.dtype)).to(x.dtype)


def deviations(moments: RowMoments, dtype: torch.dtype) -> Tensor:
    r"""Population deviation of each feature ``(D,)``, exactly 0 where it is rounding.

    A feature counts as constant if :math:`\sigma^2 \le (2\,\epsilon\,\mu)^2`, with the epsilon of
    ``dtype``, the type of the rows (float32 for half types, whose moments are taken in it): a test
    without a unit, so it does not depend on scale.
    """
    variance = moments.scatters[0] / moments.total
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    constant = variance <= (2 * eps * moments.means[0]) ** 2
    # The gradient of a root at 0 is infinite: constant features take the other branch.
    return torch.where(constant, 0, torch.where(constant, 1, variance).sqrt())


def unit_norm(x: Tensor) -> Tensor:
    r"""Scale each row to length one, :math:`x / \lVert x \rVert_2`.

    A zero row stays zero and has zero gradient, in every floating type.

    Shape:
        - x: :math:`(*, D)`. Output: the same.
    """
    checks.check_floating("x", x)
    return unit_rows(x)
