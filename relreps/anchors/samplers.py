"""Anchor samplers: which samples of a set become anchors.

A sampler returns indices, not rows, because the same picks index the inputs, the labels and the
other model's space: draw once, reuse the indices everywhere. A generator advances when it is used,
as everywhere in torch, so calling a sampler twice gives two draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from relreps import _checks
from relreps._linalg import at_least_float32, unit_rows

#: Entries of a distance block held at once by `KMeansAnchors`.
_BLOCK = 1 << 22


class AbstractSampler(ABC):
    """Picks distinct rows: ``sampler(x, labels=None) -> (num_anchors,)`` indices."""

    def __init__(self, num_anchors: int, *, generator: torch.Generator | None = None) -> None:
        _checks.check_size("num_anchors", num_anchors)
        self.num_anchors = num_anchors
        self.generator = generator

    def __call__(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Indices of the chosen rows of ``x`` ``(N, D)``, all different, on its device."""
        _checks.check_rows("x", x)
        if self.num_anchors > x.shape[0]:
            raise ValueError(
                f"`num_anchors` must be at most the number of samples, got {self.num_anchors} "
                f"anchors and {x.shape[0]} samples. Give more samples or ask for fewer anchors."
            )
        _checks.check_finite("x", x)
        if labels is not None:
            _checks.check_labels(labels, x.shape[0])
        with torch.no_grad():
            return self._pick(x, labels).to(x.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_anchors})"

    @abstractmethod
    def _pick(self, x: Tensor, labels: Tensor | None) -> Tensor: ...

    def _shuffled(self, n: int) -> Tensor:
        device = "cpu" if self.generator is None else self.generator.device
        return torch.randperm(n, generator=self.generator, device=device)

    def _draw(self, weights: Tensor) -> int:
        """One index with probability proportional to ``weights``."""
        device = "cpu" if self.generator is None else self.generator.device
        point = torch.rand((), generator=self.generator, device=device, dtype=torch.float64)
        total = weights.to(torch.float64).cumsum(0)
        return int(torch.searchsorted(total, point.to(total.device) * total[-1], right=True))


class UniformAnchors(AbstractSampler):
    """Rows drawn uniformly without replacement.

    The first ``a`` indices are the draw of ``UniformAnchors(a)`` from the same generator state.
    O(N).

    Args:
        num_anchors: Number of anchors A.
        generator: Source of randomness; torch's default one if not given.

    Example:
        >>> sampler = UniformAnchors(2, generator=torch.Generator().manual_seed(0))
        >>> len(set(sampler(torch.randn(10, 3)).tolist()))
        2
    """

    def _pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return self._shuffled(x.shape[0])[: self.num_anchors]


class StratifiedAnchors(AbstractSampler):
    """Rows drawn class by class in turn, so that classes are represented evenly.

    Within a class the order is random; classes take turns in ascending order. Counts differ by at
    most one while classes last; a class that has run out is passed over. The first ``a`` indices
    are the draw of ``StratifiedAnchors(a)`` from the same generator state. O(N log N).

    Args:
        num_anchors: Number of anchors A.
        generator: Source of randomness; torch's default one if not given.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[StratifiedAnchors(4)(torch.randn(6, 3), labels)]
        tensor([0, 1, 0, 1])
    """

    def _pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError(
                "`labels` must be given to StratifiedAnchors: one integer a row of `x`."
            )
        shuffled = self._shuffled(x.shape[0]).to(labels.device)
        _, classes, counts = labels[shuffled].unique(return_inverse=True, return_counts=True)
        by_class = classes.argsort(stable=True)
        starts = (counts.cumsum(0) - counts)[classes[by_class]]
        turn = torch.arange(len(by_class), device=labels.device) - starts
        # Sorting by turn is stable and the rows come class by class: (turn, class) order.
        return shuffled[by_class[turn.argsort(stable=True)]][: self.num_anchors]


class FarthestAnchors(AbstractSampler):
    r"""Greedy k-centre: each new anchor is the row farthest from those chosen so far.

    Starts from a random row; ties go to the lowest index. The radius of the largest uncovered ball
    shrinks with every anchor and is at most twice the best possible (Gonzalez 1985). It covers the
    space, outliers first. The first ``a`` indices are the choice of ``FarthestAnchors(a)`` from the
    same generator state. O(NAD) time, O(ND) memory.

    Args:
        num_anchors: Number of anchors A.
        normalize: Compare directions (rows scaled to length one) rather than positions.
        generator: Source of randomness; torch's default one if not given.

    References:
        Moschella et al., arXiv:2209.15430, appendix A.2.
    """

    def __init__(
        self, num_anchors: int, *, normalize: bool = True, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_anchors, generator=generator)
        self.normalize = normalize

    def _pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        rows = _prepared(x, self.normalize)
        squares = rows.square().sum(-1)
        nearest = torch.full_like(squares, torch.inf)
        chosen = torch.empty(self.num_anchors, dtype=torch.long, device=x.device)
        chosen[0] = self._shuffled(x.shape[0])[0]
        for i in range(1, self.num_anchors):
            last = chosen[i - 1]
            distance = torch.addmv(squares, rows, rows[last], alpha=-2).add_(squares[last])
            torch.minimum(nearest, distance, out=nearest)
            nearest[last] = -torch.inf
            chosen[i] = nearest.argmax()
        return chosen


