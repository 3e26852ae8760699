"""The penalised systems of least squares, and the choice of the penalty."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.rounding import moment_tolerance, safe_reciprocal

Ridge = float | Literal["gcv", "loo"]

#: Steps of a quarter of a factor of ten between which the strength of a penalty is looked for, at
#: first from 1e-6 to 1e3: below the first it is rounding, and above the last nothing else is left.
_WEAKEST, _STRONGEST = -48, 24
#: The last of them, which leaves a millionth of the map.
STRONGEST = 10 ** (_STRONGEST / 4)
#: Share of the pairs that generalised cross-validation has to judge by to be believed.
_JUDGES = 0.2


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


def check_max_rank(max_rank: int, in_features: int, out_features: int) -> int:
    """Refuse a rank that no map between these widths has."""
    max_rank = checks.check_size("max_rank", max_rank)
    if max_rank > min(in_features, out_features):
        raise ValueError(
            f"`max_rank` must be at most min(in_features, out_features) = "
            f"{min(in_features, out_features)}, got {max_rank}."
        )
    return max_rank


def least(scores: Callable[[Tensor], Tensor], level: Tensor) -> float:
    """The strength, in units of ``level``, whose penalty has the least score.

    Four are tried to each factor of ten, and where the least lies on the edge of the grid, the grid
    goes on, to `STRONGEST` at last.
    """
    low, high = -24, 12
    while True:
        grid = [10 ** (step / 4) for step in range(low, high + 1)]
        best = int(
            scores(level * torch.tensor(grid, dtype=level.dtype, device=level.device)).argmin()
        )
        if best == 0 and low > _WEAKEST:
            low -= 12
        elif best == len(grid) - 1 and high < _STRONGEST:
            high += 12
        else:
            break
    return grid[best]


def cross_validated(
    values: Tensor,
    explained: Tensor,
    squares: Tensor,
    count: float,
    level: Tensor,
    features: int,
    tolerance: float,
) -> float:
    r"""The strength of a penalty by generalised cross-validation, guarded against repeated pairs.

    The score takes all pairs for equally free, :math:`R / (1 - \text{df} / n)^2`. A pair that
    repeats is fitted by its own copy, so that with fewer pairs than features, where all the others
    are fitted too as the penalty vanishes, it alone is left to be judged by, and its error is none.
    Hence copies do not count where every pair is fitted; and where there are fewer pairs than
    features, and what the choice leaves is spread over less than a fifth of n directions, as with
    copies that are not quite equal, it is made anew among the penalties that spread it more, by the
    marginal likelihood, to which a copy is one term among n:

    .. math:: n \log\Bigl(R_0 + \sum_j \tfrac{\lambda}{v_j + \lambda} e_j\Bigr)
              - \sum_j \log \tfrac{\lambda}{v_j + \lambda}

    Args:
        values: Positive eigenvalues :math:`v` of the second moments of the source.
        explained: What each of their directions explains, :math:`e`, of the squares of the target.
        squares: Those squares; :math:`R_0` is what is explained by none.
        count: Number n of pairs, less one for a mean that was subtracted.
        level: What a strength of 1 is.
        features: Number of features of the source.
        tolerance: Share of a square that is rounding.
    """
    free = max(count - len(values), 0.0)
    noise = (squares - explained.sum()).clamp(min=0) * (free > 0)
    fitted = len(values) < features and bool(noise <= tolerance * squares)
    if fitted and free <= len(values) + 1:  # else so many rows are no copies, but an exact map
        count, free, noise = float(len(values)), 0.0, torch.zeros_like(noise)

    def judges(share: Tensor) -> Tensor:
        """How many directions the residual is spread over."""
        return (free + share.sum(-1)).square() / (free + share.square().sum(-1))

    def likelihood(penalties: Tensor) -> Tensor:
        share = penalties[:, None] / (values + penalties[:, None])
        score = count * (noise + share @ explained).log() - share.log().sum(1)
        return torch.where(judges(share) < _JUDGES * count, torch.inf, score)

    chosen = least(partial(gcv, values, explained, noise, free), level)
    share = level * chosen / (values + level * chosen)
    few = len(values) < features and bool(judges(share) < _JUDGES * count)
    return least(likelihood, level) if few else chosen


def gcv(values: Tensor, explained: Tensor, noise: Tensor, free: float, penalties: Tensor) -> Tensor:
    r"""Generalised cross-validation score of each penalty, :math:`R / (1 - \text{df} / n)^2`.

    Written so that nothing cancels as the penalty vanishes: the squared residual :math:`R` is what
    is left over without any, and what the penalty :math:`\lambda` leaves in addition, the share
    :math:`\lambda/(v + \lambda)` of each direction.

    Args:
        values: Positive eigenvalues :math:`v` of the second moments of the source.
        explained: What each of their directions explains of the squares of the target.
        noise: What is explained by none.
        free: Number of pairs beyond these directions.
        penalties: The strengths to compare.
    """
    shares = penalties[:, None] / (values + penalties[:, None])
    return (noise + shares.square() @ explained) / (free + shares.sum(1)).square()


def distinct(
    left: Tensor, right: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Equal rows of the source as one, with the mean of their targets and their weight together.

    The map is the same, and so is the error of leaving all of them out, up to a constant.
    """
    rows, of = left.unique(dim=0, return_inverse=True)
    if len(rows) == len(left):
        return left, right, weights
    w = left.new_ones(len(left)) if weights is None else weights.to(left)
    total = left.new_zeros(len(rows)).index_add_(0, of, w)
    sums = right.new_zeros(len(rows), right.shape[1]).index_add_(0, of, right * w[:, None])
    return rows, sums * safe_reciprocal(total)[:, None], total


def leave_one_out(
    left: Tensor,
    right: Tensor,
    weights: Tensor | None,
    centered: bool,
    tolerance: float,
) -> Callable[[Tensor], Tensor]:
    r"""Gives the squared error of penalties, every pair predicted from the others: by one SVD.

    Rows have to be `distinct`: a copy predicts itself.

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

    def scores(penalties: Tensor) -> Tensor:
        found = []
        for penalty in penalties:
            share = penalty / (values + penalty)
            errors = noise + u @ (share[:, None] * along)
            found.append((errors / (free + u.square() @ share)[:, None]).square().sum())
        return torch.stack(found)

    return scores
