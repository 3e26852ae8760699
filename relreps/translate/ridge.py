"""Least squares in closed form: linear and affine maps, with or without a ridge."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision
from relreps._core.rounding import rank_tolerance, rounding_of
from relreps._core.warnings import warn
from relreps.moments import elementwise, outer
from relreps.moments.value import times
from relreps.translate.gram import (
    STRONGEST,
    Gram,
    Ridge,
    check_ridge,
    cross_validated,
    distinct,
    least,
    leave_one_out,
)
from relreps.translate.matrix import Post, Preprocessing
from relreps.translate.problem import Problem, Solution
from relreps.translate.procrustes import check_values, in_units
from relreps.translate.streaming import MomentTranslator


def linear_map(x: Tensor, y: Tensor, ridge: float = 0.0, *, rcond: float | None = None) -> Tensor:
    r"""The matrix that takes ``x`` to ``y`` with least squared error.

    .. math:: M = \arg\min_M \lVert X M - Y \rVert_F^2 + \lambda \lVert M \rVert_F^2,
              \qquad \lambda = \text{ridge} \cdot \lVert X \rVert_F^2 / D_x

    Nothing is centred. Without ridge, where the pairs leave the map free, it is the smallest one.
    Solved in float64: from second moments where the rows are coarser than that, by a pseudo-inverse
    of the rows themselves where they are not, so that no condition number is squared that matters.
    Differentiable where the rank does not change, which with a ridge is everywhere. The sizes of
    ``x`` and ``y`` do not matter. For rows in a stream `LinearTranslator` is the way.
    O(N D_x (min(N, D_x) + D_y)).

    Args:
        x: Source rows.
        y: Target rows of the same samples.
        ridge: Penalty in units of the mean square of a feature: it depends neither on the number of
            rows nor on their unit.
        rcond: Share of the largest singular value of ``x`` below which one is left out. By default
            what the rounding of the rows makes of nothing, however many there are:
            :math:`10 \epsilon \sqrt{D_x}`, 1e-6 for a float32 feature.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(N, D_y)`, paired. Output: :math:`(D_x, D_y)`.

    Warns:
        NumericalWarning: Directions of ``x`` are left out.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
        >>> linear_map(x, x @ torch.tensor([[3.0], [4.0]]))
        tensor([[3.],
                [4.]])
    """
    checks.check_rows("x", x)
    checks.check_rows("y", y)
    checks.check_paired(x, y)
    check_ridge("ridge", ridge)
    if rcond is not None:
        checks.check_number("rcond", rcond, 0, 1)
    dtype = torch.promote_types(x.dtype, y.dtype)
    check_values(x, y)
    if not (x.numel() and y.numel()):
        return x.to(dtype).mT @ y.to(dtype)
    eps = rounding_of(x.dtype)
    tolerance = rank_tolerance(x.shape[1], eps) if rcond is None else rcond
    with full_precision(x):
        (left, unit_x), (right, unit_y) = in_units(x), in_units(y)
        n, width = left.shape
        if ridge:
            # Rows that pull every coefficient to zero: the penalty as further equations.
            level = torch.linalg.matrix_norm(left) * (ridge / width) ** 0.5
            left = torch.cat((left, level * torch.eye(width, dtype=left.dtype, device=left.device)))
            right = torch.cat((right, right.new_zeros(width, right.shape[1])))
        # Of float32 rows the second moments lose nothing in float64, whose rounding is less than
        # the square of theirs; and they are small, whatever the number of rows.
        if eps == rounding_of(torch.float64) or tolerance**2 < width * rounding_of(torch.float64):
            inverse = torch.linalg.pinv(left, rtol=tolerance)
            rank = (inverse.mT * left).sum()
            solution = inverse @ right
        else:
            wide = n < width and not ridge
            gram = left @ left.mT if wide else left.mT @ left
            inverse = torch.linalg.pinv(gram, rtol=tolerance**2, hermitian=True)
            rank = (inverse * gram).sum()
            solution = left.mT @ (inverse @ right) if wide else inverse @ (left.mT @ right)
    if not ridge and checks.concrete(x) and not x.is_meta:
        kept, most = round(float(rank.detach())), min(n, width)
        if kept < most:
            warn(
                f"{kept} of {most} directions of `x` are more than rounding; the others, below "
                f"{tolerance:.1g} of the largest, are left out. Give a ridge, or another `rcond`."
            )
    moved: Tensor = solution * (unit_y / unit_x)
    return moved.to(x.device, dtype)


class RidgeTranslator(MomentTranslator):
    r"""Ridge regression from moments, with the penalty given or chosen from the data.

    With the prior :math:`P` that a subclass may pull to, the correction :math:`M - P` solves

    .. math:: (X^\top X + \lambda I)(M - P) = X^\top (Y - X P)
    """

    penalty: Tensor
    products = (outer, elementwise)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        ridge: Ridge,
        pre: Preprocessing | None,
        post: Post | None,
        rescale: bool,
    ) -> None:
        check_ridge("ridge", ridge, ("gcv", "loo"))
        super().__init__(in_features, out_features, pre, post=post, rescale=rescale)
        self.ridge = ridge
        self.register_buffer("penalty", torch.zeros(()))

    def partial_fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Add pairs to those of earlier calls, in constant memory; `solve` makes the map of them.

        Args:
            x: Source rows ``(N, D_x)``; none at all are allowed.
            y: Target rows ``(N, D_y)`` of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default.
        """
        if self.ridge == "loo":
            raise _needs_rows()
        return super().partial_fit(x, y, weights)

    def solution(self, problem: Problem) -> Solution:
        """The least squares map with the penalty that is given or chosen."""
        m = problem.moments
        gram = Gram.of(m.xx, m.eps)
        pulled_to = self.prior(problem)
        prior = torch.zeros_like(m.xy) if pulled_to is None else pulled_to
        rest = m.xy - m.xx @ prior  # cross-moment of x with what the prior leaves of y
        ridge = self._chosen(problem, gram, prior, rest)
        correction, rank = gram.solve(rest, gram.level * ridge)
        if rank < self.in_features and not ridge:
            warn(
                f"{m.effective_rows:.0f} pairs determine {rank} of {self.in_features} directions "
                "of `x`, where least squares is ill-posed: the others are ignored. Give more "
                "pairs, or a ridge such as `ridge='gcv'`."
            )
        if isinstance(self.ridge, str) and ridge == STRONGEST and pulled_to is None:
            warn(
                f"the strongest ridge that was tried, {ridge:g}, serves best, which leaves hardly "
                "anything of the map: the pairs do not show that `y` follows from `x`. See that "
                "they are in the same order on both sides, or give more."
            )
        rank = rank if pulled_to is None else self.in_features
        return Solution(
            prior + correction, rank=rank, buffers={"penalty": torch.full_like(m.total, ridge)}
        )

    def prior(self, problem: Problem) -> Tensor | None:
        """What the penalty pulls the map to; zero by default."""
        return None

    def _chosen(self, problem: Problem, gram: Gram, prior: Tensor, rest: Tensor) -> float:
        """The strength of the penalty, chosen by the error in the target's own units."""
        if not isinstance(self.ridge, str):
            return float(self.ridge)
        m = problem.moments
        if self.ridge == "gcv":
            # Squares of what the prior leaves, |y - x P|² = yy - P·(2 xy - xx P), where the bracket
            # is xy + rest; feature by feature, so that each can be weighed by its unit.
            squares = m.diagonal(1) - (prior * (m.xy + rest)).sum(0)
            values, vectors = gram.values[gram.live], gram.vectors[:, gram.live]
            along = _in_units(vectors.mT @ rest, problem)
            whole = _squares_in_units(squares, problem)
            explained = along.square().sum(1) / values
            count = m.effective_rows - int(problem.source.shift is not None)
            width = self.in_features
            return cross_validated(
                values, explained, whole, count, gram.level, width, gram.tolerance
            )
        if problem.rows is None:
            raise _needs_rows()
        left, right = problem.rows()
        pairs = distinct(left, _in_units(right - left @ prior, problem), problem.weights)
        centered = problem.source.shift is not None
        return least(leave_one_out(*pairs, centered, gram.tolerance), gram.level)


class LinearTranslator(RidgeTranslator):
    r"""Move vectors by the matrix of least squares, without an offset.

    .. math:: \hat y = x M, \quad M = (X^\top X + \lambda I)^{-1} X^\top Y,
              \qquad \lambda = \text{ridge} \cdot \operatorname{tr}(X^\top X) / D_x

    The origin stays where it is; `AffineTranslator` also moves it, which is nearly always better
    between encoders. Solved in float64 from the moments: with a condition number of the rows above
    1e7 `linear_map` is more accurate. Fit: O(N D_x (D_x + D_y) + D_x^3). A call: one matrix
    product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        ridge: Penalty in units of the mean square of a source feature, whatever the number of
            pairs; ``"gcv"`` chooses it by generalised cross-validation, from the moments, and
            ``"loo"`` by the exact error of leaving out each pair in turn, which needs the rows
            (`fit` only). Without ridge, directions that the pairs do not determine are ignored.
        pre: None, or ``"unit"`` (rows of length one; the average length of the target is restored).
        post: ``"unit"`` brings moved rows to length one.
        rescale: Whether every moved row is brought to the root mean square length of the target.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        rank: Number of directions of the map, of ``min(in_features, out_features)``; `inverse`
            exists if there are all.
        penalty: The ridge of the last fit, as chosen.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
        >>> translator = LinearTranslator(2, 1).fit(x, x @ torch.tensor([[3.0], [4.0]]))
        >>> translator(torch.tensor([[1.0, 1.0]]))
        tensor([[7.]])

    References:
        Maiorca et al., arXiv:2311.00664; GCV: Golub, Heath and Wahba 1979.
    """

    centering = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        ridge: Ridge = 0.0,
        pre: Preprocessing | None = None,
        post: Post | None = None,
        rescale: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, ridge, pre, post, rescale)


class AffineTranslator(RidgeTranslator):
    r"""Move vectors by the affine map of least squares.

    .. math:: \hat y = (x - \mu_x) M + \mu_y, \quad
              M = (C_{xx} + \lambda I)^{-1} C_{xy}, \qquad
              \lambda = \text{ridge} \cdot \operatorname{tr}(C_{xx}) / D_x

    The most accurate map with many pairs, and the worst with about as many pairs as features, where
    it fits noise: give a ridge, or let ``"gcv"`` or ``"loo"`` choose it. The offset is not
    penalised. Fit: O(N D_x (D_x + D_y) + D_x^3), in float64. A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        ridge: Penalty in units of the mean variance of a source feature, whatever the number of
            pairs; ``"gcv"`` chooses it by generalised cross-validation, from the moments, and
            ``"loo"`` by the exact error of leaving out each pair in turn, which needs the rows
            (`fit` only). Without ridge, directions that the pairs do not determine are ignored.
        pre: ``"center"`` or ``"standard"`` (the penalty then counts features in their deviations).
        post: ``"unit"`` brings moved rows to length one.
        rescale: Whether moved rows are given the spread of the target, as a penalty takes some of
            it: :math:`\mu_y + \rho\, (\hat y - \mu_y) / \lVert \hat y - \mu_y \rVert` with
            :math:`\rho` the root mean square distance of target rows from their mean
            :math:`\mu_y`. For an index that holds moved rows and others, which would else be
            found in place of them.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        rank: Number of directions of the map, of ``min(in_features, out_features)``; `inverse`
            exists if there are all.
        penalty: The ridge of the last fit, as chosen.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> AffineTranslator(1, 1).fit(x, 2 * x + 5)(torch.tensor([[10.0]]))
        tensor([[25.]])

    References:
        Maiorca et al., arXiv:2311.00664; GCV: Golub, Heath and Wahba 1979.
    """

    centering = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        ridge: Ridge = 0.0,
        pre: Preprocessing = "center",
        post: Post | None = None,
        rescale: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, ridge, pre, post, rescale)


def _in_units(rows: Tensor, problem: Problem) -> Tensor:
    """Pre-processed target rows in the target's own units."""
    return times(rows, problem.target.inverse)


def _squares_in_units(squares: Tensor, problem: Problem) -> Tensor:
    """Sum of the squares of each pre-processed target feature, in the target's own units."""
    inverse = problem.target.inverse
    if inverse is None:
        return squares.sum()
    weights = inverse.square().sum(1) if inverse.dim() == 2 else inverse.square()
    return (squares * weights).sum()


def _needs_rows() -> ValueError:
    return ValueError(
        "`ridge='loo'` leaves out one pair at a time, so it needs all of them at once: call `fit`. "
        "In a stream use `ridge='gcv'`, which follows from the moments."
    )
