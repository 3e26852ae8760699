"""The penalised systems of least squares, and the choice of the penalty."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.rounding import moment_tolerance, safe_reciprocal

Ridge = float | Literal["gcv", "loo"]

#: Strengths that are tried where the data choose: four to each factor of ten.
RIDGES = tuple(10 ** (step / 4) for step in range(-24, 13))


def check_ridge(name: str, ridge: object, words: tuple[str, ...] = ()) -> None:
    """Refuse what is neither one of ``words`` nor a finite number from 0."""
    if isinstance(ridge, str) and words:
        checks.check_choice(name, ridge, words)
    else:
        checks.check_number(name, ridge, 0, float("inf"))  # type: ignore[arg-type]
        if ridge == float("inf"):
            raise ValueError(f"`{name}` must be finite, got inf.")


class Gram(NamedTuple):
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
    def of(cls, matrix: Tensor, eps: float) -> Gram:
        """Take apart the second moments of rows with rounding ``eps``."""
        values, vectors = torch.linalg.eigh(matrix)
        tolerance = moment_tolerance(len(values), eps)
        return cls(matrix, values, vectors, values > tolerance * values[-1], tolerance, eps)

    @property
    def level(self) -> Tensor:
        """Mean eigenvalue: what a ridge of 1 adds."""
        return self.matrix.trace() / len(self.values)

    def solve(self, right: Tensor, penalty: Tensor) -> tuple[Tensor, int]:
        """The smallest ``m`` with ``(matrix + penalty I) m = right``; and the matrix's rank."""
        # Cholesky is exact to rounding where the matrix is well conditioned, in a third of the
        # time; else the pseudo-inverse in the eigenvectors leaves out what is rounding.
        m = self.matrix
        shifted = m + penalty * torch.eye(len(m), dtype=m.dtype, device=m.device)
        # In units in which every feature weighs the same, which spares digits where theirs differ.
        # One that varies by less than the others are rounded to is a constant, and has no unit.
        varies = shifted.diagonal() > self.eps**2 * shifted.diagonal().max()
        units = torch.where(varies, safe_reciprocal(shifted.diagonal().sqrt()), 0)[:, None]
        factor, failed = torch.linalg.cholesky_ex(shifted * units * units.mT)
        rank = int(self.live.sum())
        if not failed and factor.diagonal().square().min() > self.tolerance:
            exact = units * torch.cholesky_solve(units * right, factor)
            return exact, rank if penalty > 0 else len(self.values)
        inverse = torch.where(self.live, safe_reciprocal(self.values + penalty), 0)
        return (self.vectors * inverse) @ (self.vectors.mT @ right), rank


def check_max_rank(max_rank: int, in_features: int, out_features: int) -> None:
    """Refuse a rank that no map between these widths has."""
    checks.check_size("max_rank", max_rank)
    if max_rank > min(in_features, out_features):
        raise ValueError(
            f"`max_rank` must be at most min(in_features, out_features) = "
            f"{min(in_features, out_features)}, got {max_rank}."
        )


def gcv(
    values: Tensor, explained: Tensor, squares: Tensor, count: float, penalties: Tensor
) -> Tensor:
    r"""Generalised cross-validation score of each penalty, :math:`R / (1 - \text{df} / n)^2`.

    Written so that nothing cancels as the penalty vanishes: the squared residual :math:`R` is what
    is left over without any, and what the penalty :math:`\lambda` leaves in addition, the share
    :math:`\lambda/(v + \lambda)` of each direction.

    Args:
        values: Positive eigenvalues :math:`v` of the second moments of the source.
        explained: What each of their directions explains of the squares of the target.
        squares: Those squares.
        count: Number n of pairs, less one for a mean that was subtracted.
        penalties: The strengths to compare.
    """
    free = max(count - len(values), 0.0)
    noise = (squares - explained.sum()).clamp(min=0) * (free > 0)
    shares = penalties[:, None] / (values + penalties[:, None])
    return (noise + shares.square() @ explained) / (free + shares.sum(1)).square()


def leave_one_out(
    left: Tensor,
    right: Tensor,
    weights: Tensor | None,
    centered: bool,
    penalties: Tensor,
    tolerance: float,
) -> Tensor:
    r"""Squared error of each penalty, every pair predicted from the others; exact, by one SVD.

    The hat matrix :math:`H = X (X^\top X + \lambda I)^{-1} X^\top` gives the fitted rows, and the
    error of a row that is left out is that of the fitted one over :math:`1 - H_{ii}`, less the
    weight that it has in the mean. With :math:`X = U S V^\top` and the share
    :math:`\lambda / (s^2 + \lambda)` of a direction that the penalty leaves,

    .. math:: Y - H Y = (I - U U^\top) Y + U\, \text{share}\, U^\top Y, \qquad
              1 - H_{ii} = 1 - \lVert U_i \rVert^2 + \sum_j U_{ij}^2\, \text{share}_j

    so that nothing cancels as the penalty vanishes.
    """
    w = left.new_ones(len(left)) if weights is None else weights.to(left)
    roots = w.sqrt()[:, None]
    u, s, _ = torch.linalg.svd(left * roots, full_matrices=False)
    live = s.square() > tolerance * s[0].square()
    u, values = u[:, live], s[live].square()
    target = right * roots
    along = u.mT @ target
    noise = target - u @ along
    free = 1 - u.square().sum(1) - (w / w.sum() if centered else 0)
    scores = []
    for penalty in penalties:
        share = penalty / (values + penalty)
        errors = noise + u @ (share[:, None] * along)
        scores.append((errors / (free + u.square() @ share)[:, None]).square().sum())
    return torch.stack(scores)
