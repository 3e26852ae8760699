"""Whitening: unit covariance in the coordinates nearest to the original."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import ABSORBED, BROKEN, Residues, residues
from relreps._core.linalg import at_least_float32, full_precision, inverse_sqrt
from relreps._core.rounding import moment_tolerance, rank_tolerance, rounding_of, unit_of
from relreps._core.warnings import warn
from relreps.moments import RowMoments, outer
from relreps.normalization.base import Affine, AffineNormalizer, Statistics

#: Rounding of whitened rows, in units of their deviation, from which on it is said.
_COARSE = 3e-4


def whiten(x: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    r"""Centre and multiply by a matrix, :math:`(x - \mu) W`. O(ND^2).

    Shape:
        - x: :math:`(*, D)`; mean: :math:`(D,)`; matrix: :math:`(D, D)`. Output: as ``x``.
    """
    for name, statistic in (("mean", mean), ("matrix", matrix)):
        checks.check_floating(name, statistic)
        checks.check_features("x", x, mean.shape[-1])
        checks.check_device(x, statistic, ("x", name))
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
        rcond: Directions whose deviation is at most this share of the largest go to 0, with a
            warning. By default none are left out: without shrinkage, rows are refused that in some
            direction vary by no more than rounding, each feature in units of its deviation.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: Too few rows for no shrinkage and no `rcond`, or rows that are all equal.
        RuntimeError: Used before `fit`.

    Warns:
        NumericalWarning: Directions were left out, or the covariance is so uneven that rows in the
            type of this module are whitened to fewer than four digits.

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

    def __init__(
        self, in_features: int, shrinkage: float = 0.0, *, rcond: float | None = None
    ) -> None:
        checks.check_number("shrinkage", shrinkage, 0, 1)
        if rcond is not None:
            checks.check_number("rcond", rcond, 0, 1)
        super().__init__(in_features)
        self.shrinkage, self.rcond = float(shrinkage), rcond

    @property
    def residues(self) -> Residues:  # type: ignore[override]
        """What is left of each transformation: a rotation if the covariance is used as it is."""
        left = "linear" if self.shrinkage or self.rcond is not None else "rotation"
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
        rcond = "" if self.rcond is None else f", rcond={self.rcond}"
        return f"in_features={self.in_features}, shrinkage={self.shrinkage}{rcond}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A mean, the map, and the map back."""
        square = (self.in_features, self.in_features)
        return {"mean": (self.in_features,), "matrix": square, "unmatrix": square}

    def statistics(self, moments: RowMoments) -> tuple[Tensor, ...]:
        """Mean, inverse root of the covariance, and root."""
        covariance, active, unit = self._covariance(moments)
        noise = self._noise(moments, covariance, unit)
        # Constant features stand aside as a block of their own while the root is taken.
        aside = torch.diag((~active).to(covariance.dtype))
        matrix = inverse_sqrt(covariance + aside, noise) - aside
        return moments.means[0], matrix / unit, covariance @ matrix * unit

    def to_affine(self, *statistics: Tensor) -> Affine:
        """A shift and a matrix."""
        return Affine(*statistics)

    def refuse(self, moments: RowMoments, name: str = "x") -> None:
        """Rows that are all equal; without shrinkage or `rcond`, rows that miss a direction."""
        self.refuse_statistics(moments, self.statistics(moments), name)

    def refuse_statistics(
        self, moments: RowMoments, statistics: tuple[Tensor, ...], name: str = "x"
    ) -> None:
        """The same where the statistics are at hand; warns of directions that are left out."""
        super().refuse(moments, name)
        _, matrix, unmatrix = statistics
        wanted, rows = int((moments.deviations() > 0).sum()), int(moments.total)
        rank = round(float((matrix * unmatrix.mT).sum()))  # one for each direction that is kept
        if rank >= wanted:
            return
        kind = torch.float64 if moments.eps == rounding_of(torch.float64) else torch.float32
        if self.rcond is not None or self.shrinkage:
            cause = "`rcond`" if self.rcond is not None else f"the rounding of {kind}"
            warn(
                f"{self} keeps {rank} of the {wanted} directions of `{name}`: the others vary by "
                f"less than {cause} allows, and go to 0. Give more rows, a smaller `rcond`, or a "
                "larger `shrinkage`, which keeps all."
            )
            return
        deviations = moments.deviations()
        ratio = float(deviations.max() / deviations[deviations > 0].min())
        if rows <= wanted:
            reason = f"{rows} rows vary in at most {rows - 1}; give more rows"
        elif ratio * rank_tolerance(len(deviations), torch.finfo(torch.float64).eps) > 1:
            reason = (
                f"deviations of its features differ by a factor of {ratio:.1g}, too much for one "
                "root; put `StandardScale` before it (`NormalizerChain`)"
            )
        else:
            reason = (
                f"beyond the rounding of {kind} these rows vary in {rank}; give a wider type, "
                "unless a direction of the space is dead"
            )
        raise ValueError(
            f"`{name}` must vary in all {wanted} directions to be whitened without shrinkage: "
            f"{reason}, or set `shrinkage` above 0 (0.1, say), or `rcond` to leave directions out."
        )

    def _checked(self, moments: RowMoments) -> tuple[Tensor, ...]:
        statistics = super()._checked(moments)
        matrix = statistics[1]
        # Each entry of a whitened row is a sum over features, of the size of their deviations.
        terms = moments.deviations()[:, None] * matrix
        error = rounding_of(matrix.dtype) * float(torch.linalg.vector_norm(terms, dim=0).max())
        if error > _COARSE:
            warn(
                f"{self} is determined poorly: the rows vary so unevenly that whitened ones are "
                f"rounded to {error:.1g} in {matrix.dtype}. Keep rows and normaliser in float64 "
                "(`.double()`), or set a larger `shrinkage` or `rcond`."
            )
        return statistics

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

    def _covariance(self, moments: RowMoments) -> tuple[Tensor, Tensor, Tensor]:
        """Shrunk covariance, with zeros for constant features; the mask of the others; its unit."""
        deviations = moments.deviations()
        active = deviations > 0
        unit = unit_of(torch.where(active, deviations, 0).detach().amax())
        inside = moments.within((unit.expand_as(deviations),)).scatters[0]
        covariance = torch.where(active[:, None] & active, inside / moments.total, 0)
        level = covariance.trace() / active.sum().clamp(min=1)
        ridge = torch.diag(active.to(covariance.dtype) * level)
        return (1 - self.shrinkage) * covariance + self.shrinkage * ridge, active, unit

    def _noise(self, moments: RowMoments, covariance: Tensor, unit: Tensor) -> Tensor | None:
        """How much of the variance of each feature ``(D,)`` counts as none."""
        variances = covariance.detach().diagonal()
        if self.rcond is not None:
            largest: Tensor = torch.linalg.matrix_norm(covariance.detach(), 2)
            return (self.rcond**2 * largest).expand_as(variances)
        if self.shrinkage:
            return None  # which gives every direction more than rounding does
        # Rounding of a feature is a share of its own numbers, and so rank is a matter of units in
        # which all features weigh alike; about a large mean numbers are rounded by more.
        share = moment_tolerance(len(variances), moments.eps)
        size = 1 + (len(variances) / moments.total).sqrt()
        about = (moments.eps * size * moments.means[0].detach() / unit).square()
        noise: Tensor = share * variances + about
        return noise
