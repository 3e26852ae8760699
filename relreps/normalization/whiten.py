"""Whitening: unit covariance in the coordinates nearest to the original."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import ABSORBED, BROKEN, Residues, residues
from relreps._core.linalg import at_least_float32, full_precision, inverse_sqrt
from relreps._core.rounding import rounding_of
from relreps.moments import RowMoments, outer
from relreps.normalization.base import Affine, AffineNormalizer, Statistics


def whiten(x: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    r"""Centre and multiply by a matrix, :math:`(x - \mu) W`. O(ND^2).

    Shape:
        - x: :math:`(*, D)`; mean: :math:`(D,)`; matrix: :math:`(D, D)`. Output: as ``x``.
    """
    checks.check_floating("mean", mean)
    checks.check_features("x", x, mean.shape[-1])
    wide = at_least_float32(x)
    with full_precision(x):
        return ((wide - mean.to(wide.dtype)) @ matrix.to(wide.dtype)).to(x.dtype)


class Whiten(AffineNormalizer):
    r"""Whiten on the reference rows: unit covariance, in the coordinates nearest to the original.

    .. math:: (x - \mu)\, C_\gamma^{-1/2}, \qquad
              C_\gamma = (1 - \gamma)\, C + \gamma\, \tfrac{\operatorname{tr} C}{D} I

    With the symmetric root (ZCA) an invertible affine map of the space becomes a rotation, which a
    cosine, inner product or euclidean distance removes. That needs :math:`\gamma = 0` and more rows
    than features; shrinkage :math:`\gamma > 0` works with any number and keeps rotations, shifts
    and a global scale only. Constant features map to 0 and come back as their mean. Fit:
    O(ND^2 + D^3). A call: O(ND^2).

    Args:
        in_features: Number of features D.
        shrinkage: :math:`\gamma` in [0, 1]; at 1 every direction is scaled alike.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: Too few rows for no shrinkage, or rows that are all equal.
        RuntimeError: Used before `fit`.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
        >>> Whiten(2).fit(rows)(rows).var(0, correction=0)
        tensor([1.0000, 1.0000])

    References:
        ZCA: Bell and Sejnowski 1997; whitened inner products: arXiv:2605.30596.
    """

    matrix: Tensor
    unmatrix: Tensor
    product = staticmethod(outer)

    def __init__(self, in_features: int, shrinkage: float = 0.0) -> None:
        checks.check_number("shrinkage", shrinkage, 0, 1)
        super().__init__(in_features)
        self.shrinkage = float(shrinkage)

    @property
    def residues(self) -> Residues:  # type: ignore[override]
        """What is left of each transformation: a rotation if there is no shrinkage."""
        left = "linear" if self.shrinkage else "rotation"
        return residues(
            translation=ABSORBED,
            isotropic_scale=ABSORBED,
            feature_scale=left,
            linear=left,
            affine=left,
            sample_scale=BROKEN,
        )

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"in_features={self.in_features}, shrinkage={self.shrinkage}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A mean, the map, and the map back."""
        square = (self.in_features, self.in_features)
        return {"mean": (self.in_features,), "matrix": square, "unmatrix": square}

    def statistics(self, moments: RowMoments) -> tuple[Tensor, ...]:
        """Mean, inverse root of the covariance, and root."""
        covariance, active = self._covariance(moments)
        # Constant features stand aside as a block of their own while the root is taken.
        aside = torch.diag((~active).to(covariance.dtype))
        matrix = inverse_sqrt(covariance + aside) - aside
        return moments.means[0], matrix, covariance @ matrix

    def to_affine(self, *statistics: Tensor) -> Affine:
        """A shift and a matrix."""
        return Affine(*statistics)

    def refuse(self, moments: RowMoments, name: str = "x") -> None:
        """Rows that are all equal; without shrinkage, rows that miss a direction."""
        super().refuse(moments, name)
        covariance, active = self._covariance(moments)
        values = torch.linalg.eigvalsh(covariance[active][:, active])
        wanted, rows = len(values), int(moments.total)
        # Not `moment_tolerance`: the products are taken in the type of the rows, so that its
        # rounding stands in the eigenvalues, not in their roots.
        rank = int((values > values[-1] * 2 * wanted**0.5 * moments.eps).sum())
        if rank < wanted:
            kind = torch.float64 if moments.eps == rounding_of(torch.float64) else torch.float32
            reason = (
                f"{rows} rows vary in at most {rows - 1}; give more rows"
                if rows <= wanted
                else f"beyond the rounding of {kind} these rows vary in {rank}; give a "
                "wider type, unless a direction of the space is dead"
            )
            raise ValueError(
                f"`{name}` must vary in all {wanted} directions to be whitened without shrinkage: "
                f"{reason}, or set `shrinkage` above 0 (0.1, say)."
            )

    def map(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows with unit covariance."""
        mean, matrix, _ = statistics
        return whiten(x, mean, matrix)

    def unmap(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows with the covariance of the reference."""
        mean, _, unmatrix = statistics
        wide = at_least_float32(x)
        with full_precision(x):
            rows: Tensor = wide @ unmatrix.to(wide.dtype) + mean.to(wide.dtype)
        return rows.to(x.dtype)

    def _covariance(self, moments: RowMoments) -> tuple[Tensor, Tensor]:
        """Shrunk covariance with zeros for constant features, and the mask of the others."""
        covariance = moments.xx / moments.total
        active = moments.deviations() > 0
        covariance = torch.where(active[:, None] & active, covariance, 0)
        level = covariance.trace() / active.sum().clamp(min=1)
        ridge = torch.diag(active.to(covariance.dtype) * level)
        return (1 - self.shrinkage) * covariance + self.shrinkage * ridge, active
