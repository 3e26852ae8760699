"""What death times add up to, a loss that draws them to one length, and how they are spread."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.draws import shuffled
from relreps._core.linalg import at_least_float32, full_precision
from relreps._core.rounding import safe_divisor
from relreps.topo_loss.clouds import mean
from relreps.topo_loss.deaths import check_deaths, check_scale, death_times
from relreps.topo_loss.kinds import MetricLike, resolve_metric
from relreps.topo_loss.metric import Metric
from relreps.topo_loss.trees import spanning_lengths


def total_persistence(deaths: Tensor, p: float = 1.0) -> Tensor:
    r"""Sum of powers of the death times, :math:`\sum_i d_i^p`.

    With p = 1 it is the length of the minimum spanning tree. A death time of zero has gradient
    zero where the power has none.

    Args:
        deaths: Death times, as `death_times` gives them.
        p: Exponent, positive.

    Shape:
        - deaths: :math:`(*, m)`. Output: :math:`(*)`.

    Example:
        >>> total_persistence(death_times(torch.tensor([[0.0], [1.0], [4.0]])), p=2)
        tensor(10.)
    """
    checks.check_positive("p", p)
    check_deaths("deaths", deaths)
    wide = at_least_float32(deaths)
    none = wide == 0  # not `safe_power`, which is 0 at NaN: what is no death time is to be seen
    return torch.where(none, 0, torch.where(none, 1, wide) ** p).sum(-1).to(deaths.dtype)


def persistent_entropy(deaths: Tensor) -> Tensor:
    r"""Entropy of the death times as parts of their sum, :math:`-\sum_i p_i \ln p_i`, in nats.

    At most :math:`\ln m`, where all are equal. Zero for no death times or all zero; a death time of
    zero adds nothing and has gradient zero. Invariant to the scale of the cloud.

    Args:
        deaths: Death times, as `death_times` gives them.

    Shape:
        - deaths: :math:`(*, m)`. Output: :math:`(*)`.

    Example:
        >>> persistent_entropy(torch.ones(4))
        tensor(1.3863)
    """
    check_deaths("deaths", deaths)
    wide = at_least_float32(deaths)
    # In units of the longest, so that the sum does not overflow; they change no derivative.
    longest = torch.nn.functional.pad(wide.detach(), (1, 0)).amax(-1, keepdim=True)
    wide = wide / safe_divisor(longest)
    part = wide / safe_divisor(wide.sum(-1, keepdim=True))
    safe = torch.where(part == 0, 1, part)
    return -(safe * safe.log()).sum(-1).to(deaths.dtype)


class ConnectivityLoss(nn.Module):
    r"""Draws the death times of a batch of codes to one length.

    .. math:: \frac1B \sum_{b=1}^{B} \sum_{e} |d_e^{(b)} - \eta|

    with the death times of each of B branches, equal slices of the features; the mean over clouds
    is taken. A batch then is spread evenly, at distance :math:`\eta` between neighbours, which
    makes nearest neighbours of codes tell something about density. It is the absolute densification
    loss without labels, and pushes short edges up as it pulls long ones in. A cloud of fewer than
    two points counts zero. Cost: that of `death_times`.

    Args:
        scale: Length :math:`\eta`, not negative.
        metric: See `death_times`; not ``"precomputed"``.
        branches: Number of branches B, which divides the number of features.

    Shape:
        - z: :math:`(*, n, D)`. Output: scalar.

    Example:
        >>> ConnectivityLoss(scale=2.0)(torch.tensor([[0.0], [1.0], [4.0]]))
        tensor(2.)

    References:
        Hofer et al., arXiv:1906.09003; released with scale 2, ``"l1"`` and 16 branches of 10
        features.
    """

    def __init__(self, scale: float = 2.0, *, metric: MetricLike = "l1", branches: int = 1) -> None:
        super().__init__()
        check_scale(scale)
        branches = checks.check_size("branches", branches)
        self._metric = _of_points(metric)
        self.scale = scale
        self.metric = metric
        self.branches = branches

    def forward(self, z: Tensor) -> Tensor:
        """Mean loss of the clouds and branches."""
        self._metric.check("z", z)
        if z.shape[-1] % self.branches:
            raise ValueError(
                f"`branches` must divide the number of features, got {self.branches} and "
                f"{z.shape[-1]} features."
            )
        slices = at_least_float32(z).unflatten(-1, (self.branches, -1)).movedim(-2, -3)
        with full_precision(z):
            lengths, _ = spanning_lengths(slices, self._metric, "auto")
        return mean((lengths - self.scale).abs().sum(-1)).to(z.dtype)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"scale={self.scale}, metric={self.metric!r}, branches={self.branches}"


@torch.no_grad()
def death_time_quantiles(
    x: Tensor,
    labels: Tensor | None = None,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    *,
    metric: MetricLike = "l2",
    samples_per_class: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How long the edges are that connect each class: the range in which to choose a scale.

    Death times shrink as a cloud gets more points, so look at clouds of the size that the loss will
    see: with ``samples_per_class`` each class is shuffled and cut into clouds of so many points,
    whose death times are pooled; what is left over is not used.

    Args:
        x: Samples.
        labels: Class of each sample; one class if not given.
        quantiles: Which quantiles, in [0, 1].
        metric: See `death_times`; not ``"precomputed"``.
        samples_per_class: Points in a cloud, at least 2; all of a class by default.
        generator: Source of randomness of the shuffles; torch's default one if not given.

    Shape:
        - x: :math:`(N, D)`; labels: :math:`(N)`. Output: :math:`(C, Q)`, one row a class, classes
          ascending.

    Raises:
        ValueError: If a class is too small for one cloud; every such class is named.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0], [9.0], [9.5]])
        >>> death_time_quantiles(x, torch.tensor([0, 0, 0, 1, 1]), (0.0, 0.5, 1.0))
        tensor([[1.0000, 1.5000, 2.0000],
                [0.5000, 0.5000, 0.5000]])
    """
    checks.check_rows("x", x, minimum=2)
    checks.check_readable("x", x)
    checks.check_generator(generator)
    rule = _of_points(metric)
    if isinstance(quantiles, int | float | str) or not len(quantiles):
        raise ValueError(f"`quantiles` must be a sequence of numbers, got {quantiles!r}.")
    for q in quantiles:
        checks.check_number("quantiles", q, 0, 1)
    if samples_per_class is not None:
        samples_per_class = checks.check_size("samples_per_class", samples_per_class, minimum=2)
    if labels is None:
        labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    checks.check_labels(labels, len(x))
    classes, counts = labels.cpu().unique(return_counts=True)
    least = samples_per_class or 2
    small = [f"{int(c)} ({int(n)})" for c, n in zip(classes, counts, strict=True) if n < least]
    if small:
        raise ValueError(
            f"`labels` must give every class at least {least} samples, got smaller classes, with "
            f"their sizes: {', '.join(small)}. Leave these out or lower `samples_per_class`."
        )
    rows = []
    for c, count in zip(classes.tolist(), counts.tolist(), strict=True):
        members = at_least_float32(x[labels.to(x.device) == c])
        size = samples_per_class or count
        order = shuffled(count, generator).to(x.device)
        clouds = members[order[: count - count % size]].unflatten(0, (-1, size))
        deaths = death_times(clouds, rule).flatten()
        rows.append(torch.quantile(deaths, deaths.new_tensor(list(quantiles))))
    with full_precision(x):
        return torch.stack(rows)


def _of_points(metric: MetricLike) -> Metric:
    """The metric, refused if it is not one of points."""
    rule = resolve_metric(metric)
    if rule.precomputed:
        raise ValueError("`metric` must be one of points, got 'precomputed'.")
    return rule
