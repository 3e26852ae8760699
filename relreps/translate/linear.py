"""Least squares in closed form: plain, ridge, towards an orthogonal map, of low rank, rounded."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from relreps import _checks
from relreps._linalg import as_float64, inverse_or_zero, polar_factor
from relreps.moments import elementwise, outer
from relreps.translate.base import (
    MomentTranslator,
    PairMoments,
    Preprocessing,
    Rows,
    Side,
    Translator,
)
from relreps.translate.procrustes import ProcrustesTranslator, Scale

Ridge = float | Literal["gcv", "loo"]

#: Strengths that are tried where the data choose: four to each factor of ten.
RIDGES = tuple(10 ** (step / 4) for step in range(-24, 13))


def linear_map(x: Tensor, y: Tensor, ridge: float = 0.0) -> Tensor:
    r"""The matrix that takes ``x`` to ``y`` with least squared error.

    .. math:: M = \arg\min_M \lVert X M - Y \rVert_F^2 + \lambda \lVert M \rVert_F^2,
              \qquad \lambda = \text{ridge} \cdot \lVert X \rVert_F^2 / D_x

    Nothing is centred. Without ridge, where the pairs leave the map free, it is the smallest one.
    Solved by a pseudo-inverse of the rows, so that the condition number is not squared;
    differentiable where the rank does not change, which with a ridge is everywhere. For many rows,
    or rows in a stream, `LinearTranslator` is the cheaper way. O(N D_x min(N, D_x) + N D_x D_y).

    Args:
        x: Source rows.
        y: Target rows of the same samples.
        ridge: Penalty in units of the mean square of a feature: it depends neither on the number of
            rows nor on their unit.

    Shape:
        - x: :math:`(N, D_x)`; y: :math:`(N, D_y)`, paired. Output: :math:`(D_x, D_y)`.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
        >>> linear_map(x, x @ torch.tensor([[3.0], [4.0]]))
        tensor([[3.0000],
                [4.0000]])
    """
    _checks.check_rows("x", x)
    _checks.check_rows("y", y)
    _checks.check_paired(x, y)
    _check_ridge(ridge, ())
    dtype = torch.promote_types(x.dtype, y.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    x, y = x.to(wide), y.to(wide)
    if ridge:
        # Rows that pull every coefficient to zero: the penalty as further equations.
        width = x.shape[1]
        level = torch.linalg.matrix_norm(x) * (ridge / width) ** 0.5
        x = torch.cat((x, level * torch.eye(width, dtype=wide, device=x.device)))
        y = torch.cat((y, y.new_zeros(width, y.shape[1])))
    solution: Tensor = torch.linalg.pinv(x) @ y
    return solution.to(dtype)


class _RidgeTranslator(MomentTranslator):
    """Ridge regression from moments, with the penalty given or chosen from the data."""

    penalty: Tensor
    #: Most directions that the map may have, where that is limited.
    kept: int | None = None
    _products = (outer, elementwise)
    _pres: tuple[Preprocessing | None, ...]

    def __init__(
        self, in_features: int, out_features: int, ridge: Ridge, pre: Preprocessing | None
    ) -> None:
        _check_ridge(ridge, ("gcv", "loo"))
        _checks.check_choice("pre", pre, self._pres)
        super().__init__(in_features, out_features, pre)
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

    def _options(self) -> list[str]:
        return [f"ridge={self.ridge!r}", *super()._options()]

    def _prior(self, m: PairMoments) -> Tensor | None:
        """What the penalty pulls the map to; zero by default."""
        return None

    def _reduced(self, matrix: Tensor, m: PairMoments, penalty: Tensor) -> Tensor:
        """The solution, simplified."""
        return matrix

    def _learn(self, m: PairMoments, sides: tuple[Side, Side], rows: Rows | None) -> None:
        self._check_related(m)
        gram = _Gram.of(m.xx, m.eps)
        pulled_to = self._prior(m)
        prior = torch.zeros_like(m.xy) if pulled_to is None else pulled_to
        rest = m.xy - m.xx @ prior  # cross-moment of x with what the prior leaves of y
        ridge = self._chosen(m, gram, prior, rest, sides, rows)
        penalty = gram.level * ridge
        correction, rank = gram.solve(rest, penalty)
        matrix = self._reduced(prior + correction, m, penalty)
        if rank < self.in_features and not ridge:
            self._warn(
                f"{m.pairs} pairs determine {rank} of {self.in_features} directions of `x`, where "
                "least squares is ill-posed: the others are ignored. Give more pairs, or a ridge "
                "such as `ridge='gcv'`."
            )
        directions = rank if pulled_to is None else self.in_features
        self._write(sides, matrix=matrix, rank=min(directions, self.kept or directions))
        self.penalty.fill_(ridge)

    def _chosen(
        self,
        m: PairMoments,
        gram: _Gram,
        prior: Tensor,
        rest: Tensor,
        sides: tuple[Side, Side],
        rows: Rows | None,
    ) -> float:
        """The strength of the penalty, chosen by the error in the target's own units."""
        if not isinstance(self.ridge, str):
            return float(self.ridge)
        units = sides[1].std if self.pre == "standard" else torch.ones_like(sides[1].std)
        penalties = gram.level * torch.tensor(RIDGES, dtype=m.xx.dtype, device=m.xx.device)
        if self.ridge == "gcv":
            squares = m.yy - (prior * (m.xy + rest)).sum(0)
            scores = _gcv(
                gram, rest * units, (squares * units**2).sum(), m.total, self._centres, penalties
            )
        else:
            if rows is None:
                raise _needs_rows()
            left, right, _ = self._prepared(*rows)
            right = (right - left @ prior) * units
            scores = _leave_one_out(left, right, rows.weights, self._centres, penalties, m.eps)
        return RIDGES[int(scores.argmin())]


