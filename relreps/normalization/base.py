"""What normalisers have in common: statistics are returned, and only `remember` writes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import Residues, invariances
from relreps._core.linalg import at_least_float32
from relreps._core.state import FittedModule, Stateful, write_all
from relreps.moments import RowMoments, elementwise, outer, row_moments
from relreps.moments.rows import moments_in_units, moments_of_any_size
from relreps.moments.value import Product, times

#: What a normaliser takes from reference rows: tensors, or for a chain one such tuple a part.
Statistics = tuple[Any, ...]


class Affine(NamedTuple):
    """A normaliser as ``(x - shift) * factor``, and back; None stands for nothing to do.

    Attributes:
        shift: What is subtracted, ``(D,)``; after it the reference rows sum to zero.
        factor: One number a feature, one for all, or a matrix ``(D, D)`` from the right.
        inverse: What undoes ``factor``.
    """

    shift: Tensor | None = None
    factor: Tensor | None = None
    inverse: Tensor | None = None


class Normalizer(Stateful, ABC):
    """A map of rows ``(..., D) -> (..., D)``, fitted on reference rows, that says what it removes.

    `statistics_of` takes from reference rows what `map` needs, and changes nothing; `remember`
    keeps it for `forward`. So a normaliser can be tried, and refused, without being touched. A
    subclass declares `residues`: what is left after it of each transformation of the space.
    """

    residues: Residues
    #: Whether reference rows sum to zero after it, and so span one dimension less.
    centers: bool = False
    #: Whether it begins by bringing each row to length one, which no moments can tell.
    unit_rows: bool = False
    #: The second moments it is fitted on: `elementwise` (variances) or `outer` (covariances).
    product: Product = staticmethod(elementwise)

    @property
    def invariant_to(self) -> frozenset[str]:
        """Transformations of rows and reference together that leave the output as it is."""
        return invariances(self.residues, frozenset())

    def fit(self, x: Tensor) -> Self:
        """Take the statistics of the rows ``(N, D)``; earlier ones are forgotten."""
        return self.remember(self.checked_statistics_of(x))

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls; where there are no sums, `fit`."""
        return self.fit(x)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows ``(..., D)`` with the fitted statistics."""
        return self.map(x, self._remembered(x))

    def inverse(self, x: Tensor) -> Tensor:
        """Rows ``(..., D)`` in the original space, where the map is one-to-one."""
        return self.unmap(x, self._remembered(x))

    @abstractmethod
    def statistics_of(self, x: Tensor) -> Statistics:
        """Statistics of reference rows ``(N, D)``: differentiable, blind to values, without state.

        For use inside a ``forward``: it never waits for the device.
        """

    @abstractmethod
    def checked_statistics_of(self, x: Tensor) -> Statistics:
        """The same, without gradient, for rows that were looked at: raises where `fit` does."""

    @abstractmethod
    def map(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows ``(..., D)`` normalised by given statistics."""

    def unmap(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows ``(..., D)`` back in the original space."""
        raise ValueError(f"{self} has no inverse: it does not determine the row.")

    @abstractmethod
    def remember(self, statistics: Statistics) -> Self:
        """Keep statistics for `forward`."""

    def writes(self, statistics: Statistics) -> list[tuple[Tensor, Tensor]]:
        """The buffers that `remember` fills, and with what."""
        return []

    def check_affine(self) -> None:
        """Raise if it is not an affine map of rows, or of unit rows if `unit_rows`."""

    def refuse(self, moments: RowMoments, name: str = "x") -> None:
        """Raise if no map follows from these moments. May look at values."""

    @abstractmethod
    def affine(self, moments: RowMoments) -> Affine:
        """The map that follows from the moments of one space, for a translator.

        Args:
            moments: Of one side, after each row was brought to length one if `unit_rows`.
        """

    @abstractmethod
    def _remembered(self, x: Tensor) -> Statistics:
        """What `forward` uses, once ``x`` and this have been found to be fit for it."""


class AffineNormalizer(FittedModule, Normalizer):
    """A normaliser that follows from means and second moments, with one buffer a statistic.

    A subclass gives `statistics` (from moments; differentiable, blind to values), `to_affine`
    (what they do to a row), and, where they are not one number a feature, `shapes`:

    .. code-block:: python

        class HalfScale(AffineNormalizer):
            residues = residues(translation=ABSORBED, affine="linear", sample_scale=BROKEN)

            def statistics(self, moments):
                return (moments.means[0],)

            def to_affine(self, mean):
                return Affine(mean, torch.full_like(mean, 0.5), torch.full_like(mean, 2.0))

    Args:
        in_features: Number of features D.
    """

    mean: Tensor
    centers = True

    def __init__(self, in_features: int) -> None:
        super().__init__()
        in_features = checks.check_size("in_features", in_features)
        self.in_features = in_features
        self._seen: RowMoments | None = None
        self._missing = "Call `fit(anchors)` first."
        shapes = self.shapes()
        self._names = tuple(shapes)
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    # What a subclass gives.

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the statistics, in the order of `statistics`."""
        return {"mean": (self.in_features,)}

    @abstractmethod
    def statistics(self, moments: RowMoments) -> tuple[Tensor, ...]:
        """What follows from moments of reference rows: differentiable, blind to values."""

    @abstractmethod
    def to_affine(self, *statistics: Tensor) -> Affine:
        """What these statistics do to a row."""

    def refuse(self, moments: RowMoments, name: str = "x") -> None:
        """Raise if no map follows from these moments. May look at values."""
        if not bool((moments.deviations() > 0).any()):
            raise ValueError(
                f"`{name}` must vary in at least one feature, got rows that are all equal. "
                "Give at least two different rows."
            )

    def refuse_statistics(
        self, moments: RowMoments, statistics: tuple[Tensor, ...], name: str = "x"
    ) -> None:
        """As `refuse`, where the statistics are known already, which some have to look at."""
        self.refuse(moments, name)

    # What it gets.

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls, in constant memory.

        The result is that of one `fit` on all rows; where they do not suffice for that, it is
        unfitted until they do. The cost is that of `fit` on the new rows. The running sums are not
        in a checkpoint: to go on after loading, keep a `FeatureMoments` of your own.
        """
        checks.check_rows("x", x, self.in_features, minimum=0)
        if self._fitted and self._seen is None:
            raise RuntimeError(
                f"{type(self).__name__} has statistics without their running sums, which are not "
                "in a checkpoint. Call `fit` to start anew."
            )
        new = self._finite_moments(x)
        if self._seen is not None:
            new = self._seen.to(new.total.device) + new
        try:
            statistics = self._checked(new)
        except ValueError as error:
            self._missing = f"The rows of `partial_fit` do not suffice yet: {error}"
            self.mark_fitted(False)
            self._seen = new
            return self
        return self._write(statistics, new)

    def fit(self, x: Tensor) -> Self:
        """Take the statistics of the rows ``(N, D)``; earlier ones are forgotten. O(ND)."""
        checks.check_rows("x", x, self.in_features)
        moments = self._finite_moments(x)
        statistics = self._checked(moments)
        if self._fitted:
            self._seen = None  # were the next step interrupted, `partial_fit` would notice it
        return self._write(statistics, moments)

    def statistics_of(self, x: Tensor) -> tuple[Tensor, ...]:
        """Statistics of reference rows ``(N, D)``: differentiable, blind to values."""
        return self.statistics(moments_in_units(self._take, x))

    def checked_statistics_of(self, x: Tensor) -> tuple[Tensor, ...]:
        """The same, without gradient, for rows that were looked at: raises where `fit` does."""
        checks.check_rows("x", x, self.in_features)
        return self._checked(self._finite_moments(x))

    def remember(self, statistics: Statistics) -> Self:
        """Keep statistics for `forward`, in one step."""
        self._seen = None
        return self._write(statistics, None)

    def writes(self, statistics: Statistics) -> list[tuple[Tensor, Tensor]]:
        """The buffers that `remember` fills, and with what."""
        named = zip(self._names, statistics, strict=True)
        pairs = [(getattr(self, name), value) for name, value in named]
        return [*pairs, (self.fitted, torch.ones_like(self.fitted))]

    def _write(self, statistics: Statistics, seen: RowMoments | None) -> Self:
        write_all(self.writes(statistics))
        # Last, so that rows of a call that was interrupted do not count and may come again.
        self._seen, self._fitted = seen, True
        return self

    def affine(self, moments: RowMoments) -> Affine:
        """The map that follows from the moments of one space, for a translator."""
        return self.to_affine(*self.statistics(moments))

    def map(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows ``(..., D)`` normalised by given statistics, ``(x - shift) * factor``."""
        shift, factor, _ = self.to_affine(*statistics)
        wide = at_least_float32(x)
        moved = wide if shift is None else wide - shift.to(wide.dtype)
        return times(moved, factor).to(x.dtype)

    def unmap(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows ``(..., D)`` back in the original space."""
        shift, _, inverse = self.to_affine(*statistics)
        wide = times(at_least_float32(x), inverse)
        return (wide if shift is None else wide + shift.to(wide.dtype)).to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"in_features={self.in_features}"

    def _take(self, x: Tensor) -> RowMoments:
        # Covariances are taken apart, so they are float64: one extreme row would otherwise decide
        # how exact all directions are, and how exact depend on the chunk that it is in.
        return row_moments(x, product=self.product, exact=self.product is outer)

    @torch.no_grad()
    def _finite_moments(self, x: Tensor) -> RowMoments:
        return moments_of_any_size(self._take, x)

    @torch.no_grad()
    def _checked(self, moments: RowMoments) -> tuple[Tensor, ...]:
        """Statistics as the buffers will hold them, so that trying them is what comes of them."""
        found = self.statistics(moments)
        self.refuse_statistics(moments, found)
        named = zip(self._names, found, strict=True)
        statistics = tuple(value.to(getattr(self, name)) for name, value in named)
        for name, value, held in zip(self._names, found, statistics, strict=True):
            if not bool(held.isfinite().all()) or _vanished(name, value, held):
                size = value.abs()
                raise ValueError(
                    f"the statistics of `x` do not fit into {held.dtype}: `{name}` goes from "
                    f"{float(size.min()):.3g} to {float(size.max()):.3g}. Keep the normaliser in a "
                    "wider type, or bring the rows nearer to 1."
                )
        return statistics

    def _remembered(self, x: Tensor) -> tuple[Tensor, ...]:
        checks.check_features("x", x, self.in_features)
        self.require_fitted(self._missing)
        return tuple(getattr(self, name) for name in self._names)

    def _on_load(self) -> None:
        self._seen = None


def _vanished(name: str, value: Tensor, held: Tensor) -> bool:
    """Whether something is 0 in a type and was not: of a matrix a row, of others any number."""
    if name.startswith("mean") or held.dtype == value.dtype:  # what is added may vanish
        return False
    rows = [t.any(-1) if t.dim() > 1 else t != 0 for t in (value, held.to(value.device))]
    return not torch.equal(*rows)
