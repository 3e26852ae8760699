"""Neighbours across two spaces: scores without hubs, mutual matches, and maps refined on them."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, at_least_float32, full_precision, unit_rows
from relreps.correspondence import ParallelAnchors
from relreps.translate.matrix import MatrixTranslator, Preprocessing, Problem, Solution
from relreps.translate.procrustes import Scale, procrustes
from relreps.translate.seeded import SeededTranslator, Seeds

#: Rows whose scores are held at once by `mutual_nearest`.
_CHUNK = 1024


def csls(x: Tensor, y: Tensor, k: int = 10) -> Tensor:
    r"""Cross-domain similarity local scaling: cosines, corrected for rows that are near to all.

    .. math:: s_{ij} = 2\cos(x_i, y_j) - r_y(x_i) - r_x(y_j)

    where :math:`r_y(x_i)` is the mean cosine of :math:`x_i` to its k nearest rows of ``y``, and
    :math:`r_x(y_j)` likewise. Both spaces have to lie in the same coordinates: translate first, and
    subtract a common mean where cosines are all high. Differentiable; the neighbours are constant.
    O(NMD) time, O(NM) memory; `mutual_nearest` needs only O(N + M).

    Args:
        x: Translated rows.
        y: Rows to match them with.
        k: Number of neighbours, at most the rows of either side.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(M, D)`. Output: :math:`(N, M)`.

    Example:
        >>> x = torch.eye(3)
        >>> csls(x, x.flip(0), k=1).argmax(1)
        tensor([2, 1, 0])

    References:
        Conneau et al., arXiv:1710.04087.
    """
    _check_spaces(x, y, k)
    with full_precision(x):
        dtype = torch.promote_types(x.dtype, y.dtype)
        wide = torch.promote_types(dtype, torch.float32)
        cosines = unit_rows(x.to(wide)) @ unit_rows(y.to(wide)).mT
        rows, columns = (cosines.topk(k, dim).values.mean(dim, keepdim=True) for dim in (1, 0))
        return (2 * cosines - rows - columns).to(dtype)


@torch.no_grad()
def mutual_nearest(x: Tensor, y: Tensor, k: int = 10) -> ParallelAnchors:
    """Rows of two spaces that are each other's nearest by `csls`, the surest first.

    A tie goes to the first row. O(NMD) time, O(N + M) memory: scores are made in chunks.

    Args:
        x: Translated rows.
        y: Rows to match them with.
        k: Number of neighbours of the scores, at most the rows of either side.

    Returns:
        ``(indices_x, indices_y, scores)``. A score says how far a pair is ahead of the best rival
        of either row: zero at a tie, infinite if neither has any.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(M, D)`. Output: :math:`(P,)` each, P at most min(N, M).

    Example:
        >>> x = torch.eye(3)
        >>> found = mutual_nearest(x, x.flip(0), k=1)
        >>> bool((found.indices_x == 2 - found.indices_y).all())
        True

    References:
        Conneau et al., arXiv:1710.04087, for the pairs; the scores are this library's.
    """
    _check_spaces(x, y, k)
    for name, rows in (("x", x), ("y", y)):
        checks.check_finite(name, rows)
    with full_precision(x):
        wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        a, b = unit_rows(x.to(wide)), unit_rows(y.to(x.device, wide))
        near_a, near_b = _mean_nearest(a, b, k), _mean_nearest(b, a, k)
        to_b, margin_a = _best(a, b, near_b)
        to_a, margin_b = _best(b, a, near_a)
    i = torch.arange(len(a), device=a.device)
    i = i[to_a[to_b] == i]
    j = to_b[i]
    scores = torch.minimum(margin_a[i], margin_b[j])
    order = scores.argsort(descending=True, stable=True)
    return ParallelAnchors(i[order], j[order], scores[order])


def rcsls_loss(x: Tensor, y: Tensor, k: int = 10) -> Tensor:
    r"""Relaxed CSLS: what a linear map that is judged by `csls` should be trained on.

    .. math:: -\frac1n \sum_i \Bigl( 2\langle x_i, y_i\rangle
              - \frac1k \sum_{j \in N_k(x_i)} \langle x_i, y_j\rangle
              - \frac1k \sum_{j \in N_k(y_i)} \langle x_j, y_i\rangle \Bigr)

    Rows are taken as they are: bring them to length one, then translate ``x``. As a function of a
    linear map before ``x`` it is convex. The gradient is exact, the neighbours are constant in it.
    O(N^2 D) time, O(N^2) memory.

    Args:
        x: Translated rows.
        y: Their partners, row by row.
        k: Number of neighbours, at most the rows.

    Shape:
        - x, y: :math:`(N, D)`. Output: scalar.

    Example:
        >>> rcsls_loss(torch.eye(2), torch.eye(2), k=2)
        tensor(-1.)

    References:
        Joulin et al., arXiv:1804.07745.
    """
    _check_spaces(x, y, k)
    checks.check_paired(x, y)
    with full_precision(x):
        dtype = torch.promote_types(x.dtype, y.dtype)
        wide = torch.promote_types(dtype, torch.float32)
        products = x.to(wide) @ y.to(wide).mT
        near = products.topk(k, 1).values.mean(1) + products.topk(k, 0).values.mean(0)
        loss: Tensor = (near - 2 * products.diagonal()).mean().to(dtype)
        return loss


class RefinedProcrustesTranslator(SeededTranslator):
    r"""An orthogonal map refined on rows without known partners.

    A Procrustes map of the seeds translates all rows of ``x``; rows that are each other's nearest
    by `csls` are new pairs, and the map is fitted again on them and the seeds, and so on until the
    pairs stay. This is worth more than any choice of map: unpaired rows are cheap. It fails where
    too few seeds leave a map that finds no neighbours; `TransportTranslator` needs fewer.
    O(rounds (NMD + D^3)) time, O(N + M) memory beside the rows.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        k: Number of neighbours of `csls`.
        rounds: Largest number of refinements.
        scale: As in `ProcrustesTranslator`.
        pre: As in `ProcrustesTranslator`.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        map: The `ProcrustesTranslator` that was found.
        num_pairs: Number of pairs it was fitted on.
        agreement: Share of the pairs beyond the seeds that a map fitted on the other half of them
            finds again. Low after a failure; in a few dimensions it can be high even then.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Non-finite rows, wrong sizes, seeds out of range or repeated.

    Warns:
        NumericalWarning: ``agreement`` is below one half: the refinement has probably failed.

    Example:
        >>> x = torch.randn(200, 4)
        >>> order = torch.randperm(200)
        >>> y = x[order].flip(1) + 1  # mirrored, moved and shuffled
        >>> seeds = order[:5], torch.arange(5)
        >>> translator = RefinedProcrustesTranslator(4, 4).fit(x, y, seeds)
        >>> torch.allclose(translator(x), x.flip(1) + 1, atol=1e-5)
        True

    References:
        Conneau et al., arXiv:1710.04087, section 2.2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        k: int = 10,
        rounds: int = 20,
        scale: Scale = "none",
        pre: Preprocessing | None = "center",
    ) -> None:
        super().__init__(in_features, out_features, scale, pre)
        checks.check_size("k", k)
        checks.check_size("rounds", rounds)
        self.k, self.rounds = k, rounds

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, seeds: Seeds) -> Self:
        """Fit on rows ``x (N, D_x)`` and ``y (M, D_y)`` in any order; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows, in an order and a number of their own.
            seeds: ``(indices_x, indices_y)`` of rows whose partners are known.
        """
        known = self._checked(x, y, seeds)
        checks.check_k(self.k, min(len(x), len(y)))
        wide = torch.promote_types(at_least_float32(x[:0]).dtype, y.dtype)
        rows_x, rows_y = (as_float64(rows).to(known[0].device) for rows in (x, y))
        pairs = known
        for _ in range(self.rounds):
            found = self._map_of(rows_x, rows_y, pairs)
            moved = (found(rows_x) - found.mean_y).to(wide)
            best = mutual_nearest(moved, (rows_y - found.mean_y).to(wide), self.k)
            before, pairs = pairs, self._united(known, best.indices_x, best.indices_y)
            if torch.equal(before[0], pairs[0]) and torch.equal(before[1], pairs[1]):
                break
        return self._finish(rows_x, rows_y, pairs, len(known[0]))

    def _options(self) -> list[str]:
        return [f"k={self.k}", f"rounds={self.rounds}", *super()._options()]


