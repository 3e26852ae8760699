"""Translation of spaces of which few or no rows are paired, by optimal transport."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, at_least_float32, full_precision, unit_rows
from relreps._core.warnings import warn
from relreps.correspondence import clusters, spaces
from relreps.correspondence.transport import softly_whitened, transport
from relreps.translate.matrix import Preprocessing
from relreps.translate.procrustes import Scale
from relreps.translate.seeded import SeededTranslator, Seeds

#: Rounds of the alternation, over which the regularisation falls to its final value.
_ROUNDS = 20
_FIRST_EPSILON = 0.2
#: Sinkhorn iterations in a round, and at most in the last one, whose plan has to be right.
_ITERATIONS = 20
_LAST_ITERATIONS = 500
#: Largest share of the mass that the last plan may have in the wrong place.
_TOLERANCE = 1e-2


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
            `RefinedProcrustesTranslator` and the pairs of `mutual_nearest`.
        scale: As in `ProcrustesTranslator`.
        pre: As in `ProcrustesTranslator`, for the final map.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        map: The `ProcrustesTranslator` that was found.
        num_pairs: Number of pairs it was fitted on.
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
        scale: Scale = "none",
        pre: Preprocessing | None = "center",
    ) -> None:
        super().__init__(in_features, out_features, scale, pre)
        checks.check_positive("epsilon", epsilon)
        checks.check_size("num_clusters", num_clusters, minimum=2)
        checks.check_size("max_samples", max_samples, minimum=2)
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
            seeds: ``(indices_x, indices_y)`` of rows whose partners are known, if there are any.
            generator: Source of the draw of samples and of the clusters; torch's default one if
                not given.
        """
        known = self._checked(x, y, seeds)
        checks.check_generator(generator)
        wide = torch.promote_types(at_least_float32(x[:0]).dtype, y.dtype)
        s = len(known[0])
        draws = spaces.drawn(x, y, known, self.max_samples, max(s, 2), generator)
        x, y = x[draws[0].to(x.device)], y[draws[1].to(y.device)]
        with full_precision(x):
            rows_x, rows_y = _directions("x", x).to(wide), _directions("y", y)
            rows_y = rows_y.to(rows_x)
            if s:
                start = rows_x[:s].mT @ rows_y[:s]
            else:
                start = self._matched(x, y, rows_x, rows_y, generator)
            i, j, objective, error = _coupled(rows_x, rows_y, start, self.epsilon, s)
        if not error <= _TOLERANCE:
            warn(
                f"The transport did not converge in {_LAST_ITERATIONS} iterations: {error:.1%} of "
                f"the mass is in the wrong place. Raise `epsilon`, now {self.epsilon:g}."
            )
        first = torch.arange(s, device=i.device)
        pairs = self._united((first, first), i, j)
        self._finish(as_float64(x), as_float64(y).to(as_float64(x).device), pairs, s)
        self.objective.fill_(objective)
        self.marginal_error.fill_(error)
        return self

    def _checked(self, x: Tensor, y: Tensor, seeds: Seeds | None) -> Seeds:
        if seeds is not None:
            return super()._checked(x, y, seeds)
        first = torch.zeros(1, dtype=torch.long)
        none = super()._checked(x, y, (first, first))[0][:0]  # the rows are checked all the same
        if self.num_clusters > min(len(x), len(y), self.max_samples):
            raise ValueError(
                "`num_clusters` must be at most the rows of the smaller space, got "
                f"{self.num_clusters} clusters, {len(x)} rows of `x` and {len(y)} of `y`. Build "
                "the translator for fewer clusters, or give seeds."
            )
        return none, none

    def _matched(
        self,
        x: Tensor,
        y: Tensor,
        rows_x: Tensor,
        rows_y: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """A first moment from clusters of softly whitened rows, matched by their geometry."""
        white_x, white_y = softly_whitened("x", x), softly_whitened("y", y)
        white_x, white_y = white_x.to(rows_x), white_y.to(rows_y)
        found = clusters.matched_centres(white_x, white_y, self.num_clusters, 10, generator)
        # Each centre as the mean of the rows nearest to it, in the coordinates of the plan.
        means = []
        for rows, white, centres in ((rows_x, white_x, found.x), (rows_y, white_y, found.y)):
            near = (centres @ white.mT).topk(max(1, len(rows) // (2 * self.num_clusters)), 1)
            means.append(unit_rows(rows[near.indices].mean(1)))
        return means[0].mT @ means[1]

    def _options(self) -> list[str]:
        return [
            f"epsilon={self.epsilon}",
            f"num_clusters={self.num_clusters}",
            f"max_samples={self.max_samples}",
            *super()._options(),
        ]


def _directions(name: str, x: Tensor) -> Tensor:
    """Rows about their mean, of length one."""
    rows = as_float64(x)
    rest = rows - rows.mean(0)
    noise = 10 * torch.finfo(at_least_float32(x[:0]).dtype).eps
    if rest.norm() <= noise * rows.norm():
        raise ValueError(
            f"`{name}` must vary, got rows that are all equal. Give at least two different rows."
        )
    return unit_rows(rest).to(at_least_float32(x[:0]).dtype)


def _coupled(
    x: Tensor, y: Tensor, moment: Tensor, epsilon: float, seeds: int
) -> tuple[Tensor, Tensor, float, float]:
    """Rows that the last plan sends to each other, its mean cost, and its marginal error."""
    scalings = None
    for t in range(_ROUNDS):
        level = _FIRST_EPSILON * (epsilon / _FIRST_EPSILON) ** (t / (_ROUNDS - 1))
        u, s, vh = torch.linalg.svd(moment, full_matrices=False)
        rank = _effective_rank(s)
        cost = 1 - unit_rows(x @ u[:, :rank]) @ unit_rows(y @ vh[:rank].mT).mT
        iterations = _ITERATIONS if t < _ROUNDS - 1 else _LAST_ITERATIONS
        plan, scalings, error = transport(cost, level, iterations, scalings)
        means = (plan / plan.sum(1, keepdim=True)) @ y
        means[:seeds] = y[:seeds]
        moment = x.mT @ means
    to_y, to_x = plan.argmax(1), plan.argmax(0)
    i = torch.arange(len(x), device=x.device)
    i = i[to_x[to_y] == i]
    return i, to_y[i], float((plan * cost).sum() / plan.sum()), error


def _effective_rank(s: Tensor) -> int:
    """Exponential of the entropy of singular values: how many directions carry something."""
    shares = s.double() / s.double().sum()
    return max(1, round(float(torch.special.entr(shares).sum().exp())))
