"""What normalisers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.invariance import Residues, invariances
from relreps._core.state import FittedModule
from relreps.moments import RowMoments, elementwise, finite_moments, merged, row_moments
from relreps.normalization.maps import deviations


class AbstractNormalizer(nn.Module, ABC):
    """A map of rows ``(..., D) -> (..., D)``, fitted on reference rows, that says what it removes.

    A subclass declares `residues`: what is left behind it of each transformation of the space.
    """

    residues: Residues
    #: Whether reference rows sum to zero behind it, and so span one dimension less.
    centres: bool = False

    @property
    def invariant_to(self) -> frozenset[str]:
        """Transformations of rows and reference together that leave the output as it is."""
        return invariances(self.residues, frozenset())

    @abstractmethod
    def fit(self, x: Tensor) -> Self:
        """Take the statistics of the rows ``(N, D)``; earlier ones are forgotten."""

    def inverse(self, x: Tensor) -> Tensor:
        """Rows ``(..., D)`` in the original space, where the map is one-to-one."""
        raise ValueError(f"{self} has no inverse: it does not determine the row.")

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls; where there are no sums, `fit`."""
        return self.fit(x)

    @abstractmethod
    def relative_to(self, reference: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Fit on ``reference`` and map each of ``rows``, without state; gradients reach all."""

    @abstractmethod
    def _refit(self, x: Tensor) -> None:
        """`fit` without looking at values, for use inside ``forward``."""

    @abstractmethod
    def _adopt(self, other: AbstractNormalizer) -> None:
        """Take over the state of another instance of the same construction."""


class AbstractFittedNormalizer(FittedModule, AbstractNormalizer):
    """A normaliser with statistics of its own, one buffer each.

    A subclass names the buffers in `_statistics`, and gives `_solve` (statistics from moments,
    differentiable, blind to values), `_refuse` (what cannot be normalised) and `_map`.
    """

    mean: Tensor
    centres = True
    _statistics: tuple[str, ...]
    _product = staticmethod(elementwise)

    def __init__(self, in_features: int) -> None:
        super().__init__()
        checks.check_size("in_features", in_features)
        self.in_features = in_features
        self._seen: RowMoments | None = None
        self._missing = "Call `fit(anchors)` first."
        for name in self._statistics:
            self.register_buffer(name, torch.zeros(self._shape_of(name)))

    def fit(self, x: Tensor) -> Self:
        """Take the statistics of the rows ``(N, D)``; earlier ones are forgotten. O(ND)."""
        checks.check_rows("x", x, self.in_features)
        return self._learn(self._checked_moments(x), x.dtype)

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls, in constant memory.

        The result is that of one `fit` on all rows; until they suffice for that, it stays unfitted.
        The cost is that of `fit` on the new rows. The running sums are not in a checkpoint: to go
        on after loading, keep a `relreps.moments.FeatureMoments` of your own.
        """
        checks.check_rows("x", x, self.in_features, minimum=0)
        if self._fitted and self._seen is None:
            raise RuntimeError(
                f"{type(self).__name__} has statistics without their running sums, which are not "
                "in a checkpoint. Call `fit` to start anew."
            )
        new = self._checked_moments(x)
        if self._seen is not None:
            new = self._merged(_to(self._seen, new.total.device), new)
        try:
            return self._learn(new, x.dtype)
        except ValueError as error:
            self._seen = new
            self._missing = f"The rows of `partial_fit` do not suffice yet: {error}"
            return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows ``(..., D)`` with the fitted statistics."""
        return self._map(self._ready(x), *self._state())

    def inverse(self, x: Tensor) -> Tensor:
        """Rows ``(..., D)`` in the original space; constant features come back as their mean."""
        return self._unmap(self._ready(x), *self._state())

    def relative_to(self, reference: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Fit on ``reference`` and map each of ``rows``, without state; gradients reach all."""
        statistics = self._solve(self._moments(reference), reference.dtype)
        return tuple(self._map(x, *statistics) for x in rows)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"in_features={self.in_features}"

    # What a subclass gives.

    def _shape_of(self, statistic: str) -> tuple[int, ...]:
        return (self.in_features,)

    @abstractmethod
    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]: ...

    def _refuse(self, moments: RowMoments, dtype: torch.dtype) -> None:
        """Raise if no map follows from these moments. May look at values."""
        if not bool((deviations(moments, dtype) > 0).any()):
            raise ValueError(
                "`x` must vary in at least one feature, got rows that are all equal. "
                "Give at least two different rows."
            )

    @abstractmethod
    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor: ...

    @abstractmethod
    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor: ...

    # What it gets.

    def _moments(self, x: Tensor) -> RowMoments:
        return row_moments(x, product=self._product)

    def _merged(self, a: RowMoments, b: RowMoments) -> RowMoments:
        return merged(a, b, product=self._product)

    def _checked_moments(self, x: Tensor) -> RowMoments:
        with torch.no_grad():
            return finite_moments(self._moments, x)

    def _learn(self, moments: RowMoments, dtype: torch.dtype) -> Self:
        self._refuse(moments, dtype)
        statistics = self._solve(moments, dtype)
        for buffer, value in zip(self._state(), statistics, strict=True):
            if not bool(value.to(buffer.dtype).isfinite().all()):
                raise ValueError(
                    f"the statistics of `x` do not fit into {buffer.dtype}. Keep the normaliser in "
                    "a wider type, or bring the rows nearer to 1."
                )
        self._write(statistics)
        self._seen = moments
        return self

    def _adopt(self, other: AbstractNormalizer) -> None:
        if isinstance(other, AbstractFittedNormalizer):
            self._write(other._state())
            self._seen = other._seen

    def _refit(self, x: Tensor) -> None:
        with torch.no_grad():
            self._write(self._solve(self._moments(x), x.dtype))
        self._seen = None

    def _write(self, statistics: tuple[Tensor, ...]) -> None:
        for buffer, value in zip(self._state(), statistics, strict=True):
            buffer.copy_(value)
        self._mark_fitted()

    def _state(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self._statistics)

    def _ready(self, x: Tensor) -> Tensor:
        checks.check_features("x", x, self.in_features)
        self._require_fitted(self._missing)
        return x

    def _on_load(self) -> None:
        self._seen = None


def _to(moments: RowMoments, device: torch.device) -> RowMoments:
    return RowMoments(
        moments.total.to(device),
        tuple(m.to(device) for m in moments.means),
        tuple(s.to(device) for s in moments.scatters),
    )
