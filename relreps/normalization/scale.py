"""Normalisers that shift and scale: the whole space, each feature, or each row."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import ABSORBED, BROKEN, residues
from relreps.moments import RowMoments
from relreps.normalization.base import AbstractFittedNormalizer, AbstractNormalizer
from relreps.normalization.maps import (
    center,
    deviations,
    inverse_standard_scale,
    standard_scale,
    unit_norm,
)


class UnitNorm(AbstractNormalizer):
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

    def fit(self, x: Tensor) -> Self:
        """Check the rows ``(N, D)``; there is nothing to remember."""
        checks.check_rows("x", x)
        checks.check_finite("x", x)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows ``(..., D)``."""
        return unit_norm(x)

    def relative_to(self, reference: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Normalise each of ``rows``; the reference does not matter."""
        return tuple(unit_norm(x) for x in rows)

    def _refit(self, x: Tensor) -> None:
        pass

    def _adopt(self, other: AbstractNormalizer) -> None:
        pass


class Center(AbstractFittedNormalizer):
    r"""Subtract the mean of the reference rows, :math:`x - \mu`.

    With a cosine behind it the code no longer depends on where the space is centred, which decides
    the result on encoders trained elsewhere: their embeddings often share one large mean.

    Args:
        in_features: Number of features D.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        RuntimeError: Used before `fit`.

    Example:
        >>> norm = Center(2).fit(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> norm(torch.tensor([[2.0, 3.0]]))
        tensor([[0., 0.]])
    """

    residues = residues(translation=ABSORBED, affine="linear", sample_scale=BROKEN)
    _statistics = ("mean",)

    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (moments.means[0],)

    def _refuse(self, moments: RowMoments, dtype: torch.dtype) -> None:
        pass  # any rows have a mean

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return center(x, *statistics)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return center(x, -statistics[0])


class IsotropicScale(AbstractFittedNormalizer):
    r"""Centre, and divide by the root mean square distance to the centre.

    .. math:: (x - \mu) / \rho, \qquad \rho^2 = \tfrac1A \sum_j \lVert a_j - \mu\rVert_2^2

    One number for the whole space, so directions keep their relative sizes and rotations stay
    rotations. Behind it a distance no longer depends on the unit of the space.

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
    _statistics = ("mean", "scale")

    def _shape_of(self, statistic: str) -> tuple[int, ...]:
        return () if statistic == "scale" else (self.in_features,)

    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]:
        # As one feature, whose deviation is the length of all of them.
        lengths = torch.linalg.vector_norm(deviations(moments, dtype))
        return moments.means[0], lengths

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return standard_scale(x, *statistics)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return inverse_standard_scale(x, *statistics)


class StandardScale(AbstractFittedNormalizer):
    r"""Standardise each feature on the reference rows, :math:`(x - \mu) / \sigma`.

    :math:`\sigma` is the population deviation. Behind it a cosine is invariant to a scale of each
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
    _statistics = ("mean", "std")

    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return moments.means[0], deviations(moments, dtype)

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return standard_scale(x, *statistics)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return inverse_standard_scale(x, *statistics)
