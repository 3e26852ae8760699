"""The topological densification loss: the death times of each cloud, drawn towards one scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32
from relreps.topo_loss.deaths import check_scale, spanning_lengths
from relreps.topo_loss.metric import Metric, on_host, parse_metric
from relreps.topo_loss.trees import METHODS, check_points

MODES = ("abs", "square", "hinge")
REDUCTIONS = ("mean", "sum", "none")


def topological_densification_loss(
    z: Tensor,
    scale: float,
    labels: Tensor | None = None,
    *,
    mode: str = "abs",
    metric: Metric = "l2",
    reduction: str = "mean",
    method: str = "auto",
) -> Tensor:
    r"""Draw the death times of each cloud towards one scale, :math:`\sum_e |d_e - \beta|`.

    The sum runs over the n - 1 `death_times` of a cloud. A class all of whose deaths stay below
    :math:`\beta` in small samples has to be dense; that edges below are drawn up to it keeps the
    class from collapsing (``"hinge"`` leaves them alone). A pair of duplicates counts with
    :math:`|0 - \beta|` and has no gradient: nothing says in which direction to part.

    Args:
        z: One cloud or a batch of clouds; with ``labels`` one batch of points; distances where the
            metric is ``"precomputed"``, where infinite ones join no points.
        scale: The scale :math:`\beta \ge 0`, in the unit of the metric.
        labels: Class of each point: each class is a cloud. On the eager CPU classes of one size go
            together; elsewhere all go in one spanning forest, and nothing waits for the device.
        mode: ``"abs"``, ``"square"`` for :math:`(d_e - \beta)^2`, ``"hinge"`` for
            :math:`\max(d_e - \beta, 0)`.
        metric: As in `death_times`.
        reduction: ``"none"``: one value a cloud, classes ascending; the number of classes depends
            on the data, so with ``labels`` this one waits for the device and is refused by
            ``torch.compile`` and meta. ``"sum"``: their sum. ``"mean"``: their mean over the clouds
            of at least two points, 0 if there are none. The weights in the papers are for the mean.
        method: As in `death_times`.

    Shape:
        - z: :math:`(*, n, D)`, with labels :math:`(n, D)`; labels: :math:`(n,)`. Output: a scalar;
          for ``"none"`` :math:`(*)` or :math:`(C,)`.

    Raises:
        TypeError, ValueError: As `death_times`; a negative scale, an unknown mode or reduction,
            labels that are not one integer a point.

    Example:
        >>> z = torch.tensor([[0.0], [5.0], [1.0], [1.5]])
        >>> topological_densification_loss(z, 2.0, reduction="sum")
        tensor(4.)
        >>> labels = torch.tensor([0, 1, 0, 1])
        >>> topological_densification_loss(z, 2.0, labels, reduction="none")
        tensor([1.0000, 1.5000])

    References:
        Hofer et al., arXiv:2002.04805; relative representations: arXiv:2409.10967.
    """
    _check_options(scale, mode, metric, reduction, method)
    check_points("z", z, metric)
    dtype, z = z.dtype, at_least_float32(z)
    if labels is None:
        values = _cloud_values(z, None, scale, mode, metric, method).sum(-1)
        clouds = values.numel() if z.shape[-2] > 1 else 0
        return _reduced(values, reduction, clouds).to(dtype)
    if z.dim() != 2:
        raise ValueError(
            f"`z` must have shape (n, D) with `labels`, got {tuple(z.shape)}. Give either one "
            "batch of labelled points or a batch of clouds."
        )
    checks.check_labels(labels, len(z))
    if on_host(z) or (reduction == "none" and checks.eager() and not z.is_meta):
        return _by_class(z, scale, labels, mode, metric, reduction, method).to(dtype)
    if reduction == "none":
        raise ValueError(
            "`reduction` 'none' with `labels` has one value a class, a number that depends on the "
            "data: not under torch.compile or on meta. Use 'mean' or 'sum', or a batch of clouds."
        )
    return _by_forest(z, scale, labels, mode, metric, reduction, method).to(dtype)


class TopologicalDensificationLoss(nn.Module):
    r"""Draw the death times of each class towards one scale, :math:`\sum_e |d_e - \beta|`.

    See `topological_densification_loss`, of which this remembers the options. It has no state.

    Args:
        scale: The scale :math:`\beta \ge 0`, in the unit of the metric.
        mode: ``"abs"``, ``"square"`` or ``"hinge"``.
        metric: As in `death_times`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        method: As in `death_times`.

    Shape:
        - z: :math:`(*, n, D)`, with labels :math:`(n, D)`; labels: :math:`(n,)`. Output: a scalar;
          for ``"none"`` :math:`(*)` or :math:`(C,)`.

    Example:
        >>> loss = TopologicalDensificationLoss(2.0, mode="hinge")
        >>> loss(torch.tensor([[0.0], [5.0], [1.0]]))
        tensor(2.)

    References:
        Hofer et al., arXiv:2002.04805.
    """

    def __init__(
        self,
        scale: float,
        *,
        mode: str = "abs",
        metric: Metric = "l2",
        reduction: str = "mean",
        method: str = "auto",
    ) -> None:
        super().__init__()
        _check_options(scale, mode, metric, reduction, method)
        self.scale = scale
        self.mode = mode
        self.metric = metric
        self.reduction = reduction
        self.method = method

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of points ``(n, D)`` with labels ``(n,)``, or of clouds ``(..., n, D)``."""
        return topological_densification_loss(
            z,
            self.scale,
            labels,
            mode=self.mode,
            metric=self.metric,
            reduction=self.reduction,
            method=self.method,
        )

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"{self.scale}, mode={self.mode!r}, metric={self.metric!r}, "
            f"reduction={self.reduction!r}, method={self.method!r}"
        )


