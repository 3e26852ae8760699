"""Affine least squares with a second opinion: towards an orthogonal map, or of low rank."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps.translate.gram import Ridge, check_max_rank
from relreps.translate.matrix import Post, Preprocessing
from relreps.translate.problem import Problem, Solution
from relreps.translate.procrustes import determined_rotation
from relreps.translate.ridge import AffineTranslator


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
        post: ``"unit"`` brings moved rows to length one.
        rescale: Whether the spread of the target is restored, as in `AffineTranslator`.

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
        *,
        ridge: Ridge = "gcv",
        pre: Preprocessing = "center",
        post: Post | None = None,
        rescale: bool = False,
    ) -> None:
        super().__init__(
            in_features, out_features, ridge=ridge, pre=pre, post=post, rescale=rescale
        )

    def prior(self, problem: Problem) -> Tensor:
        """The Procrustes map with its least squares scale."""
        m = problem.moments
        rotation = determined_rotation(problem, m.xy)[0]
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
        max_rank: Number of directions kept, at most ``min(in_features, out_features)``.
        ridge: Penalty, ``"gcv"`` or ``"loo"`` (chosen for the full rank), as for
            `AffineTranslator`.
        pre: ``"center"`` or ``"standard"``.
        post: ``"unit"`` brings moved rows to length one.
        rescale: Whether the spread of the target is restored, as in `AffineTranslator`.

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
        max_rank: int,
        *,
        ridge: Ridge = 0.0,
        pre: Preprocessing = "center",
        post: Post | None = None,
        rescale: bool = False,
    ) -> None:
        super().__init__(
            in_features, out_features, ridge=ridge, pre=pre, post=post, rescale=rescale
        )
        max_rank = check_max_rank(max_rank, in_features, out_features)
        self.max_rank = max_rank

    def solution(self, problem: Problem) -> Solution:
        r"""The least squares map through the directions that vary most in what it gives.

        With a penalty the rows that it is fitted on are those of the data and those of the penalty,
        so that what varies is :math:`M^\top (X^\top X + \lambda I) M`.
        """
        whole = super().solution(problem)
        m, matrix = problem.moments, whole.matrix
        penalty = whole.buffers["penalty"] * m.xx.trace() / len(m.xx)
        fitted = matrix.mT @ (m.xx @ matrix) + penalty * (matrix.mT @ matrix)
        top = torch.linalg.eigh(fitted).eigenvectors[:, -self.max_rank :]
        rank = min(self.max_rank, self.in_features if whole.rank is None else whole.rank)
        return whole._replace(matrix=(matrix @ top) @ top.mT, rank=rank)
