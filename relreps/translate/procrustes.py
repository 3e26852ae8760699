"""Orthogonal maps: rotations and reflections, between spaces of equal or different widths."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision, orthogonal_factors, polar_factor
from relreps._core.rounding import rank_tolerance
from relreps._core.warnings import warn
from relreps.moments import RowMoments, elementwise, outer
from relreps.moments.value import times
from relreps.translate.gram import Gram
from relreps.translate.matrix import Preprocessing, Problem, Solution
from relreps.translate.streaming import MomentTranslator

Scale = Literal["none", "umeyama", "norm"]


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
    checks.check_rows("x", x)
    checks.check_rows("y", y)
    checks.check_paired(x, y)
    dtype = torch.promote_types(x.dtype, y.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    x, y = x.to(wide), y.to(wide)
    check_values(x, y)
    with full_precision(x):
        return polar_factor(x.mT @ y).to(dtype)


def check_values(x: Tensor, y: Tensor) -> None:
    """Refuse rows that are not finite, which a decomposition would refuse in its own words."""
    for name, rows in (("x", x), ("y", y)):
        if checks.readable(rows):
            checks.check_finite(name, rows.detach())


class ProcrustesTranslator(MomentTranslator):
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

    scaling: Tensor
    completes = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        scale: Scale = "none",
        allow_reflection: bool = True,
        pre: Preprocessing | None = "center",
    ) -> None:
        super().__init__(in_features, out_features, pre)
        checks.check_choice("scale", scale, get_args(Scale))
        if not allow_reflection and in_features != out_features:
            raise ValueError(
                "`allow_reflection=False` needs equal widths, because only a square map has an "
                f"orientation; got {in_features} and {out_features}."
            )
        self.scale, self.allow_reflection = scale, allow_reflection
        # The length of moved rows is that of the rows, unless directions are dropped.
        dropping = scale != "none" and in_features > out_features
        self.products = (outer if dropping else elementwise, elementwise)
        self.register_buffer("scaling", torch.ones(()))

    @property
    def rotation(self) -> Tensor:
        """The map without its scale: orthogonal, unless `pre` changes the units of features."""
        return self.matrix / self.scaling

    def solution(self, problem: Problem) -> Solution:
        """The polar factor of the products of the pairs, and its scale."""
        m = problem.moments
        u, s, vh = torch.linalg.svd(self._direction(m), full_matrices=False)
        rank = int((s > self._rounding(problem) * s[0]).sum())
        u, vh = orthogonal_factors(u, vh, rank, self.allow_reflection)
        rotation = u @ vh
        scaling = torch.ones_like(m.total) if self.scale == "none" else self._scaling(rotation, m)
        if rank < len(s):
            warn(
                f"{m.effective_rows:.0f} pairs determine {rank} of {len(s)} directions; the others "
                "are mapped as nearly as possible to themselves. Give more pairs if they matter."
            )
        matrix, inverse = rotation * scaling, rotation.mT / scaling
        return Solution(matrix, inverse, rank, buffers={"scaling": scaling})

    def _direction(self, m: RowMoments) -> Tensor:
        """The matrix ``(D_x, D_y)`` whose polar factor is the map."""
        return m.scatters[1]

    def _rounding(self, problem: Problem) -> float:
        """Share of the largest singular value that the rounding of the rows makes of nothing.

        Each side has its share, and the singular values are of their product.
        """
        m = problem.moments
        xx, xy, yy = m.scatters
        share = rank_tolerance(max(xy.shape), m.eps) ** 2
        for scatter, (shift, factor, _) in ((xx, problem.source), (yy, problem.target)):
            if shift is not None:  # what is left far from the origin is rounded as it was
                far = (shift if factor is None else times(shift[None], factor)).square().sum()
                squares = (scatter if scatter.dim() == 1 else scatter.diagonal()).sum()
                share *= math.sqrt(float(1 + m.total * far / squares))
        return max(share, max(xy.shape) * torch.finfo(xy.dtype).eps)

    def _scaling(self, rotation: Tensor, m: RowMoments) -> Tensor:
        """Scale for rows that are turned already."""
        moved = m.xx.sum() if m.xx.dim() == 1 else (rotation * (m.xx @ rotation)).sum()
        squares = m.diagonal(1).sum()
        if self.scale == "norm":
            return (squares / moved).sqrt()
        along = (rotation * m.xy).sum()
        if along <= torch.finfo(along.dtype).eps * (moved * squares).sqrt():
            raise ValueError(
                "`scale='umeyama'` finds no positive scale, because no rotation without a "
                "reflection brings `x` nearer to `y`. Allow reflections or choose another scale."
            )
        return along / moved


class LOrthoTranslator(ProcrustesTranslator):
    r"""Move vectors by the orthogonal matrix nearest to that of least squares.

    .. math:: \hat y = q^{-1}(s\, p(x) R), \quad R = \text{polar}\,(X^\top X)^{+} X^\top Y

    Least squares weighs the source directions of least variance most, and they are the noisiest, so
    `ProcrustesTranslator` does better; this one is for parity with the paper. Fit:
    O(N D_x (D_x + D_y) + D_x^3). A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        scale: ``"none"``, ``"umeyama"`` or ``"norm"``, as for `ProcrustesTranslator`.
        allow_reflection: If false the map is a proper rotation; needs equal widths.
        pre: ``"center"``, ``"standard"``, ``"unit"`` or None.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        rank: Number of directions that the pairs determine, of ``min(in_features, out_features)``.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x = torch.randn(50, 4)
        >>> translator = LOrthoTranslator(4, 4).fit(x, torch.randn(50, 4))
        >>> torch.allclose(translator.rotation @ translator.rotation.mT, torch.eye(4), atol=1e-5)
        True

    References:
        Maiorca et al., arXiv:2311.00664 (``l-ortho``).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        scale: Scale = "none",
        allow_reflection: bool = True,
        pre: Preprocessing | None = "center",
    ) -> None:
        super().__init__(
            in_features, out_features, scale=scale, allow_reflection=allow_reflection, pre=pre
        )
        self.products = (outer, elementwise)

    def _direction(self, m: RowMoments) -> Tensor:
        return Gram.of(m.xx, m.eps).solve(m.xy, torch.zeros_like(m.total))[0]