def _by_class(
    z: Tensor,
    scale: float,
    labels: Tensor,
    mode: str,
    metric: Metric,
    reduction: str,
    method: str,
) -> Tensor:
    """Classes of one size at a time, as a batch of clouds. Synchronises."""
    _, counts = labels.unique(return_counts=True)
    members = labels.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    square = parse_metric(metric)[0] == "precomputed"
    values, classes = [z.flatten()[:0]], [starts[:0]]
    for size in counts.unique().tolist():
        at = (counts == size).nonzero().flatten()
        rows = members[starts[at, None] + torch.arange(size, device=z.device)]
        clouds = z[rows[:, :, None], rows[:, None]] if square else z[rows]
        values.append(_cloud_values(clouds, None, scale, mode, metric, method).sum(-1))
        classes.append(at)
    ascending = torch.cat(values)[torch.cat(classes).argsort()]
    return _reduced(ascending, reduction, int((counts > 1).sum()))


def _by_forest(
    z: Tensor,
    scale: float,
    labels: Tensor,
    mode: str,
    metric: Metric,
    reduction: str,
    method: str,
) -> Tensor:
    """All classes at once: points of different classes are infinitely far apart."""
    values = _cloud_values(z, labels, scale, mode, metric, method)
    ordered = labels.sort().values
    more = ordered[1:] == ordered[:-1]
    clouds = more.sum() - (more[1:] & more[:-1]).sum()  # runs of equal labels
    return _reduced(values, reduction, clouds)


def _cloud_values(
    z: Tensor, groups: Tensor | None, scale: float, mode: str, metric: Metric, method: str
) -> Tensor:
    """Penalty of each edge; none for what is no edge."""
    lengths, exist = spanning_lengths(z, metric, method, groups)
    if groups is not None or parse_metric(metric)[0] == "precomputed":
        # Before any arithmetic: zero times the gradient of an infinite number is NaN.
        lengths = torch.where(exist, lengths, scale)
    excess = lengths - scale
    if mode == "abs":
        return excess.abs()
    return excess.square() if mode == "square" else excess.relu()


def _reduced(values: Tensor, reduction: str, clouds: int | Tensor) -> Tensor:
    """Values as they are, their sum, or their mean over ``clouds``."""
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    return total / (clouds.clamp(min=1) if isinstance(clouds, Tensor) else max(clouds, 1))


def _check_options(scale: float, mode: str, metric: Metric, reduction: str, method: str) -> None:
    check_scale(scale)
    checks.check_choice("mode", mode, MODES)
    checks.check_choice("reduction", reduction, REDUCTIONS)
    checks.check_choice("method", method, METHODS)
    parse_metric(metric)
