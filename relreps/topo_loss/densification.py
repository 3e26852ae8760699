"""The topological densification loss: the death times of each cloud, drawn towards one scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision
from relreps._core.warnings import warn
from relreps.topo_loss.deaths import check_scale
from relreps.topo_loss.kinds import MetricLike, resolve_metric
from relreps.topo_loss.metric import Metric
from relreps.topo_loss.trees import check_method, spanning_lengths

Function: TypeAlias = Callable[[Tensor], Tensor]

_PENALTIES: dict[str, Function] = {"abs": torch.abs, "square": torch.square, "hinge": torch.relu}
_REDUCTIONS = ("mean", "sum", "none")


def topological_densification_loss(
    z: Tensor,
    scale: float,
    labels: Tensor | None = None,
    *,
    mode: str | Function = "abs",
    metric: MetricLike = "l2",
    reduction: str | Function = "mean",
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
            :math:`\max(d_e - \beta, 0)`, or a callable that takes the excesses
            :math:`d_e - \beta` entry by entry.
        metric: As in `death_times`.
        reduction: ``"none"``: one value a cloud, classes ascending; the number of classes depends
            on the data, so with ``labels`` this one waits for the device and is refused by
            ``torch.compile`` and meta. ``"sum"``: their sum. ``"mean"``: their mean over the clouds
            of at least two points, 0 if there are none. The weights in the papers are for the mean.
            A callable takes what ``"none"`` gives.
        method: As in `death_times`.

    Shape:
        - z: :math:`(*, n, D)`, with labels :math:`(n, D)`; labels: :math:`(n,)`. Output: a scalar;
          for ``"none"`` :math:`(*)` or :math:`(C,)`.

    Raises:
        TypeError, ValueError: As `death_times`; a negative scale, an unknown mode or reduction,
            labels that are not one integer a point.

    Warns:
        NumericalWarning: No two points are of one class; where classes are looked at one by one,
            on the eager CPU.

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
    check_scale(scale)
    return _densification(z, scale, labels, _checked(mode, metric, reduction, method))


class TopologicalDensificationLoss(nn.Module):
    r"""Draw the death times of each class towards one scale, :math:`\sum_e |d_e - \beta|`.

    See `topological_densification_loss`, of which this remembers the options. It has no state.
    The options are checked here, once; of them only ``scale`` may be set anew.

    Args:
        scale: The scale :math:`\beta \ge 0`, in the unit of the metric.
        mode: ``"abs"``, ``"square"``, ``"hinge"`` or a callable on :math:`d_e - \beta`.
        metric: As in `death_times`.
        reduction: ``"mean"``, ``"sum"``, ``"none"`` or a callable on one value a cloud.
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
        mode: str | Function = "abs",
        metric: MetricLike = "l2",
        reduction: str | Function = "mean",
        method: str = "auto",
    ) -> None:
        super().__init__()
        check_scale(scale)
        self._options = _checked(mode, metric, reduction, method)
        self.scale = scale
        self.mode = mode
        self.metric = metric
        self.reduction = reduction
        self.method = method

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of points ``(n, D)`` with labels ``(n,)``, or of clouds ``(..., n, D)``."""
        return _densification(z, self.scale, labels, self._options)

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"{self.scale}, mode={self.mode!r}, metric={self.metric!r}, "
            f"reduction={self.reduction!r}, method={self.method!r}"
        )


class _Options(NamedTuple):
    """What has been checked, and what it stands for."""

    penalty: Function
    metric: Metric
    reduction: str | Function
    method: str


def _checked(
    mode: str | Function, metric: MetricLike, reduction: str | Function, method: str
) -> _Options:
    if not callable(mode):
        checks.check_choice("mode", mode, _PENALTIES)
        mode = _PENALTIES[mode]
    if not callable(reduction):
        checks.check_choice("reduction", reduction, _REDUCTIONS)
    check_method(method)
    return _Options(mode, resolve_metric(metric), reduction, method)


def _densification(z: Tensor, scale: float, labels: Tensor | None, options: _Options) -> Tensor:
    """The loss, of options that have been checked."""
    options.metric.check("z", z)
    if labels is not None:
        if z.dim() != 2:
            raise ValueError(
                f"`z` must have shape (n, D) with `labels`, got {tuple(z.shape)}. Give either one "
                "batch of labelled points or a batch of clouds."
            )
        checks.check_labels(labels, len(z))
    waits = checks.on_host(z) or (_one_a_class(options) and checks.eager() and not z.is_meta)
    dtype, z = z.dtype, at_least_float32(z)
    with full_precision(z):
        if labels is None:
            values = _penalties(z, scale, options).sum(-1)
            total = _reduced(values, options, values.numel() if z.shape[-2] > 1 else 0)
        else:
            total = (_by_class if waits else _by_forest)(z, scale, labels, options)
    return total.to(dtype)


def _one_a_class(options: _Options) -> bool:
    return options.reduction not in ("mean", "sum")


def _by_class(z: Tensor, scale: float, labels: Tensor, options: _Options) -> Tensor:
    """Classes of one size at a time, as a batch of clouds. Synchronises."""
    _, counts = labels.unique(return_counts=True)
    members = labels.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    values, classes = [z.flatten()[:0]], [starts[:0]]
    for size in counts.unique().tolist():
        at = (counts == size).nonzero().flatten()
        rows = members[starts[at, None] + torch.arange(size, device=z.device)]
        clouds = options.metric.take(z, rows)
        values.append(_penalties(clouds, scale, options).sum(-1))
        classes.append(at)
    if len(z) > 1 and int(counts.max()) == 1:
        warn(
            f"No two of the {len(z)} points are of one class, so there is nothing to connect: the "
            "loss is 0 and so is its gradient. Draw several points of a class for every batch, for "
            "example with `ClassBatchSampler`."
        )
    ascending = torch.cat(values)[torch.cat(classes).argsort()]
    return _reduced(ascending, options, int((counts > 1).sum()))


def _by_forest(z: Tensor, scale: float, labels: Tensor, options: _Options) -> Tensor:
    """All classes at once: points of different classes are infinitely far apart."""
    if _one_a_class(options):
        raise ValueError(
            "`reduction` 'none' with `labels`, or a callable, needs one value a class, and their "
            "number depends on the data: not under torch.compile or on meta. Use 'mean' or 'sum', "
            "or a batch of clouds."
        )
    values = _penalties(z, scale, options, labels)
    ordered = labels.sort().values
    more = ordered[1:] == ordered[:-1]
    clouds = more.sum() - (more[1:] & more[:-1]).sum()  # runs of equal labels
    return _reduced(values, options, clouds)


def _penalties(z: Tensor, scale: float, options: _Options, groups: Tensor | None = None) -> Tensor:
    """Penalty of each edge; none for what is no edge."""
    lengths, exist = spanning_lengths(z, options.metric, options.method, groups)
    partial = groups is not None or options.metric.precomputed
    if partial:
        # Before any arithmetic: zero times the gradient of an infinite number is NaN.
        lengths = torch.where(exist, lengths, scale)
    values = options.penalty(lengths - scale)
    if values.shape != lengths.shape:
        raise ValueError(
            f"`mode` must keep the shape of what it is called on, {tuple(lengths.shape)}, got "
            f"{tuple(values.shape)}. Give a function that works entry by entry."
        )
    return torch.where(exist, values, 0) if partial else values


def _reduced(values: Tensor, options: _Options, clouds: int | Tensor) -> Tensor:
    """Values as they are, a function of them, their sum, or their mean over ``clouds``."""
    if callable(options.reduction):
        return options.reduction(values)
    if options.reduction == "none":
        return values
    total = values.sum()
    if options.reduction == "sum":
        return total
    return total / (clouds.clamp(min=1) if isinstance(clouds, Tensor) else max(clouds, 1))
