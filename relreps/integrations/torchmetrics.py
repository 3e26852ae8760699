"""Streaming measures as metrics of torchmetrics: ``pip install 'relreps[torchmetrics]'``.

They take ``(x, y)``, paired rows of two spaces, and do what every metric there does: `forward` for
the value of a batch, synchronisation between processes, collections, logging by Lightning.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from relreps import metrics
from relreps._core import checks
from relreps._core.distributed import check_agreement
from relreps._core.optional import require
from relreps._core.warnings import warn

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    Metric = require("torchmetrics", extra="torchmetrics", purpose=__name__).Metric

from torchmetrics.utilities.distributed import gather_all_tensors

__all__ = ["CKA", "MutualKNN", "RetrievalScores"]


class _Measure(Metric):
    """What the metrics here share: a value of any batch, a failed call that changes nothing.

    `forward` gives NaN with a `NumericalWarning` for a batch that is too small for the measure, as
    the last one of an epoch may be; its rows count.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, make: partial[Any], fewest: int, **options: Any) -> None:
        super().__init__(**options)
        self._make, self._fewest = make, fewest
        self._in_forward = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The measure of one batch, which is added to those before."""
        states = {name: getattr(self, name) for name in self._defaults}
        lists = {name: [*state] for name, state in states.items() if isinstance(state, list)}
        before = {**self.__dict__, **lists}  # as a reset empties lists in place
        self._in_forward = True
        try:
            value = super().forward(*args, **kwargs)
        except BaseException:
            self.__dict__.update(before)  # its states were put aside for the batch
            raise
        self._in_forward = False
        return value

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """A figure and axes with one value or several: by default that of `compute`.

        Args:
            val: What `compute` or `forward` gave, or a list of such values, one a step.
            ax: Axes to draw into; new ones by default.
        """
        return self._plot(val, ax)

    def _lacks_rows(self, rows: int) -> bool:
        """Whether a batch has too few; warns if so."""
        few = self._in_forward and rows < self._fewest
        if few:
            warn(
                f"The batch has {rows} rows, and {self._call()} needs {self._fewest}: its own "
                "value is NaN. It is added to the others, and `compute` counts its rows."
            )
        return few

    def _check_agreement(self, group: Any) -> None:
        """Refuse, in every process, to put different measures together."""
        if dist.is_available() and dist.is_initialized():
            check_agreement("The metric", self._call(), group or self.process_group)

    def _call(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._make.args))})"


class CKA(_Measure):
    """`relreps.metrics.CKA` as a metric; its state is one vector of float64.

    Args:
        in_features: Width of ``x``.
        out_features: Width of ``y``.
        debiased: As in `relreps.metrics.linear_cka`.
        options: What every metric takes, such as ``sync_on_compute``.

    Example:
        >>> from relreps.integrations.torchmetrics import CKA
        >>> x = torch.randn(20, 3)
        >>> round(float(CKA(3, 3)(x, 2 * x)), 6)
        1.0
    """

    moments: Tensor

    def __init__(
        self, in_features: int, out_features: int, debiased: bool = False, **options: Any
    ) -> None:
        make = partial(metrics.CKA, in_features, out_features, debiased)
        super().__init__(make, 4 if debiased else 2, **options)
        self.add_state("moments", _packed(make()), dist_reduce_fx=partial(_merged, make))

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add paired rows."""
        self.moments = _packed(_unpacked(self._make, self.moments).update(x, y))

    def compute(self) -> Tensor:
        """CKA of all rows so far."""
        measure = _unpacked(self._make, self.moments)
        if self._lacks_rows(int(measure.moments.count)):
            return self.moments.new_tensor(torch.nan)
        return measure.compute()

    def _sync_dist(self, dist_sync_fn: Any = gather_all_tensors, process_group: Any = None) -> None:
        self._check_agreement(process_group)
        super()._sync_dist(dist_sync_fn, process_group)


