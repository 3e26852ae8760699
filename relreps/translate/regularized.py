"""Affine least squares with a second opinion: towards an orthogonal map, or of low rank."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core.linalg import polar_factor
from relreps.translate.base import Preprocessing
from relreps.translate.gram import Ridge, check_rank
from relreps.translate.ridge import AffineTranslator
from relreps.translate.streaming import PairMoments


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