class RCSLSTranslator(MatrixTranslator):
    r"""A linear map trained for retrieval with `csls`.

    Starts at the Procrustes map and descends `rcsls_loss`; singular values stay at most 1, the
    ball on which the loss is convex. The rate is halved whenever the loss rises, and that step is
    taken back. The map is not orthogonal, hence learns from paired rows what `ProcrustesTranslator`
    cannot, and can overfit where pairs are few: it needs several for each dimension. O(steps
    (N^2 D + D^3)) time and O(N^2) memory, in float64; `fit` only, since neighbours do not stream.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        k: Number of neighbours.
        steps: Number of gradient steps.
        rate: First step size.
        pre: Pre-processing, as in `ProcrustesTranslator`; the loss sees rows of length one.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        loss: `rcsls_loss` of the pairs at the end.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Unpaired or non-finite rows, wrong sizes, fewer pairs than neighbours.

    Example:
        >>> x = torch.randn(100, 4)
        >>> translator = RCSLSTranslator(4, 4).fit(x, x.flip(1))
        >>> bool((translator(x) @ x.flip(1).T).diagonal().gt(0).all())
        True

    References:
        Joulin et al., arXiv:1804.07745. Its released code keeps the raised loss's step, as the
        matrix that should be restored is an alias of the one edited; here it is taken back.
    """

    loss: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        k: int = 10,
        steps: int = 20,
        rate: float = 1.0,
        pre: Preprocessing | None = "center",
    ) -> None:
        super().__init__(in_features, out_features, pre)
        checks.check_size("k", k)
        checks.check_size("steps", steps)
        checks.check_positive("rate", rate)
        self.k, self.steps, self.rate = k, steps, rate
        self.register_buffer("loss", torch.zeros(()))

    def fit(self, x: Tensor, y: Tensor, weights: None = None) -> Self:  # type: ignore[override]
        """Fit on paired rows ``x (N, D_x)`` and ``y (N, D_y)``; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows of the same samples, in the same order.
            weights: None only: the loss has no weights.
        """
        if weights is not None:
            raise ValueError("RCSLSTranslator takes no `weights`; repeat pairs that count more.")
        self._check_pairs(x, y)
        checks.check_k(self.k, len(x))
        return super().fit(x, y)

    def solution(self, problem: Problem) -> Solution:
        """Descent from the Procrustes map, in steps that are halved where the loss rises."""
        if problem.rows is None:
            raise ValueError("RCSLSTranslator needs the rows: call `fit`.")
        left, right = map(unit_rows, problem.rows())
        matrix, rate = procrustes(left, right), self.rate
        loss, gradient = self._descent(left, right, matrix)
        for _ in range(self.steps):
            tried = _into_ball(matrix - rate * gradient)
            new_loss, new_gradient = self._descent(left, right, tried)
            if new_loss < loss:
                matrix, loss, gradient = tried, new_loss, new_gradient
            else:
                rate /= 2
        return Solution(matrix, buffers={"loss": loss})

    def _descent(self, left: Tensor, right: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            left, right = left.clone(), right.clone()  # no tensors of inference mode
            matrix = matrix.clone().requires_grad_()
            loss = rcsls_loss(left @ matrix, right, self.k)
            (gradient,) = torch.autograd.grad(loss, matrix)
        return loss.detach(), gradient


def _into_ball(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are at most 1."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside: Tensor = (u * s.clamp(max=1)) @ vh
    return inside


def _check_spaces(x: Tensor, y: Tensor, k: int) -> None:
    checks.check_rows("x", x)
    checks.check_rows("y", y, x.shape[1])
    checks.check_k(k, min(x.shape[0], y.shape[0]))


def _mean_nearest(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Mean cosine of each row of ``a`` to its k nearest rows of ``b``."""
    return torch.cat([(rows @ b.mT).topk(k, 1).values.mean(1) for rows in a.split(_CHUNK)])


def _best(a: Tensor, b: Tensor, near_b: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of ``a`` the best row of ``b``, the first of equals, and its lead."""
    best, leads = [], []
    for rows in a.split(_CHUNK):
        scores = 2 * (rows @ b.mT) - near_b
        first = scores.max(1)
        best.append(first.indices)
        rest = scores.scatter_(1, first.indices[:, None], -torch.inf)
        leads.append(first.values - rest.amax(1))
    return torch.cat(best), torch.cat(leads)