class LinearTranslator(_RidgeTranslator):
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

    _pres = (None, "unit")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        ridge: Ridge = 0.0,
        pre: Preprocessing | None = None,
    ) -> None:
        super().__init__(in_features, out_features, ridge, pre)


class AffineTranslator(_RidgeTranslator):
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

    _pres = ("center", "standard")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        ridge: Ridge = 0.0,
        pre: Preprocessing = "center",
    ) -> None:
        super().__init__(in_features, out_features, ridge, pre)


class ProcrustesRidgeTranslator(AffineTranslator):
    r"""Affine least squares that is pulled to the orthogonal map instead of to zero.

    .. math:: M = sR + (C_{xx} + \lambda I)^{-1} (C_{xy} - C_{xx}\, sR)

    with the Procrustes map :math:`R` and its least squares scale :math:`s`. From few pairs it is
    that map, and with more it takes up what is not a rotation. A safe choice where the number of
    pairs is near the number of features. The choice of the ridge treats :math:`sR` as given, though
    it comes from the same pairs. Cost: that of `AffineTranslator`, and one SVD.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        ridge: Strength of the pull, ``"gcv"`` or ``"loo"``, as for `AffineTranslator`.
        pre: ``"center"`` or ``"standard"``.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        rank: Number of directions of the map, of ``min(in_features, out_features)``.
        penalty: The ridge of the last fit, as chosen.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x, m = torch.randn(50, 4), torch.linalg.qr(torch.randn(4, 4)).Q
        >>> moved = ProcrustesRidgeTranslator(4, 4).fit(x, 3 * x @ m + 1)(x)
        >>> torch.allclose(moved, 3 * x @ m + 1, atol=1e-4)
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        ridge: Ridge = "gcv",
        pre: Preprocessing = "center",
    ) -> None:
        super().__init__(in_features, out_features, ridge, pre)

    def _prior(self, m: PairMoments) -> Tensor:
        rotation = polar_factor(m.xy)
        return rotation * ((rotation * m.xy).sum() / (rotation * (m.xx @ rotation)).sum())


class ReducedRankTranslator(AffineTranslator):
    r"""Affine least squares through a bottleneck: the best map of a given rank.

    .. math:: M_r = M W_r W_r^\top, \quad W_r: \text{ top eigenvectors of }
              M^\top (C_{xx} + \lambda I) M

    where :math:`M` is the map of `AffineTranslator`: only what varies most in the translated rows
    is kept, so that the noise of the other target directions is not fitted. There is an inverse
    only at full rank. Cost: that of `AffineTranslator`, and O(D_y^3).

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        rank: Number of directions kept, at most ``min(in_features, out_features)``.
        ridge: Penalty, ``"gcv"`` or ``"loo"`` (chosen for the full rank), as for
            `AffineTranslator`.
        pre: ``"center"`` or ``"standard"``.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x = torch.randn(50, 4)
        >>> translator = ReducedRankTranslator(4, 3, 1).fit(x, torch.randn(50, 3))
        >>> int(translator.rank)
        1

    References:
        Izenman 1975; with a ridge: Mukherjee and Zhu 2011.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        ridge: Ridge = 0.0,
        pre: Preprocessing = "center",
    ) -> None:
        super().__init__(in_features, out_features, ridge, pre)
        check_rank(rank, in_features, out_features)
        self.kept: int = rank

    def _options(self) -> list[str]:
        return [f"rank={self.kept}", *super()._options()]

    def _reduced(self, matrix: Tensor, m: PairMoments, penalty: Tensor) -> Tensor:
        fitted = matrix.mT @ (m.xx @ matrix) + penalty * (matrix.mT @ matrix)
        top = torch.linalg.eigh(fitted).eigenvectors[:, -self.kept :]
        kept: Tensor = (matrix @ top) @ top.mT
        return kept


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
        >>> translator = LOrthoTranslator(4, 4, pre="standard").fit(x, torch.randn(50, 4))
        >>> torch.allclose(translator.rotation @ translator.rotation.mT, torch.eye(4), atol=1e-5)
        True

    References:
        Maiorca et al., arXiv:2311.00664 (``l-ortho``).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: Scale = "none",
        allow_reflection: bool = True,
        pre: Preprocessing | None = "center",
    ) -> None:
        super().__init__(in_features, out_features, scale, allow_reflection, pre)
        self._products = (outer, elementwise)

    def _direction(self, m: PairMoments) -> Tensor:
        gram = _Gram.of(m.xx, m.eps)
        return gram.solve(m.xy, torch.zeros_like(m.total))[0]