class KMeansAnchors(AbstractSampler):
    r"""The rows nearest to the centres of a k-means clustering with one cluster an anchor.

    k-means++ start, Lloyd iterations until the assignment is stable or ``max_iterations`` is
    reached; a cluster that runs empty restarts at the row farthest from its centre. Each centre is
    then replaced by the nearest row that is still free, so anchors are real samples, all different.
    Anchors follow the density of the data. No prefix property. O(INAD) time for I iterations,
    O(ND) memory: distances are taken in blocks.

    Args:
        num_anchors: Number of anchors A.
        normalize: Cluster directions (rows scaled to length one) rather than positions.
        max_iterations: Largest number of Lloyd iterations.
        generator: Source of randomness; torch's default one if not given.

    References:
        Moschella et al., arXiv:2209.15430, appendix A.2.
    """

    def __init__(
        self,
        num_anchors: int,
        *,
        normalize: bool = True,
        max_iterations: int = 100,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_anchors, generator=generator)
        _checks.check_size("max_iterations", max_iterations)
        self.normalize = normalize
        self.max_iterations = max_iterations

    def _pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        rows = _prepared(x, self.normalize)
        centres = self._start(rows)
        previous: Tensor | None = None
        for _ in range(self.max_iterations):
            assigned, distance = _nearest_centre(rows, centres)
            if previous is not None and bool((assigned == previous).all()):
                break
            previous = assigned
            centres = _cluster_means(rows, assigned, distance, self.num_anchors)
        return _nearest_free_rows(rows, centres)

    def _start(self, rows: Tensor) -> Tensor:
        """k-means++: each start is drawn with probability proportional to its squared distance."""
        n = rows.shape[0]
        chosen = [int(self._shuffled(n)[0])]
        squares = rows.square().sum(-1)
        nearest = torch.full_like(squares, torch.inf)
        while len(chosen) < self.num_anchors:
            last = chosen[-1]
            distance = torch.addmv(squares, rows, rows[last], alpha=-2).add_(squares[last])
            torch.minimum(nearest, distance.clamp_(min=0), out=nearest)
            nearest[last] = 0
            free = nearest if bool((nearest > 0).any()) else torch.ones_like(nearest)
            chosen.append(min(self._draw(free), n - 1))
        return rows[torch.tensor(chosen, device=rows.device)]


def _prepared(x: Tensor, normalize: bool) -> Tensor:
    """Rows in at least float32: directions, or positions about their mean, at most 1 large."""
    x = at_least_float32(x)
    if normalize:
        return unit_rows(x)
    x = _scaled(x)
    return _scaled(x - x.mean(0))


def _scaled(x: Tensor) -> Tensor:
    """``x`` over its largest entry: no pick changes, and squares stay in the range of the type."""
    largest = x.abs().max()
    return x / torch.where(largest > 0, largest, 1)


def _nearest_centre(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest centre of each row, the lowest if tied, and its squared distance."""
    half_squares = centres.square().sum(-1) / 2
    step = max(1, _BLOCK // centres.shape[0])
    assigned, scores = [], []
    for block in rows.split(step):
        score, index = torch.addmm(half_squares, block, centres.mT, beta=-1).max(-1)
        assigned.append(index)
        scores.append(score)
    return torch.cat(assigned), rows.square().sum(-1) - 2 * torch.cat(scores)


def _cluster_means(rows: Tensor, assigned: Tensor, distance: Tensor, clusters: int) -> Tensor:
    """Means of the clusters; an empty one restarts at the row worst served, one row each."""
    counts = torch.bincount(assigned, minlength=clusters)
    sums = rows.new_zeros(clusters, rows.shape[1]).index_add_(0, assigned, rows)
    means = sums / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        means[empty] = rows[distance.topk(len(empty)).indices]
    return means


def _nearest_free_rows(rows: Tensor, centres: Tensor) -> Tensor:
    """For each centre in turn, the nearest row not taken by an earlier one, the lowest if tied.

    Both rows of a cluster of two are equally near to its mean: rounding must not choose.
    """
    squares = rows.square().sum(-1)
    rounding = 8 * torch.finfo(rows.dtype).eps * squares.max()
    taken = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
    chosen = torch.empty(centres.shape[0], dtype=torch.long, device=rows.device)
    for i, centre in enumerate(centres):
        distance = torch.addmv(squares, rows, centre, alpha=-2).masked_fill_(taken, torch.inf)
        chosen[i] = (distance <= distance.min() + rounding).to(torch.uint8).argmax()
        taken[chosen[i]] = True
    return chosen
