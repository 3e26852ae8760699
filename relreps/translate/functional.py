"""Translation from correspondences that are partly wrong: a functional map corrects them."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps.correspondence.functional import functional_pairs
from relreps.correspondence.pairs import Seeds, united
from relreps.translate.matrix import Post, Preprocessing
from relreps.translate.procrustes import Scale
from relreps.translate.seeded import SeededTranslator


class FunctionalMapTranslator(SeededTranslator):
    r"""An orthogonal map from correspondences that a functional map has corrected.

    Each space is the graph of the k nearest neighbours of its rows; the first eigenfunctions of the
    normalised Laplacian are its coordinates. Cosines to the seeds are functions on both graphs that
    correspond, and determine a `functional_map`, which matches all rows: those that are each
    other's nearest in the spectral coordinates are pairs. Twice more the map is fitted to the
    pairs, as an orthogonal one, and pairs are found anew; the last ones give a Procrustes map.

    Seeds may be wrong in part: they enter as functions only, never as pairs, so this is for
    *approximate* correspondences. With right ones `RefinedProcrustesTranslator` is the stronger
    map, as the graphs of two encoders differ more than their geometry; so large k help. Nothing
    depends on rotations, translations or scales of either space. O((N^2 + M^2) D) for the graphs, a
    sparse eigenproblem on the host, O(K^4), and O(NMK) a round.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        num_functions: Number K of eigenfunctions, fewer than the rows of either side.
        k: Number of neighbours in the graphs.
        alpha: Weight of commuting with the Laplacians, relative to the mean energy of the seeds'
            functions in an eigenfunction.
        scale: As in `ProcrustesTranslator`.
        pre: As in `ProcrustesTranslator`.
        post: As in `ProcrustesTranslator`.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        map: The `ProcrustesTranslator` that was found.
        pairs: The `Pairs` it was fitted on; see `SeededTranslator`.
        num_pairs: Their number.
        similarity: :math:`\lVert \mathrm{diag}(C^\top C) \rVert^2 / \lVert C^\top C \rVert^2` of
            the functional map, 1 for isometric graphs.
        agreement: Share of the pairs that a map fitted on the other half of them finds again.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Non-finite rows, wrong sizes, seeds out of range or repeated.

    Warns:
        NumericalWarning: ``agreement`` is below one half, or a graph falls into parts.

    Example:
        >>> x = torch.randn(300, 3)
        >>> y = x.flip(1) + 1
        >>> seeds = torch.arange(60), torch.cat((torch.arange(50), torch.arange(60, 50, -1)))
        >>> translator = FunctionalMapTranslator(3, 3, num_functions=20, k=30)
        >>> translator = translator.fit(x, y, seeds)
        >>> torch.allclose(translator(x), y, atol=1e-3)  # ten of the seeds were wrong
        True

    References:
        Fumero et al., arXiv:2406.14183.
    """

    similarity: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_functions: int = 100,
        k: int = 100,
        alpha: float = 10.0,
        scale: Scale = "norm",
        pre: Preprocessing | None = "center",
        post: Post | None = None,
    ) -> None:
        super().__init__(in_features, out_features, scale, pre, post)
        num_functions = checks.check_size("num_functions", num_functions, minimum=2)
        k = checks.check_size("k", k)
        checks.check_nonnegative("alpha", alpha)
        self.num_functions, self.k, self.alpha = num_functions, k, alpha
        self.register_buffer("similarity", torch.zeros(()))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, seeds: Seeds) -> Self:  # type: ignore[override]
        """Fit on rows ``x (N, D_x)`` and ``y (M, D_y)`` in any order; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows, in an order and a number of their own.
            seeds: ``(indices_x, indices_y)`` of rows that roughly correspond, or `Pairs`; for rows
                in the same order, ``torch.arange(n)`` twice.
        """
        known = self._checked(x, y, seeds)
        least = min(len(x), len(y))
        if self.num_functions >= least:
            raise ValueError(
                f"`num_functions` must be less than the rows of either side, got "
                f"{self.num_functions} and {least} rows. Build the translator for fewer."
            )
        checks.check_k(self.k, least - 1, "other rows")
        sides = self._wide(x, y)
        found, similarity = functional_pairs(
            sides[0], sides[1], known, self.num_functions, self.k, self.alpha
        )
        # The seeds are functions only: a pair of them counts where it is found like any other.
        pairs = united((known[0][:0], known[1][:0]), found.indices_x, found.indices_y)
        return self._finish(sides, pairs, 0, similarity=similarity)
