"""What a translator that is a matrix is found from, what is found, and the map made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core.rounding import is_constant, rank_tolerance, safe_reciprocal
from relreps.moments import RowMoments
from relreps.moments.value import times
from relreps.normalization import Affine


class Problem(NamedTuple):
    r"""What a matrix is found from: pairs, pre-processed to :math:`p(x)` and :math:`q(y)`.

    Attributes:
        moments: Sums over the pairs, about zero: ``xx``, ``xy`` and ``yy``, in float64.
        source: The pre-processing :math:`p`.
        target: The pre-processing :math:`q`.
        rows: Gives the pre-processed rows ``(N, D_x)``, ``(N, D_y)``, in float64. None where there
            are only sums of them.
        weights: One weight a pair, if they have any.
    """

    moments: RowMoments
    source: Affine
    target: Affine
    rows: Callable[[], tuple[Tensor, Tensor]] | None = None
    weights: Tensor | None = None


class Solution(NamedTuple):
    """A matrix between pre-processed rows, and what is known of it.

    Attributes:
        matrix: ``(D_x, D_y)``.
        inverse: What undoes it, ``(D_y, D_x)``; its pseudo-inverse by default.
        rank: Most directions that the pairs determine, where it is known to be fewer than the
            matrix has by rounding.
        offset: What is added to a moved, pre-processed row, ``(D_y,)``; nothing by default.
        buffers: Values of further buffers, by name.
    """

    matrix: Tensor
    inverse: Tensor | None = None
    rank: int | None = None
    offset: Tensor | None = None
    buffers: Mapping[str, Tensor] = MappingProxyType({})


def check_related(owner: str, moments: RowMoments) -> Tensor:
    """Refuse pairs that determine no direction: of one row over and over, or unrelated ones.

    Otherwise it gives the mean square of each feature of the source, then of the target.
    """
    xx, xy, yy = moments.scatters
    sides = [s if s.dim() == 1 else s.diagonal() for s in (xx, yy)]
    # Feature by feature: a large constant one is not to hide another that varies.
    squares, means = torch.cat(sides), torch.cat(moments.means)
    about_zero = squares + moments.total * means.square()
    still = is_constant(squares, about_zero, moments.eps)
    constant = [side.all() for side in still.split([len(side) for side in sides])]
    # What is left of the products is a sum in float64: its rounding decides, not that of rows.
    lengths = sides[0].sum().sqrt() * sides[1].sum().sqrt()
    rounding = max(xy.shape) * torch.finfo(torch.float64).eps * lengths
    if any(map(bool, constant)) or bool(xy.norm() <= rounding):
        raise ValueError(
            f"{owner} cannot be fitted: `x` and `y` must vary together, but the "
            "pairs determine no direction (rank 0). Give at least two pairs with different "
            "rows on both sides."
        )
    return about_zero / moments.total


def assembled(solution: Solution, source: Affine, target: Affine) -> tuple[dict[str, Tensor], int]:
    """Pre-processing and matrix put together: a value for each buffer, and the rank."""
    matrix, inverse, rank, offset, buffers = solution
    if inverse is None:
        inverse, live = _pseudo_inverse(matrix)
        rank = live if rank is None else min(live, rank)
    values = {
        "matrix": matrix,
        "inverse_matrix": inverse,
        "mean_x": torch.zeros_like(matrix[:, 0]) if source.shift is None else source.shift,
        "mean_y": torch.zeros_like(matrix[0]) if target.shift is None else target.shift,
        **buffers,
    }
    if source.factor is not None or target.factor is not None:
        values["matrix"] = _between(source.factor, matrix, target.inverse)
        values["inverse_matrix"] = _between(target.factor, inverse, source.inverse)
    if offset is not None:
        values["mean_y"] = values["mean_y"] + times(offset, target.inverse)
    return values, min(matrix.shape) if rank is None else rank


def _between(left: Tensor | None, matrix: Tensor, right: Tensor | None) -> Tensor:
    """A matrix with what stands on either side of it folded in."""
    if left is not None:
        matrix = left @ matrix if left.dim() == 2 else left[..., None] * matrix
    return matrix if right is None else times(matrix, right)


def _pseudo_inverse(matrix: Tensor) -> tuple[Tensor, int]:
    """Pseudo-inverse and rank of a matrix that was solved for in float64."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    live = s > rank_tolerance(max(matrix.shape), torch.finfo(s.dtype).eps) * s[0]
    return (vh.mT * torch.where(live, safe_reciprocal(s), 0)) @ u.mT, int(live.sum())
