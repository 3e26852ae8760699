"""Orthogonal maps: rotations and reflections, between spaces of equal or different widths."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, full_precision, orthogonal_factors, polar_factor
from relreps._core.rounding import rank_tolerance, unit_of
from relreps._core.warnings import warn
from relreps.moments import RowMoments, elementwise, outer
from relreps.moments.value import times
from relreps.translate.gram import Gram
from relreps.translate.matrix import Post, Preprocessing
from relreps.translate.problem import Problem, Solution
from relreps.translate.streaming import MomentTranslator

Scale = Literal["none", "umeyama", "norm"]

#: Share of the error by which a step has to lower it, and starts that are drawn, always the same.
_STILL, _STARTS = 1e-12, 10


def procrustes(
    x: Tensor, y: Tensor, *, minimize: bool = False, max_iterations: int = 200
) -> Tensor:
    r"""The orthogonal map that best takes ``x`` to ``y``.

    .. math:: R = \arg\max_{R} \langle X R, Y \rangle = U V^\top, \qquad X^\top Y = U S V^\top

    With equal widths it also minimises :math:`\lVert X R - Y \rVert_F`. With different widths it is
    the thin polar factor, with rows orthonormal if :math:`D_x < D_y`, columns if
    :math:`D_x > D_y`. In the first case the length of :math:`XR` is that of X, whatever R is, so
    that it minimises, too. In the second it does not: a map that drops much of X has less to be
    wrong. That problem, the unbalanced one, has no closed form: ``minimize`` goes down to a local
    minimum by majorisation, where each step is a polar factor and never raises the error, from the
    map above, from the polar factor of least squares, and from ten other maps, the same each
    time, and gives the best end, which need not be the best there is. With :math:`\lambda` the
    largest eigenvalue of :math:`X^\top X`,

    .. math:: R \leftarrow \text{polar}\bigl(X^\top Y + (\lambda I - X^\top X) R\bigr)

    Nothing is centred. Where the pairs leave the map free it is the one nearest to the identity.
    The gradient is exact and finite at equal singular values; that of a minimum found by steps goes
    through the last of them only, and is an approximation. But for ``minimize``, the
    sizes of ``x`` and ``y`` do not matter. O(N D_x D_y + D_x D_y min(D_x, D_y)), in float64; a step
    twelve times the second term.

    Args:
        x: Source rows.
        y: Target rows of the same samples.
        minimize: Whether the error is minimised where it is not by the closed form.
        max_iterations: Steps of the descent at most, from each start.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(N, D_y)`, paired. Output: :math:`(D_x, D_y)`.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> procrustes(x, x.flip(0))
        tensor([[0., 1.],
                [1., 0.]])

    References:
        Schoenemann 1966; Maiorca et al., arXiv:2311.00664; the unbalanced problem and its steps:
        Kiers and ten Berge 1992.
    """
    checks.check_rows("x", x)
    checks.check_rows("y", y)
    checks.check_paired(x, y)
    checks.check_choice("minimize", minimize, (False, True))
    checks.check_size("max_iterations", max_iterations)
    dtype = torch.promote_types(x.dtype, y.dtype)
    check_values(x, y)
    if not (x.numel() and y.numel()):
        return (x.to(dtype).mT @ y.to(dtype)).to(x.device)
    with full_precision(x):
        (left, unit_x), (right, unit_y) = in_units(x), in_units(y)
        m = left.mT @ right
        rotation = polar_factor(m)
        if minimize and x.shape[1] > y.shape[1]:  # the one problem where sizes matter
            m = m * (unit_y / unit_x)
            rotation = _descended(left.mT @ left, m, rotation, max_iterations)
        return rotation.to(x.device, dtype)


def in_units(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in float64 by the power of two next to their largest entry; and that number."""
    wide = as_float64(rows)
    largest = wide.detach()
    unit = unit_of(torch.maximum(largest.amax(), -largest.amin()))
    return wide / unit, unit


def _descended(xx: Tensor, m: Tensor, start: Tensor, max_iterations: int) -> Tensor:
    """The best of some minima of the error, each found by steps that never raise it."""
    # Where R'R = I and t is the largest eigenvalue of xx, the error is <R, (xx - t I) R> - 2 <R, m>
    # but for a constant. Its first term is concave, so it lies below its tangent at any R0,
    #     <R, (xx - t I) R> <= 2 <R, (xx - t I) R0> - <R0, (xx - t I) R0>,
    # and the error does not rise where R maximises <R, m + (t I - xx) R0>: a polar factor.
    pull = torch.linalg.eigvalsh(xx.detach())[-1] * torch.eye(len(xx)).to(xx) - xx
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        drawn = torch.randn(_STARTS, *m.shape, generator=draw, dtype=torch.float64).to(m)
        least = torch.linalg.pinv(xx, hermitian=True) @ m
        rotations = torch.cat((start[None], _turned(torch.cat((least[None], drawn)))))
        errors = _errors(xx, m, rotations)
        for _ in range(max_iterations):
            rotations = _turned(m + pull @ rotations)
            before, errors = errors, _errors(xx, m, rotations)
            if bool((before - errors <= _STILL * errors.abs()).all()):
                break
        best = rotations[errors.argmin()]
    return polar_factor(m + pull @ best)


def _turned(matrices: Tensor) -> Tensor:
    """Polar factors ``(S, D_x, D_y)``."""
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    turned: Tensor = u @ vh
    return turned


def _errors(xx: Tensor, m: Tensor, rotations: Tensor) -> Tensor:
    """Squared error of each map, but for what no map changes."""
    errors: Tensor = (rotations * (xx @ rotations - 2 * m)).sum((-2, -1))
    return errors


def check_values(x: Tensor, y: Tensor) -> None:
    """Refuse rows that are not finite, which a decomposition would refuse in its own words."""
    for name, rows in (("x", x), ("y", y)):
        if checks.readable(rows):
            checks.check_finite(name, rows.detach())


def determined_rotation(
    problem: Problem, m: Tensor, complete: bool = False, allow_reflection: bool = True
) -> tuple[Tensor, int]:
    """The polar factor of the directions of ``m`` that are more than rounding; and their number.

    Args:
        problem: What the pairs are.
        m: Products of them, ``(D_x, D_y)``.
        complete: Whether the others are moved too, as nearly as possible to themselves.
        allow_reflection: If false, the determinant of a full factor is +1.
    """
    u, s, vh = torch.linalg.svd(m, full_matrices=False)
    # Each side has a share of its largest singular value that is rounding, and those of the product
    # have that of both; or what is lost in the sums.
    moments = problem.moments
    share = rank_tolerance(max(m.shape), moments.eps) ** 2
    sides = zip(moments.scatters[::2], problem[1:3], strict=True)
    for scatter, (shift, factor, _) in sides:
        if shift is not None:  # what is left far from the origin is rounded as it was
            far = (shift if factor is None else times(shift[None], factor)).square().sum()
            squares = (scatter if scatter.dim() == 1 else scatter.diagonal()).sum()
            share *= math.sqrt(float(1 + moments.total * far / squares))
    share = max(share, max(m.shape) * torch.finfo(m.dtype).eps)
    rank = int((s > share * s[0]).sum())
    # Where directions are free, some rotation carries the others as a reflection would.
    if complete or (rank == len(s) and not allow_reflection):
        u, vh = orthogonal_factors(u, vh, rank, allow_reflection)
        return u @ vh, rank
    return u[:, :rank] @ vh[:rank], rank


class ProcrustesTranslator(MomentTranslator):
    r"""Move vectors by a rotation (and reflection), with an optional scale, between two centres.

    .. math:: \hat y = q^{-1}(s\, p(x) R), \quad R = \text{polar}\,\sum_i p(x_i)^\top q(y_i)

    where :math:`p, q` pre-process the source and the target with the statistics of the pairs. It is
    the map to try first: it needs few pairs, cannot overfit as least squares does, and keeps
    angles. With fewer pairs than features it carries the directions that they determine, and drops
    the others: as part of an index they would be noise. Fit: O(N D_x (D_x + D_y)) and one SVD, in
    float64. A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        scale: ``"norm"`` (gives the moved pairs the mean square length of the target),
            ``"umeyama"`` (least squares, shrinks under noise) or ``"none"`` (s = 1; for spaces of
            one size).
        allow_reflection: If false the map is a proper rotation; needs equal widths.
        complete: Whether directions that the pairs do not determine are moved too, as nearly as
            possible to themselves; `inverse` then undoes them, too.
        pre: ``"center"``, ``"standard"`` (each feature by its deviation), ``"unit"`` (rows of
            length one; the average length of the target is restored) or None.
        post: ``"unit"`` brings moved rows to length one.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        rank: Number of directions that the pairs determine, of ``min(in_features, out_features)``.
            The others, unless completed, are at the mean in what `inverse` gives.

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
    partial_inverse = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        scale: Scale = "norm",
        allow_reflection: bool = True,
        complete: bool = False,
        pre: Preprocessing | None = "center",
        post: Post | None = None,
    ) -> None:
        super().__init__(in_features, out_features, pre, post=post)
        checks.check_choice("scale", scale, get_args(Scale))
        if not allow_reflection and in_features != out_features:
            raise ValueError(
                "`allow_reflection=False` needs equal widths, because only a square map has an "
                f"orientation; got {in_features} and {out_features}."
            )
        self.scale, self.allow_reflection, self.complete = scale, allow_reflection, complete
        # The length of moved rows is that of the rows, unless directions are dropped.
        dropping = scale != "none" and (in_features > out_features or not complete)
        self.products = (outer if dropping else elementwise, elementwise)
        self.register_buffer("scaling", torch.ones(()))

    @property
    def rotation(self) -> Tensor:
        """The map without its scale: orthogonal, unless `pre` changes the units of features."""
        return self.matrix / self.scaling

    def solution(self, problem: Problem) -> Solution:
        """The polar factor of the products of the pairs, and its scale."""
        m, full = problem.moments, min(self.in_features, self.out_features)
        rotation, rank = determined_rotation(
            problem, self._direction(m), self.complete, self.allow_reflection
        )
        scaling = torch.ones_like(m.total)
        if self.scale != "none":
            xx, xy, yy = m.scatters
            moved = xx.sum() if xx.dim() == 1 else (rotation * (xx @ rotation)).sum()
            squares = yy.sum() if yy.dim() == 1 else yy.trace()
            scaling = (squares / moved).sqrt()
            if self.scale == "umeyama":
                along = (rotation * xy).sum()
                if along <= torch.finfo(along.dtype).eps * (moved * squares).sqrt():
                    raise ValueError(
                        "`scale='umeyama'` finds no positive scale, because no rotation without a "
                        "reflection brings `x` nearer to `y`. Allow reflections or choose another "
                        "scale."
                    )
                scaling = along / moved
        if rank < full:
            others = "moved as nearly as possible to themselves" if self.complete else "dropped"
            warn(
                f"{m.effective_rows:.0f} pairs determine {rank} of {full} directions; the others "
                f"are {others}. Give more pairs if they matter."
            )
        matrix, inverse = rotation * scaling, rotation.mT / scaling
        return Solution(matrix, inverse, rank, buffers={"scaling": scaling})

    def _direction(self, m: RowMoments) -> Tensor:
        """The matrix ``(D_x, D_y)`` whose polar factor is the map."""
        return m.scatters[1]


class LOrthoTranslator(ProcrustesTranslator):
    r"""Move vectors by the orthogonal matrix nearest to that of least squares.

    .. math:: \hat y = q^{-1}(s\, p(x) R), \quad R = \text{polar}\,(X^\top X)^{+} X^\top Y

    Least squares weighs the source directions of least variance most, and they are the noisiest, so
    `ProcrustesTranslator` does better; this one is for parity with the paper. Fit:
    O(N D_x (D_x + D_y) + D_x^3). A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        scale: ``"norm"``, ``"umeyama"`` or ``"none"``, as for `ProcrustesTranslator`.
        allow_reflection: If false the map is a proper rotation; needs equal widths.
        complete: Whether directions that the pairs do not determine are moved too.
        pre: ``"center"``, ``"standard"``, ``"unit"`` or None.
        post: ``"unit"`` brings moved rows to length one.

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
        scale: Scale = "norm",
        allow_reflection: bool = True,
        complete: bool = False,
        pre: Preprocessing | None = "center",
        post: Post | None = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            scale=scale,
            allow_reflection=allow_reflection,
            complete=complete,
            pre=pre,
            post=post,
        )
        self.products = (outer, elementwise)

    def _direction(self, m: RowMoments) -> Tensor:
        return Gram.of(m.xx, m.eps).solve(m.xy, torch.zeros_like(m.total))[0]
