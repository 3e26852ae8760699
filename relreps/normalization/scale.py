"""Scales taken away: of the whole space, of each feature, or of each row."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import ABSORBED, BROKEN, residues
from relreps._core.linalg import at_least_float32, unit_rows
from relreps._core.rounding import safe_reciprocal, unit_of
from relreps.moments import RowMoments
from relreps.normalization.base import Affine, AffineNormalizer, Normalizer, Statistics


def unit_norm(x: Tensor) -> Tensor:
    r"""Scale each row to length one, :math:`x / \lVert x \rVert_2`.

    A zero row stays zero and has zero gradient, in every floating type.

    Shape:
        - x: :math:`(*, D)`. Output: the same.
    """
    checks.check_floating("x", x)
    return unit_rows(x)


class UnitNorm(Normalizer):
    r"""Scale each row to length one, :math:`x / \lVert x \rVert_2`.

    Removes the scale of each sample, so that a later inner product is a cosine. It has no
    statistics: `fit` does nothing, and lengths are lost, so there is no inverse. O(ND).

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Example:
        >>> UnitNorm()(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])

    References:
        Moschella et al., arXiv:2209.15430, section 3.
    """

    residues = residues(
        isotropic_scale=ABSORBED,
        sample_scale=ABSORBED,
        translation=BROKEN,
        feature_scale=BROKEN,
        linear=BROKEN,
        affine=BROKEN,
    )
    unit_rows = True

    def partial_fit(self, x: Tensor) -> Self:
        """Nothing, of any number of rows ``(N, D)``; they are checked."""
        checks.check_rows("x", x, minimum=0)
        checks.check_finite("x", x)
        return self

    def statistics_of(self, x: Tensor) -> Statistics:
        """None."""
        return ()

    def checked_statistics_of(self, x: Tensor) -> Statistics:
        """None; the rows ``(N, D)`` are checked."""
        checks.check_rows("x", x)
        checks.check_finite("x", x)
        return ()

    def map(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows of length one."""
        return unit_norm(x)

    def remember(self, statistics: Statistics) -> Self:
        """Nothing."""
        return self

    def affine(self, moments: RowMoments) -> Affine:
        """Nothing more, once rows have length one."""
        return Affine()

    def _remembered(self, x: Tensor) -> Statistics:
        return ()


def standard_scale(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""Centre and divide each feature by its deviation, :math:`(x - \mu) / \sigma`.

    A feature with :math:`\sigma = 0` maps to 0, for rows that vary in it too: leaving it as it is
    would tie the output to the unit of that feature.

    Shape:
        - x: :math:`(*, D)`; mean, std: :math:`(D,)`. Output: as ``x``.
    """
    _check(x, mean, std)
    return _scaled(x, mean, std)


def inverse_standard_scale(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""Undo `standard_scale`, :math:`\sigma x + \mu`; constant features are their mean.

    Shape:
        - x: :math:`(*, D)`; mean, std: :math:`(D,)`. Output: as ``x``.
    """
    _check(x, mean, std)
    return _unscaled(x, mean, std)


def _scaled(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    wide = at_least_float32(x)
    std = std.to(wide.dtype)
    # Divided, as the reciprocal of a deviation near the least number of a type is infinite.
    return ((wide - mean.to(wide.dtype)) / torch.where(std == 0, math.inf, std)).to(x.dtype)


def _unscaled(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    wide = at_least_float32(x)
    return (wide * std.to(wide.dtype) + mean.to(wide.dtype)).to(x.dtype)


def _check(x: Tensor, mean: Tensor, std: Tensor) -> None:
    for name, statistic in (("mean", mean), ("std", std)):
        checks.check_floating(name, statistic)
        checks.check_features("x", x, mean.shape[-1])
        checks.check_device(x, statistic, ("x", name))


class _Scaling(AffineNormalizer):
    """Statistics are a mean and a deviation, of each feature or of all together."""

    def to_affine(self, *statistics: Tensor) -> Affine:
        """A shift and a factor."""
        mean, deviation = statistics
        return Affine(mean, safe_reciprocal(deviation), deviation)

    def map(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows about the mean in units of the deviation."""
        return _scaled(x, *statistics)

    def unmap(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows with mean and deviation."""
        return _unscaled(x, *statistics)


class IsotropicScale(_Scaling):
    r"""Centre, and divide by the root mean square distance to the centre.

    .. math:: (x - \mu) / \rho, \qquad \rho^2 = \tfrac1A \sum_j \lVert a_j - \mu\rVert_2^2

    One number for the whole space, so directions keep their relative sizes and rotations stay
    rotations. After it a distance no longer depends on the unit of the space.

    Args:
        in_features: Number of features D.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: The reference rows are all equal.
        RuntimeError: Used before `fit`.

    Example:
        >>> norm = IsotropicScale(2).fit(torch.tensor([[0.0, 0.0], [6.0, 8.0]]))
        >>> norm(torch.tensor([[6.0, 8.0]]))
        tensor([[0.6000, 0.8000]])
    """

    scale: Tensor
    residues = residues(
        translation=ABSORBED, isotropic_scale=ABSORBED, affine="linear", sample_scale=BROKEN
    )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A mean a feature, and one scale."""
        return {"mean": (self.in_features,), "scale": ()}

    def statistics(self, moments: RowMoments) -> tuple[Tensor, ...]:
        """Mean and scale: as one feature, whose deviation is the length of all of them."""
        deviations = moments.deviations()
        unit = unit_of(deviations.detach().amax())  # in which their squares are numbers
        return moments.means[0], torch.linalg.vector_norm(deviations / unit) * unit


class StandardScale(_Scaling):
    r"""Standardise each feature on the reference rows, :math:`(x - \mu) / \sigma`.

    :math:`\sigma` is the population deviation. After it a cosine is invariant to a scale of each
    feature, to shifts and to permutations, but no longer to rotations: it is the non-isotropic,
    robust relative transformation. A feature that is constant up to rounding
    (:math:`\sigma^2 \le (2\,\epsilon\,\mu)^2`) maps to 0 and comes back as its mean.

    Args:
        in_features: Number of features D.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: Every feature of the reference rows is constant (one row, or all rows equal).
        RuntimeError: Used before `fit`.

    Example:
        >>> norm = StandardScale(2).fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> norm(torch.tensor([[3.0, 9.0]]))
        tensor([[1., 0.]])
        >>> norm.inverse(torch.tensor([[1.0, 0.0]]))
        tensor([[3., 5.]])

    References:
        arXiv:2409.10967, section 3, with the statistics of the anchors alone.
    """

    std: Tensor
    residues = residues(
        translation=ABSORBED,
        isotropic_scale=ABSORBED,
        feature_scale=ABSORBED,
        rotation="linear",
        affine="linear",
        sample_scale=BROKEN,
    )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A mean and a deviation a feature."""
        return {"mean": (self.in_features,), "std": (self.in_features,)}

    def statistics(self, moments: RowMoments) -> tuple[Tensor, ...]:
        """Mean and deviation of each feature."""
        return moments.means[0], moments.deviations()