class _Rows(_Measure):
    """Keeps rows, which are joined in the order of the ranks."""

    x: list[Tensor]
    y: list[Tensor]

    def __init__(self, make: partial[Any], fewest: int, **options: Any) -> None:
        super().__init__(make, fewest, **options)
        self.add_state("x", [], dist_reduce_fx="cat")
        self.add_state("y", [], dist_reduce_fx="cat")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add paired rows."""
        self._make().update(x, y)  # for its checks
        for name, rows, seen in (("x", x, self.x), ("y", y, self.y)):
            checks.check_rows(name, rows, seen[0].shape[1] if seen else None, minimum=0)
        # Copies, because the next batch may come in the same memory.
        x, y = x.detach().clone(), y.detach().clone()
        self.x, self.y = [*self.x, x], [*self.y, y]

    def _filled(self) -> Any:
        """The measure with all rows."""
        measure = self._make()
        # States that were synchronised are tensors, others are lists.
        sides = ([rows] if isinstance(rows, Tensor) else rows for rows in (self.x, self.y))
        for x, y in zip(*sides, strict=True):
            measure.update(x, y)
        return measure

    def _sync_dist(self, dist_sync_fn: Any = gather_all_tensors, process_group: Any = None) -> None:
        if dist_sync_fn is not gather_all_tensors:
            self._check_agreement(process_group)
            super()._sync_dist(dist_sync_fn, process_group)
            return
        # A process without rows knows no width, and would be waited for in vain.
        whole = self._filled().all_reduce(process_group or self.process_group)
        sides = whole.rows() if whole.count else ()
        self.x, self.y = ([side] for side in sides) if sides else ([], [])


class RetrievalScores(_Rows):
    """`relreps.metrics.RetrievalScores` as a metric, whose value is a dictionary.

    Args:
        k: As in `relreps.metrics.retrieval_scores`.
        options: What every metric takes, such as ``compute_on_cpu``.
    """

    plot_lower_bound = -1.0  # that of the cosine

    def __init__(self, k: int = 10, **options: Any) -> None:
        super().__init__(partial(metrics.RetrievalScores, k), k, **options)

    def compute(self) -> dict[str, Tensor]:
        """The measures of all rows so far, by name."""
        measure = self._filled()
        if self._lacks_rows(measure.count):
            nan = torch.tensor(torch.nan, device=self.device)
            return {name: nan.clone() for name in metrics.RetrievalResult._fields}
        scores: dict[str, Tensor] = measure.compute()._asdict()
        return scores


class MutualKNN(_Rows):
    """`relreps.metrics.MutualKNN` as a metric.

    Args:
        k: As in `relreps.metrics.mutual_knn`.
        calibrated: As in `relreps.metrics.mutual_knn`.
        options: What every metric takes, such as ``compute_on_cpu``.
    """

    def __init__(self, k: int = 10, calibrated: bool = False, **options: Any) -> None:
        fewest = k + 1 + bool(calibrated)
        super().__init__(partial(metrics.MutualKNN, k, calibrated), fewest, **options)

    def compute(self) -> Tensor:
        """The measure of all rows so far."""
        measure = self._filled()
        if self._lacks_rows(measure.count):
            return torch.tensor(torch.nan, device=self.device)
        value: Tensor = measure.compute()
        return value


def _packed(measure: metrics.CKA) -> Tensor:
    """All that a measure has seen, in one vector."""
    return torch.cat([buffer.flatten() for buffer in measure.buffers()])


def _unpacked(make: Callable[[], metrics.CKA], state: Tensor) -> metrics.CKA:
    """The measure that has seen it."""
    measure = make().to(state.device)
    buffers = list(measure.buffers())
    for buffer, part in zip(buffers, state.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
    return measure


def _merged(make: Callable[[], metrics.CKA], states: Tensor) -> Tensor:
    """Several of these vectors, stacked, as one."""
    measures = (_unpacked(make, state) for state in states)
    return _packed(reduce(lambda a, b: a.merge(b), measures))
