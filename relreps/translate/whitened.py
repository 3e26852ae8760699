"""Maps through whitened spaces: canonical correlations, and orthogonal maps between them."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.rounding import moment_tolerance, safe_reciprocal
from relreps._core.warnings import warn
from relreps.moments import outer
from relreps.translate.gram import check_max_rank, check_ridge
from relreps.translate.matrix import Post, Preprocessing
from relreps.translate.problem import Problem, Solution
from relreps.translate.streaming import MomentTranslator


class WhitenedTranslator(MomentTranslator):
    r"""Whiten both spaces, turn one to the other, and undo the whitening of the target.

    .. math:: \hat y = (x - \mu_x)\, W_x\, U_r\, S_r^{\,p}\, V_r^\top\, W_y^{-1} + \mu_y,
              \qquad W_x^\top C_{xy} W_y = U S V^\top, \quad
              W = (C + \lambda I)^{-1/2}

    Whitened, all directions weigh the same, so that the rotation is not decided by the few of
    largest variance. The singular values :math:`S` are the canonical correlations: a weight of
    :math:`p = 1` trusts each direction as far as it correlates and gives least squares
    (`CCATranslator`), 0 is the orthogonal map between the whitened spaces, and 1/2 is half of the
    way. Fit: O(N (D_x + D_y)^2 + (D_x + D_y)^3), in float64. A
    call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        reweight: The power :math:`p` in [0, 1].
        max_rank: Number of correlated directions that are kept; all by default.
        ridge: :math:`\lambda` in units of the mean variance of a feature, on both sides. Without
            ridge it takes more pairs than features.
        pre: ``"center"`` or ``"standard"``. Bring rows to length one before, if only their
            direction means something.
        post: ``"unit"`` brings moved rows to length one.
        rescale: Whether the spread of the target is restored, as in `AffineTranslator`.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        correlations: The canonical correlations, descending, ``(min(in_features, out_features),)``;
            0 beyond the rank of the data. A ridge makes them smaller.
        rank: Number of directions of the map; `inverse` exists if there are
            ``min(in_features, out_features)``.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, too few pairs without a ridge, pairs
            that determine nothing.

    Example:
        >>> x, m = torch.randn(100, 4), torch.randn(4, 4)
        >>> moved = WhitenedTranslator(4, 4, ridge=0.0).fit(x, x @ m)(x)
        >>> torch.allclose(moved, x @ m, atol=1e-4)
        True

    References:
        Artetxe, Labaka and Agirre 2018, whose steps these are; they weigh both sides.
    """

    correlations: Tensor
    products = (outer, outer)
    centering = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        reweight: float = 0.5,
        max_rank: int | None = None,
        ridge: float = 1e-3,
        pre: Preprocessing = "center",
        post: Post | None = None,
        rescale: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, pre, post=post, rescale=rescale)
        checks.check_number("reweight", reweight, 0, 1)
        check_ridge("ridge", ridge)
        if max_rank is not None:
            check_max_rank(max_rank, in_features, out_features)
        self.reweight, self.max_rank, self.ridge = reweight, max_rank, ridge
        self.register_buffer("correlations", torch.zeros(min(in_features, out_features)))

    def solution(self, problem: Problem) -> Solution:
        """Whitening of the source, weighed correlated directions, and colour of the target."""
        m = problem.moments
        widest = max(self.in_features, self.out_features)
        if not self.ridge and round(m.effective_rows) < widest + 2:
            raise ValueError(
                f"{type(self).__name__} needs at least {widest + 2} pairs for {self.in_features} "
                f"and {self.out_features} features, got {m.effective_rows:.0f}: with fewer any two "
                "spaces correlate perfectly. Give more pairs, or a `ridge` such as 0.01."
            )
        white_x, _ = _whitening(m.xx, self.ridge, m.eps)
        white_y, color_y = _whitening(m.yy, self.ridge, m.eps)
        u, s, vh = torch.linalg.svd(white_x.mT @ m.xy @ white_y, full_matrices=False)
        kept = slice(self.max_rank)
        weights = s[kept] ** self.reweight
        matrix = (white_x @ (u[:, kept] * weights)) @ (vh[kept] @ color_y)
        # Not `rank_tolerance`: correlations are at most 1, whatever the largest of them is.
        live = int((s > len(s) * torch.finfo(s.dtype).eps).sum())
        full = len(self.correlations)
        if len(s) < full:
            warn(
                f"{m.effective_rows:.0f} pairs determine {len(s)} of {full} directions; the others "
                "are ignored. Give more pairs, or a larger `ridge`."
            )
        correlations = torch.nn.functional.pad(s, (0, full - len(s)))
        rank = min(live, self.max_rank or live)
        return Solution(matrix, rank=rank, buffers={"correlations": correlations})


class CCATranslator(WhitenedTranslator):
    r"""Move vectors through the directions in which the two spaces correlate most.

    .. math:: \hat y = (x - \mu_x)\, C_{xx}^{-1/2}\, U_r\, \rho_r\, V_r^\top\, C_{yy}^{1/2} + \mu_y

    with the canonical correlations :math:`\rho` as singular values of
    :math:`C_{xx}^{-1/2} C_{xy} C_{yy}^{-1/2}`. Unlike a bottleneck of least squares
    (`ReducedRankTranslator`) the choice of directions does not depend on the units of either space.
    At full rank without ridge it is the map of `AffineTranslator`. Fit:
    O(N (D_x + D_y)^2 + (D_x + D_y)^3), in float64. A call: one matrix product.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        max_rank: Number of correlated directions that are kept; all by default.
        ridge: Added to both covariances, in units of the mean variance of a feature. Without ridge
            it takes more pairs than features.
        pre: ``"center"`` or ``"standard"``.
        post: ``"unit"`` brings moved rows to length one.
        rescale: Whether the spread of the target is restored, as in `AffineTranslator`.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        correlations: The canonical correlations, descending, ``(min(in_features, out_features),)``.
        rank: Number of directions of the map; `inverse` exists if there are
            ``min(in_features, out_features)``.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, too few pairs without a ridge, pairs
            that determine nothing.

    Example:
        >>> x = torch.randn(100, 4)
        >>> y = torch.cat((x[:, :1] * 3 + 1, torch.randn(100, 2)), 1)
        >>> translator = CCATranslator(4, 3, max_rank=1).fit(x, y)
        >>> translator.correlations[0]
        tensor(1.)

    References:
        Hotelling 1936.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        max_rank: int | None = None,
        ridge: float = 0.0,
        pre: Preprocessing = "center",
        post: Post | None = None,
        rescale: bool = False,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            reweight=1.0,
            max_rank=max_rank,
            ridge=ridge,
            pre=pre,
            post=post,
            rescale=rescale,
        )


def _whitening(scatter: Tensor, ridge: float, eps: float) -> tuple[Tensor, Tensor]:
    """A root ``W`` of the inverse, ``(D, r)`` with ``W.T @ scatter @ W = I``, and its inverse.

    Directions that are rounding are left out. Any root serves, because a rotation after it cancels
    in the map; this one is taken in units in which every feature weighs the same.
    """
    level = ridge * scatter.trace() / len(scatter)
    shifted = scatter + (level * torch.ones_like(scatter[0])).diag()
    units = shifted.diagonal().sqrt()[:, None]
    inverse = safe_reciprocal(units)
    values, vectors = torch.linalg.eigh(shifted * inverse * inverse.mT)
    live = values > moment_tolerance(len(values), eps) * values[-1]
    roots, vectors = values[live].sqrt(), vectors[:, live]
    return inverse * vectors / roots, (units * vectors * roots).mT
