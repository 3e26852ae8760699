"""Translators: maps that move vectors of one latent space into another, fitted on paired rows.

The same samples encoded by two models give paired rows. A translator fitted on a few hundred of
them moves everything else, stored vectors included, without the encoder. The whole map,
pre-processing included, is in its state, and its output lies in the *original* target space.
"""

from __future__ import annotations

import warnings
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from relreps import _checks
from relreps._linalg import (
    as_float64,
    at_least_float32,
    inverse_or_zero,
    polar_factor,
    rank_tolerance,
    unit_rows,
)
from relreps._state import FittedModule
from relreps._warnings import NumericalWarning
from relreps.moments import row_moments
from relreps.normalization import deviations, standard_scale

Scale = Literal["none", "umeyama", "norm"]
Preprocessing = Literal["center", "standard", "unit"]


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    r"""The orthogonal map that best takes ``x`` to ``y``.

    .. math:: R = \arg\min_{R} \lVert X R - Y \rVert_F
              = U V^\top, \qquad X^\top Y = U S V^\top

    With different widths it is the thin polar factor: rows orthonormal if :math:`D_x < D_y`,
    columns if :math:`D_x > D_y`, and then it maximises :math:`\langle XR, Y\rangle`. Nothing is
    centred. Where the pairs leave the map free it is the one nearest to the identity. The gradient
    is exact and finite at equal singular values. O(N D_x D_y + D_x D_y min(D_x, D_y)).

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(N, D_y)`, paired. Output: :math:`(D_x, D_y)`.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> procrustes(x, x.flip(0))
        tensor([[0., 1.],
                [1., 0.]])

    References:
        Schoenemann 1966; Maiorca et al., arXiv:2311.00664.
    """
    _checks.check_rows("x", x)
    _checks.check_rows("y", y)
    _checks.check_paired(x, y)
    dtype = torch.promote_types(x.dtype, y.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    return polar_factor(x.to(wide).mT @ y.to(wide)).to(dtype)


class ProcrustesTranslator(FittedModule):
    r"""Move vectors by a rotation (and reflection), with an optional scale, between two centres.

    .. math:: \hat y = q^{-1}(s\, p(x) R), \quad R = \text{polar}\,\sum_i p(x_i)^\top q(y_i)

    where :math:`p, q` pre-process the source and the target with the statistics of the pairs. It is
    the map to try first: it needs few pairs, cannot overfit as least squares does, and keeps
    angles. Fit: O(N D_x D_y) and one SVD, in float64. A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        scale: ``"none"`` (s = 1), ``"umeyama"`` (least squares, shrinks under noise) or ``"norm"``
            (gives the moved pairs the mean square length of the target).
        allow_reflection: If false the map is a proper rotation; needs equal widths.
        pre: ``"center"``, ``"standard"`` (each feature by its deviation), ``"unit"`` (rows of
            length one; the average length of the target is restored) or None.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        rank: Number of directions that the pairs determine, of ``min(in_features, out_features)``.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> y = x.flip(-1) + 5
        >>> ProcrustesTranslator(2, 2).fit(x, y)(torch.tensor([[1.0, 3.0]]))
        tensor([[8., 6.]])

    References:
        Maiorca et al., arXiv:2311.00664; scale: Umeyama 1991.
    """

    rotation: Tensor
    scaling: Tensor
    rank: Tensor
    mean_x: Tensor
    mean_y: Tensor
    std_x: Tensor
    std_y: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: Scale = "none",
        allow_reflection: bool = True,
        pre: Preprocessing | None = "center",
    ) -> None:
        super().__init__()
        _checks.check_size("in_features", in_features)
        _checks.check_size("out_features", out_features)
        _checks.check_choice("scale", scale, get_args(Scale))
        _checks.check_choice("pre", pre, (*get_args(Preprocessing), None))
        if not allow_reflection and in_features != out_features:
            raise ValueError(
                "`allow_reflection=False` needs equal widths, because only a square map has an "
                f"orientation; got {in_features} and {out_features}."
            )
        self.in_features, self.out_features = in_features, out_features
        self.scale, self.allow_reflection, self.pre = scale, allow_reflection, pre
        self.register_buffer("rotation", torch.zeros(in_features, out_features))
        self.register_buffer("scaling", torch.ones(()))
        self.register_buffer("rank", torch.zeros((), dtype=torch.long))
        for side, width in (("x", in_features), ("y", out_features)):
            self.register_buffer(f"mean_{side}", torch.zeros(width))
            # Deviations, or the average length for "unit": what one unit of the side is worth.
            self.register_buffer(f"std_{side}", torch.ones(width))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default.
        """
        _checks.check_rows("x", x, self.in_features)
        _checks.check_rows("y", y, self.out_features)
        _checks.check_paired(x, y)
        _checks.check_finite("x", x)
        _checks.check_finite("y", y)
        if weights is not None:
            _checks.check_weights(weights, x.shape[0])
            counts = weights > 0
            x, y, weights = x[counts], y[counts], weights[counts]
        mean_x, std_x, left = self._statistics(x, weights)
        mean_y, std_y, right = self._statistics(y, weights)
        if weights is not None:
            roots = as_float64(weights).sqrt()[:, None]
            left, right = left * roots, right * roots
        cross = left.mT @ right
        singular = torch.linalg.svdvals(cross)
        rank = int((singular > rank_tolerance(singular, cross.shape)).sum())
        largest = left.norm() * right.norm()
        if singular[0] <= rank_tolerance(largest[None], cross.shape):
            raise ValueError(
                "`x` and `y` must vary together, but the pairs determine no direction (rank 0). "
                "Give at least two pairs with different rows on both sides."
            )
        rotation = polar_factor(cross, self.allow_reflection)
        scaling = self._scaling(left @ rotation, right)
        full = min(self.in_features, self.out_features)
        if rank < full:
            warnings.warn(
                f"{x.shape[0]} pairs determine {rank} of {full} directions; the others are mapped "
                "as nearly as possible to themselves. Give more pairs if they matter.",
                NumericalWarning,
                stacklevel=3,  # no_grad is a frame of its own
            )
        self.rotation.copy_(rotation)
        self.scaling.copy_(scaling)
        self.rank.fill_(rank)
        for name, value in (
            ("mean_x", mean_x),
            ("mean_y", mean_y),
            ("std_x", std_x),
            ("std_y", std_y),
        ):
            getattr(self, name).copy_(value)
        self._mark_fitted()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(..., D_x)`` of the source space in the target space."""
        _checks.check_features("x", x, self.in_features)
        self._require_fitted("Call `fit(x, y)` on paired rows first.")
        return self._move(x, ("x", "y"), self.rotation, self.scaling)

    def inverse(self, y: Tensor) -> Tensor:
        """Vectors ``(..., D_y)`` of the target space in the source space.

        Undoes `forward` exactly if ``in_features <= out_features`` (with ``pre="unit"``: up to the
        length of the row, and with ``"standard"``: up to constant features). Otherwise `forward`
        drops directions, and this is the shortest vector that it maps to ``y``.
        """
        _checks.check_features("y", y, self.out_features)
        self._require_fitted("Call `fit(x, y)` on paired rows first.")
        return self._move(y, ("y", "x"), self.rotation.mT, 1 / self.scaling)

    def extra_repr(self) -> str:
        """Constructor call."""
        return (
            f"{self.in_features}, {self.out_features}, scale={self.scale!r}, "
            f"allow_reflection={self.allow_reflection}, pre={self.pre!r}"
        )

    def _statistics(self, x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, unit of each feature, and the pre-processed rows, in float64."""
        rows = as_float64(x)
        zero, one = rows.new_zeros(x.shape[1]), rows.new_ones(x.shape[1])
        if self.pre is None:
            return zero, one, rows
        if self.pre == "unit":
            norms = torch.linalg.vector_norm(rows, dim=-1)
            w = torch.ones_like(norms) if weights is None else as_float64(weights)
            return zero, (norms * w).sum() / w.sum() * one, unit_rows(rows)
        moments = row_moments(x, weights=weights)
        mean = moments.means[0]
        if self.pre == "center":
            rest = rows - mean
            if rest.norm() <= 10 * torch.finfo(x.dtype).eps * rows.norm():
                rest = torch.zeros_like(rest)  # all rows equal: what is left of them is rounding
            return mean, one, rest
        std = deviations(moments, x.dtype)
        return mean, std, standard_scale(rows, mean, std)

    def _scaling(self, moved: Tensor, target: Tensor) -> Tensor:
        """Scale for pre-processed source rows, turned already, and target rows."""
        if self.scale == "none":
            return torch.ones_like(moved[0, 0])
        norms: Tensor = torch.linalg.matrix_norm(torch.stack((moved, target)))
        if self.scale == "norm":
            return norms[1] / norms[0]
        cosine = (moved * target).sum() / norms.prod()
        if cosine <= torch.finfo(moved.dtype).eps:
            raise ValueError(
                "`scale='umeyama'` finds no positive scale, because no rotation without a "
                "reflection brings `x` nearer to `y`. Allow reflections or choose another scale."
            )
        return cosine * norms[1] / norms[0]

    def _move(
        self, rows: Tensor, sides: tuple[str, str], matrix: Tensor, scaling: Tensor
    ) -> Tensor:
        wide = at_least_float32(rows)
        mean_from, std_from, mean_to, std_to = (
            getattr(self, f"{name}_{side}").to(wide.dtype)
            for side in sides
            for name in ("mean", "std")
        )
        # The offset is subtracted, not folded into a bias: far from the origin that would cancel.
        # The deviations do fold into the matrix, which is the smaller side of the product.
        matrix = matrix.to(wide.dtype) * scaling.to(wide.dtype) * std_to
        if self.pre == "unit":
            wide = unit_rows(wide)
        elif self.pre is not None:
            wide = wide - mean_from
        if self.pre == "standard":
            matrix = inverse_or_zero(std_from)[:, None] * matrix
        moved: Tensor = (wide @ matrix + mean_to).to(rows.dtype)
        return moved
