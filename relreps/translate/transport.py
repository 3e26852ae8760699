"""Translation of spaces of which few or no rows are paired, by optimal transport."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64
from relreps.correspondence import spaces
from relreps.correspondence.pairs import Indices, Seeds, united
from relreps.correspondence.wasserstein import coupled
from relreps.translate.matrix import Post, Preprocessing
from relreps.translate.procrustes import Scale
from relreps.translate.seeded import SeededTranslator


class TransportTranslator(SeededTranslator):
    r"""An orthogonal map between spaces whose rows are matched by optimal transport.

    Wasserstein-Procrustes: rows, centred and of length one, are coupled by a plan P with uniform
    marginals, the plan gives a map, and the map the next plan, with :math:`\epsilon` falling:

    .. math:: \min_{R^\top R = I}\ \min_P\ \sum_{ij} P_{ij}\bigl(1 - \cos(x_i R, y_j)\bigr)
              - \epsilon H(P)

    Rows are compared in the leading directions of :math:`X^\top P Y = U S V^\top` only, as many as
    its effective rank, the exponential of the entropy of the shares of S: the pairs so far say
    little about the others. Seeds keep their partners throughout. Rows that the last plan sends to
    each other are the pairs of the final map. The spaces may have different widths and numbers of
    rows; the larger one keeps rows without a partner. Transport is in the log domain, by POT.
    O(NM (iterations + D)) time, O(NM) memory.

    **It may fail**, all at once, and then `agreement` is low, with a warning. Both sides have to
    hold mostly the same things. Without seeds the start is that of
    `discover_parallel_anchors_unsupervised`, matched clusters, which fails on spaces that hold
    none. In a few dimensions, or on data with a symmetry, a wrong map can agree with itself: there
    `agreement` is no evidence; compare `objective` from several starts.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        epsilon: Regularisation of the last plan, relative to the mean cost.
        num_clusters: Number of clusters on each side, where there are no seeds.
        max_samples: A space with more rows is represented by as many, the seeds and others at
            random, with a `PerformanceWarning`. To use all, refine the result with
            `RefinedProcrustesTranslator`, with `pairs` as its seeds.
        scale: As in `ProcrustesTranslator`.
        pre: As in `ProcrustesTranslator`, for the final map.
        post: As in `ProcrustesTranslator`.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        map: The `ProcrustesTranslator` that was found.
        pairs: The `Pairs` it was fitted on; see `SeededTranslator`.
        num_pairs: Their number.
        objective: Mean cost :math:`1 - \cos` under the last plan.
        marginal_error: Share of the mass that the last plan has in the wrong place.
        agreement: Share of the pairs beyond the seeds that a map fitted on the other half of them
            finds again.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Non-finite rows, wrong sizes, seeds out of range or repeated.

    Warns:
        NumericalWarning: ``agreement`` is below one half, or the transport did not converge.
        PerformanceWarning: A space is represented by a draw.

    Example:
        >>> x = torch.randn(100, 4)
        >>> order = torch.randperm(100)
        >>> y = x[order].flip(1) + 1  # mirrored, moved and shuffled
        >>> seeds = order[:4], torch.arange(4)
        >>> translator = TransportTranslator(4, 4).fit(x, y, seeds)
        >>> torch.allclose(translator(x), x.flip(1) + 1, atol=1e-5)
        True

    References:
        Grave et al., arXiv:1805.11222, for the alternation; clusters: arXiv:2510.02348. The falling
        rank, the seeds and the agreement are this library's.
    """

    objective: Tensor
    marginal_error: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        epsilon: float = 0.02,
        num_clusters: int = 20,
        max_samples: int = 2000,
        scale: Scale = "norm",
        pre: Preprocessing | None = "center",
        post: Post | None = None,
    ) -> None:
        super().__init__(in_features, out_features, scale, pre, post)
        checks.check_positive("epsilon", epsilon)
        num_clusters = checks.check_size("num_clusters", num_clusters, minimum=2)
        max_samples = checks.check_size("max_samples", max_samples, minimum=2)
        self.epsilon, self.num_clusters, self.max_samples = epsilon, num_clusters, max_samples
        self.register_buffer("objective", torch.zeros(()))
        self.register_buffer("marginal_error", torch.zeros(()))

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        y: Tensor,
        seeds: Seeds | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Fit on rows ``x (N, D_x)`` and ``y (M, D_y)`` in any order; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows, in an order and a number of their own.
            seeds: ``(indices_x, indices_y)`` of rows whose partners are known, or `Pairs`, if there
                are any.
            generator: Source of the draw of samples and of the clusters; torch's default one if
                not given.
        """
        known = self._without_seeds(x, y) if seeds is None else self._checked(x, y, seeds)
        checks.check_generator(generator)
        s = len(known[0])
        drawn = spaces.drawn(x, y, known, self.max_samples, max(s, 2), generator)
        x, y = x[drawn[0].to(x.device)], y[drawn[1].to(y.device)]
        i, j, objective, error = coupled(x, y, s, self.epsilon, self.num_clusters, generator)
        first = torch.arange(s, device=i.device)
        pairs = united((first, first), i, j)
        return self._finish(
            self._wide(x, y), pairs, s, drawn, objective=objective, marginal_error=error
        )

    def _without_seeds(self, x: Tensor, y: Tensor) -> Indices:
        """No seeds, when the rows can be clustered instead."""
        self._check_rows(x, y)
        if self.num_clusters > min(len(x), len(y), self.max_samples):
            raise ValueError(
                "`num_clusters` must be at most the rows of the smaller space, got "
                f"{self.num_clusters} clusters, {len(x)} rows of `x` and {len(y)} of `y`. Build "
                "the translator for fewer clusters, or give seeds."
            )
        return spaces.no_seeds(as_float64(x[:0]).device)
