"""Anchor samplers: which samples of a set become anchors.

A sampler returns indices, not rows, because the same picks index the inputs, the labels and the
other model's space: draw once, reuse the indices everywhere. A generator advances when it is used,
as everywhere in torch, so calling a sampler twice gives two draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from relreps._core import checks, draws
from relreps._core.linalg import full_precision
from relreps.anchors.rows import check_samples


class Sampler(ABC):
    """Picks distinct rows: ``sampler(x, labels=None) -> (num_anchors,)`` indices.

    All indices differ; their rows may not. The data must hold ``num_anchors`` distinct rows, but a
    sampler that does not look where rows lie can still pick two equal ones, and rows that differ in
    length alone are one direction to a sampler with ``normalize=True``: `anchor_report` finds both.

    A subclass writes `pick`, the indices in the order in which they matter, so that the first ``a``
    are a smaller choice. `shuffled` gives it a random order by the generator.

    Args:
        num_anchors: Number of anchors A.
        generator: Source of randomness; torch's default one if not given.

    Example:
        >>> class Longest(Sampler):
        ...     def pick(self, x, labels):
        ...         return x.norm(dim=1).argsort(descending=True)[: self.num_anchors]
        >>> Longest(2)(torch.tensor([[1.0], [3.0], [2.0]]))
        tensor([1, 2])
    """

    def __init__(self, num_anchors: int, *, generator: torch.Generator | None = None) -> None:
        num_anchors = checks.check_size("num_anchors", num_anchors)
        checks.check_generator(generator)
        self.num_anchors = num_anchors
        self.generator = generator

    def __call__(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Indices of the chosen rows of ``x`` ``(N, D)``, all different, on its device."""
        check_samples(x, self.num_anchors)
        if labels is not None:
            checks.check_labels(labels, x.shape[0])
            labels = labels.long()
        with torch.no_grad(), full_precision(x):
            return self.pick(x, labels).to(x.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_anchors})"

    @abstractmethod
    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """``num_anchors`` different indices ``(A,)`` of ``x``, by a subclass.

        Called without gradient or autocast.

        Args:
            x: Samples ``(N, D)``: floating, finite, with enough distinct rows.
            labels: None, or one int64 a row.
        """

    def shuffled(self, n: int) -> Tensor:
        """The numbers from 0 to n - 1 in an order drawn by the generator."""
        return draws.shuffled(n, self.generator)


class UniformAnchors(Sampler):
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

    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The first of a random order."""
        return self.shuffled(x.shape[0])[: self.num_anchors]


class StratifiedAnchors(Sampler):
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

    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The first of a random order, dealt out class by class."""
        if labels is None:
            raise ValueError(
                "`labels` must be given to StratifiedAnchors: one integer a row of `x`."
            )
        order = self.shuffled(x.shape[0]).to(labels.device)
        return round_robin(order, labels)[: self.num_anchors]


class TopKAnchors(Sampler):
    """Rows drawn at random from the best-scored ones, such as the most frequent words.

    Without a ``pool`` the picks are the ``num_anchors`` best rows themselves, best first, and
    nothing is random. Ties go to the lowest index. The first ``a`` indices are those of
    ``TopKAnchors(a)`` with the same pool from the same generator state. O(N log N).

    Args:
        num_anchors: Number of anchors A.
        scores: One number for each row that will be sampled from, ``(N,)``; higher is better.
        pool: Number of best rows to draw from, at least ``num_anchors``.
        generator: Source of randomness; torch's default one if not given.

    Example:
        >>> TopKAnchors(2, torch.tensor([0.1, 0.9, 0.5]))(torch.randn(3, 4))
        tensor([1, 2])

    References:
        Moschella et al., arXiv:2209.15430, appendix A.2: 300 words out of the 1000, 5000 or 10000
        most frequent. A small pool did worst there.
    """

    def __init__(
        self,
        num_anchors: int,
        scores: Tensor,
        pool: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_anchors, generator=generator)
        check_scores("scores", scores)
        if pool is not None:
            pool = checks.check_size("pool", pool, minimum=num_anchors)
        self.scores = scores
        self.pool = pool

    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The best rows, or the first of a random order of the pool of them."""
        check_scores("scores", self.scores, x.shape[0])
        best = self.scores.argsort(descending=True, stable=True)
        if self.pool is None:
            return best[: self.num_anchors]
        if self.pool > x.shape[0]:
            raise ValueError(
                f"`pool` must be at most the number of samples, got a pool of {self.pool} and "
                f"{x.shape[0]} samples. Leave it out to take the best rows themselves."
            )
        return best[self.shuffled(self.pool).to(best.device)[: self.num_anchors]]


def round_robin(order: Tensor, groups: Tensor) -> Tensor:
    """``order`` rearranged: the first row of each group, then the second of each, and so on.

    Groups take turns in ascending order; one that has run out is passed over.
    """
    _, member, counts = groups[order].unique(return_inverse=True, return_counts=True)
    by_group = member.argsort(stable=True)
    starts = (counts.cumsum(0) - counts)[member[by_group]]
    turn = torch.arange(len(by_group), device=order.device) - starts
    # Sorting by turn is stable and the rows come group by group: (turn, group) order.
    return order[by_group[turn.argsort(stable=True)]]


def check_scores(name: str, scores: Tensor, rows: int | None = None) -> None:
    """Refuse scores that are not one number a row."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(scores).__name__}.")
    if scores.is_complex():
        raise TypeError(f"`{name}` must be real numbers, got {scores.dtype}: they have no order.")
    if scores.dim() != 1 or (rows is not None and len(scores) != rows):
        wanted = "one entry a row" if rows is None else f"one entry for each of the {rows} rows"
        raise ValueError(f"`{name}` must have {wanted}, got shape {tuple(scores.shape)}.")
    if rows is not None and bool(scores.isnan().any()):
        raise ValueError(
            f"`{name}` must not hold NaN (the first is entry {int(scores.isnan().nonzero()[0])}): "
            "it has no place in an order."
        )
