"""Streaming measures as metrics of torchmetrics: ``pip install 'relreps[torchmetrics]'``.

They take ``(x, y)``, paired rows of two spaces, and do what every metric there does: `forward` for
the value of a batch, synchronisation between processes, collections, logging by Lightning.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relreps import metrics
from relreps._core import checks
from relreps._core.optional import require

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    Metric = require("torchmetrics", extra="torchmetrics", purpose=__name__).Metric

__all__ = ["CKA", "MutualKNN", "RetrievalScores"]


class CKA(Metric):
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

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    moments: Tensor

    def __init__(
        self, in_features: int, out_features: int, debiased: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self._make = partial(metrics.CKA, in_features, out_features, debiased)
        empty = _packed(self._make())
        self.add_state("moments", empty, dist_reduce_fx=partial(_merged, self._make))

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add paired rows."""
        self.moments = _packed(_unpacked(self._make, self.moments).update(x, y))

    def compute(self) -> Tensor:
        """CKA of all rows so far."""
        return _unpacked(self._make, self.moments).compute()


class _Rows(Metric):
    """Keeps rows, which torchmetrics joins in the order of the ranks."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    x: list[Tensor]
    y: list[Tensor]

    def __init__(self, make: Callable[[], Any], **options: Any) -> None:
        super().__init__(**options)
        self._make = make
        self.add_state("x", [], dist_reduce_fx="cat")
        self.add_state("y", [], dist_reduce_fx="cat")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add paired rows."""
        self._make().update(x, y)  # for its checks
        for name, rows, seen in (("x", x, self.x), ("y", y, self.y)):
            checks.check_rows(name, rows, seen[0].shape[1] if seen else None, minimum=0)
        # Copies, because the next batch may come in the same memory.
        self.x.append(x.detach().clone())
        self.y.append(y.detach().clone())

    def _filled(self) -> Any:
        """The measure with all rows."""
        measure = self._make()
        # States that were synchronised are tensors, others are lists.
        sides = ([rows] if isinstance(rows, Tensor) else rows for rows in (self.x, self.y))
        for x, y in zip(*sides, strict=True):
            measure.update(x, y)
        return measure


class RetrievalScores(_Rows):
    """`relreps.metrics.RetrievalScores` as a metric, whose value is a dictionary.

    Args:
        k: As in `relreps.metrics.retrieval_scores`.
        options: What every metric takes, such as ``compute_on_cpu``.
    """

    def __init__(self, k: int = 10, **options: Any) -> None:
        super().__init__(partial(metrics.RetrievalScores, k), **options)

    def compute(self) -> dict[str, Tensor]:
        """The measures of all rows so far, by name."""
        scores: dict[str, Tensor] = self._filled().compute()._asdict()
        return scores


class MutualKNN(_Rows):
    """`relreps.metrics.MutualKNN` as a metric.

    Args:
        k: As in `relreps.metrics.mutual_knn`.
        calibrated: As in `relreps.metrics.mutual_knn`.
        options: What every metric takes, such as ``compute_on_cpu``.
    """

    def __init__(self, k: int = 10, calibrated: bool = False, **options: Any) -> None:
        super().__init__(partial(metrics.MutualKNN, k, calibrated), **options)

    def compute(self) -> Tensor:
        """The measure of all rows so far."""
        value: Tensor = self._filled().compute()
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
