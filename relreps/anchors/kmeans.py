"""Anchors by clusters: the centres as rows, a walk over the clusters, or shared cluster labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision
from relreps.anchors import lloyd
from relreps.anchors.rows import check_distinct, check_samples, prepared, squared_lengths
from relreps.anchors.samplers import Sampler, check_scores, round_robin

Order = Literal["random", "center"]
#: Squared shift of all centres, as part of the mean variance of a feature, that ends a clustering.
_TOLERANCE = 1e-4


class KMeansAnchors(Sampler):
    r"""The rows nearest to the centres of a k-means clustering with one cluster an anchor.

    k-means++ start, then Lloyd iterations; a cluster that runs empty restarts at the row farthest
    from its centre. Each centre is then replaced by the nearest row that is still free, so anchors
    are real samples, all different. Anchors follow the density of the data. No prefix property.
    O(INAD) time for I iterations; memory for one copy of the data, as distances are taken in
    blocks.

    Args:
        num_anchors: Number of anchors A.
        normalize: Cluster directions (rows scaled to length one) rather than positions.
        max_iterations: Largest number of Lloyd iterations.
        tolerance: Stop when the squared shifts of all centres sum to at most this part of the mean
            variance of a feature; with 0, when no row changes its cluster any more.
        generator: Source of randomness; torch's default one if not given.

    Raises:
        ValueError: If there are fewer samples, or fewer distinct samples, than anchors.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.1, 1.0], [-0.1, 1.0], [1.0, 0.0]])
        >>> sorted(KMeansAnchors(2)(x).tolist())
        [0, 3]

    References:
        Moschella et al., arXiv:2209.15430, appendix A.2.
    """

    def __init__(
        self,
        num_anchors: int,
        *,
        normalize: bool = True,
        max_iterations: int = 100,
        tolerance: float = _TOLERANCE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_anchors, generator=generator)
        max_iterations = checks.check_size("max_iterations", max_iterations)
        checks.check_number("tolerance", tolerance, 0, 1)
        self.normalize = normalize
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The rows nearest to the centres of a clustering."""
        rows = prepared(x, self.normalize)
        centers, _ = lloyd.clustered(
            rows, self.num_anchors, self.max_iterations, self.tolerance, self.generator
        )
        return lloyd.nearest_free_rows(rows, centers)


class ClusterAnchors(Sampler):
    """Rows drawn cluster by cluster in turn, from a few k-means clusters.

    As `StratifiedAnchors`, for data without labels: counts differ by at most one while clusters
    last. The clustering does not depend on the number of anchors, so the first ``a`` indices are
    the draw of ``ClusterAnchors(a, num_clusters)`` from the same generator state. O(INKD) time for
    K clusters and I iterations; memory for one copy of the data.

    Args:
        num_anchors: Number of anchors A.
        num_clusters: Number of clusters K.
        order: Which rows of a cluster come first: ``"random"``, ``"center"`` (nearest to its
            centre), or those of the highest score: one score a row ``(N,)``, such as a frequency,
            or a function from the samples to it.
        normalize: Cluster directions (rows scaled to length one) rather than positions.
        max_iterations: Largest number of Lloyd iterations.
        generator: Source of randomness; torch's default one if not given.

    Raises:
        ValueError: If there are fewer distinct samples than anchors or clusters.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.1, 1.0], [-0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
        >>> picks = ClusterAnchors(4, 2)(x)
        >>> sorted((picks[:2] > 2).tolist()), sorted((picks[2:] > 2).tolist())
        ([False, True], [False, True])

    References:
        Code of Moschella et al., arXiv:2209.15430. Its centre order takes positions within a
        cluster for positions in the data; here they are the latter.
    """

    def __init__(
        self,
        num_anchors: int,
        num_clusters: int,
        *,
        order: Order | Tensor | Callable[[Tensor], Tensor] = "random",
        normalize: bool = True,
        max_iterations: int = 100,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_anchors, generator=generator)
        num_clusters = checks.check_size("num_clusters", num_clusters)
        max_iterations = checks.check_size("max_iterations", max_iterations)
        if isinstance(order, Tensor):
            check_scores("order", order)
        elif not callable(order):
            checks.check_choice("order", order, get_args(Order))
        self.num_clusters = num_clusters
        self.order = order
        self.normalize = normalize
        self.max_iterations = max_iterations

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_anchors}, {self.num_clusters})"

    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The first of an order, dealt out cluster by cluster."""
        scores = self.order(x) if callable(self.order) else self.order
        if not isinstance(scores, str):
            check_scores("order", scores, x.shape[0])
        check_distinct("num_clusters", self.num_clusters, x)
        rows = prepared(x, self.normalize)
        centers, clusters = lloyd.clustered(
            rows, self.num_clusters, self.max_iterations, _TOLERANCE, self.generator
        )
        if isinstance(scores, Tensor):
            order = scores.argsort(descending=True, stable=True).to(x.device)
        elif scores == "random":
            order = self.shuffled(x.shape[0]).to(x.device)
        else:
            distance = squared_lengths(rows) - 2 * lloyd.nearest_center(rows, centers)[1]
            order = distance.argsort(stable=True)
        return round_robin(order, clusters)[: self.num_anchors]


@torch.no_grad()
def cluster_labels(
    x: Tensor,
    num_clusters: int,
    *,
    normalize: bool = True,
    max_iterations: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The k-means cluster of each row, for `prototypes` where there are no classes.

    Cluster one space, and use the labels in every space: they belong to the samples. A cluster can
    end up empty only where rows coincide or the iterations were cut short, and `prototypes` then
    says so. O(INKD) time; memory for one copy of the data.

    Args:
        x: Samples.
        num_clusters: Number of clusters K.
        normalize: Cluster directions (rows scaled to length one) rather than positions.
        max_iterations: Largest number of Lloyd iterations.
        generator: Source of randomness; torch's default one if not given.

    Shape:
        - x: :math:`(N, D)`. Output: :math:`(N,)`, integers in [0, K).

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
        >>> labels = cluster_labels(x, 2)
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True
    """
    num_clusters = checks.check_size("num_clusters", num_clusters)
    max_iterations = checks.check_size("max_iterations", max_iterations)
    checks.check_generator(generator)
    check_samples(x, 1)
    check_distinct("num_clusters", num_clusters, x)
    with full_precision(x):
        rows = prepared(x, normalize)
        return lloyd.clustered(rows, num_clusters, max_iterations, _TOLERANCE, generator)[1]