class SGDAffineTranslator(Translator):
    r"""Affine map by a few steps of Adam on the squared error, as published tables have it.

    Few steps stop long before the optimum, which acts as a regulariser that depends on the start
    and the number of steps: this one is for parity with the paper, `AffineTranslator` is exact.
    Needs the rows, all at once. Fit: O(steps N D_x D_y). A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        steps: Number of steps, each on all pairs.
        lr: Learning rate.
        pre: ``"center"`` or ``"standard"``.
        generator: Source of the start; the global one by default.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        rank: Number of directions of the map, of ``min(in_features, out_features)``.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, pairs that determine nothing.

    Example:
        >>> x = torch.randn(50, 4)
        >>> SGDAffineTranslator(4, 4).fit(x, 2 * x)(x).shape
        torch.Size([50, 4])

    References:
        Maiorca et al., arXiv:2311.00664 (``affine``).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        steps: int = 300,
        lr: float = 1e-3,
        pre: Preprocessing = "standard",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        _checks.check_choice("pre", pre, ("center", "standard"))
        super().__init__(in_features, out_features, pre)
        _checks.check_size("steps", steps)
        _checks.check_positive("lr", lr)
        _checks.check_generator(generator)
        self.steps, self.lr, self.generator = steps, lr, generator

    def fit(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Self:
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: One non-negative weight a pair; 1 each by default.
        """
        self._checked(x, y, weights)
        with torch.no_grad():
            left, right, sides = self._prepared(x, y, weights)
            kind = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
            w = left.new_ones(len(left)) if weights is None else weights.to(left)
            squares = ((w[:, None] * side * side).sum() for side in (left, right))
            self._refuse_unrelated((w[:, None] * left).mT @ right, *squares)
            left, right, w = left.to(kind), right.to(kind), w.to(kind)
            w = (w / w.sum() / right.shape[1])[:, None]
            matrix, bias = (
                self._start(shape, left) for shape in (self.matrix.shape, right.shape[1:])
            )
        with torch.enable_grad():
            optimizer = torch.optim.Adam((matrix, bias), self.lr)
            for _ in range(self.steps):
                optimizer.zero_grad()
                (w * (torch.addmm(bias, left, matrix) - right).square()).sum().backward()
                optimizer.step()
        with torch.no_grad():
            target = sides[1]._replace(mean=sides[1].mean + as_float64(bias) * sides[1].std)
            return self._write((sides[0], target), matrix=as_float64(matrix))

    def _options(self) -> list[str]:
        return [f"steps={self.steps}", f"lr={self.lr}", *super()._options()]

    def _start(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uniform within the inverse root of the number of inputs, as a linear layer starts."""
        device = "cpu" if self.generator is None else self.generator.device
        start = torch.rand(shape, dtype=like.dtype, device=device, generator=self.generator)
        bound: float = self.in_features**-0.5
        return ((2 * start - 1) * bound).to(like.device).requires_grad_()


class _Gram(NamedTuple):
    """A matrix of second moments, taken apart once.

    Attributes:
        matrix: Positive semidefinite, ``(D, D)``.
        values: Its eigenvalues, ascending.
        vectors: Their directions, in columns.
        live: Which of them are more than rounding.
        tolerance: Share of the largest eigenvalue that is rounding.
        eps: Relative rounding of the rows.
    """

    matrix: Tensor
    values: Tensor
    vectors: Tensor
    live: Tensor
    tolerance: float
    eps: float

    @classmethod
    def of(cls, matrix: Tensor, eps: float) -> _Gram:
        """Take apart the second moments of rows with rounding ``eps``."""
        values, vectors = torch.linalg.eigh(matrix)
        tolerance = rounding(len(values), eps)
        return cls(matrix, values, vectors, values > tolerance * values[-1], tolerance, eps)

    @property
    def level(self) -> Tensor:
        """Mean eigenvalue: what a ridge of 1 adds."""
        return self.matrix.trace() / len(self.values)

    def solve(self, right: Tensor, penalty: Tensor) -> tuple[Tensor, int]:
        """The smallest ``m`` with ``(matrix + penalty I) m = right``; and the matrix's rank."""
        shifted = self.matrix + penalty * torch.eye(len(self.values)).to(self.matrix)
        # In units in which every feature weighs the same, which spares digits where theirs differ.
        # One that varies by less than the others are rounded to is a constant, and has no unit.
        varies = shifted.diagonal() > self.eps**2 * shifted.diagonal().max()
        units = torch.where(varies, inverse_or_zero(shifted.diagonal().sqrt()), 0)[:, None]
        factor, failed = torch.linalg.cholesky_ex(shifted * units * units.mT)
        rank = int(self.live.sum())
        if not failed and factor.diagonal().square().min() > self.tolerance:
            exact = units * torch.cholesky_solve(units * right, factor)
            return exact, rank if penalty > 0 else len(self.values)
        inverse = torch.where(self.live, inverse_or_zero(self.values + penalty), 0)
        return (self.vectors * inverse) @ (self.vectors.mT @ right), rank


def rounding(size: int, eps: float) -> float:
    """Share of the largest eigenvalue below which those of second moments are rounding.

    Of the rows, whose singular values are known to ``size * eps`` of the largest, or of the moments
    themselves, which are float64.
    """
    return max((size * eps) ** 2, size * torch.finfo(torch.float64).eps)


def check_rank(rank: int, in_features: int, out_features: int) -> None:
    """Refuse a rank that no map between these widths has."""
    _checks.check_size("rank", rank)
    if rank > min(in_features, out_features):
        raise ValueError(
            f"`rank` must be at most min(in_features, out_features) = "
            f"{min(in_features, out_features)}, got {rank}."
        )


def _needs_rows() -> ValueError:
    return ValueError(
        "`ridge='loo'` leaves out one pair at a time, so it needs all of them at once: call `fit`. "
        "In a stream use `ridge='gcv'`, which follows from the moments."
    )


def _check_ridge(ridge: object, names: tuple[str, ...]) -> None:
    if isinstance(ridge, str) and names:
        _checks.check_choice("ridge", ridge, names)
    else:
        _checks.check_number("ridge", ridge, 0, float("inf"))  # type: ignore[arg-type]
        if ridge == float("inf"):
            raise ValueError("`ridge` must be finite, got inf.")


def _gcv(
    gram: _Gram, cross: Tensor, squares: Tensor, total: Tensor, centred: bool, penalties: Tensor
) -> Tensor:
    r"""Generalised cross-validation score of each penalty, :math:`n R / (n - \text{df})^2`.

    Written so that nothing cancels as the penalty vanishes: the squared residual :math:`R` is what
    is left over without any, and what the penalty :math:`\lambda` leaves in addition, the share
    :math:`\lambda/(v + \lambda)` of each direction of eigenvalue :math:`v`.
    """
    values, vectors = gram.values[gram.live], gram.vectors[:, gram.live]
    explained = (vectors.mT @ cross).square().sum(1) / values
    free = (total - int(centred) - len(values)).clamp(min=0)
    noise = torch.where(free > 0, (squares - explained.sum()).clamp(min=0), 0)
    shares = penalties[:, None] / (values + penalties[:, None])
    return total * (noise + shares.square() @ explained) / (free + shares.sum(1)).square()


def _leave_one_out(
    left: Tensor,
    right: Tensor,
    weights: Tensor | None,
    centred: bool,
    penalties: Tensor,
    eps: float,
) -> Tensor:
    """Squared error of each penalty, every pair predicted from the others; exact, by one SVD."""
    w = left.new_ones(len(left)) if weights is None else as_float64(weights)
    roots = w.sqrt()[:, None]
    u, s, _ = torch.linalg.svd(left * roots, full_matrices=False)
    live = s > max(left.shape) * eps * s[0]
    u, values = u[:, live], s[live].square()
    target = right * roots
    along = u.mT @ target
    noise = target - u @ along
    free = 1 - u.square().sum(1) - (w / w.sum() if centred else 0)
    scores = []
    for penalty in penalties:
        share = penalty / (values + penalty)
        errors = noise + u @ (share[:, None] * along)
        scores.append((errors / (free + u.square() @ share)[:, None]).square().sum())
    return torch.stack(scores)
