"""Normalisers one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from torch import Tensor, nn

from relreps._core.invariance import Residues, residues, then
from relreps._core.modules import refuse_class
from relreps._core.state import write_all
from relreps.moments import RowMoments, elementwise, outer
from relreps.moments.value import Product
from relreps.normalization.base import Affine, Normalizer, Statistics


class NormalizerChain(Normalizer):
    """Normalisers one after the other, each fitted on what the ones before it make of the rows.

    Args:
        normalizers: At least one; those with ``in_features`` must agree on it.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: No normalisers, or different widths.

    Example:
        >>> chain = NormalizerChain(Center(2), UnitNorm())
        >>> chain.fit(torch.tensor([[1.0, 1.0], [3.0, 1.0]]))(torch.tensor([[2.0, 6.0]]))
        tensor([[0., 1.]])
    """

    def __init__(self, *normalizers: Normalizer) -> None:
        super().__init__()
        for i, normalizer in enumerate(normalizers):
            refuse_class(f"normalizers[{i}]", normalizer)
            if not isinstance(normalizer, Normalizer):
                came = type(normalizer).__name__
                raise TypeError(f"`normalizers[{i}]` must be a normaliser of relreps, got {came}.")
        widths = [n.in_features for n in normalizers if hasattr(n, "in_features")]
        if not normalizers or len(set(widths)) > 1:
            raise ValueError(
                "`normalizers` must be one or more of the same width, got "
                f"{', '.join(str(n) for n in normalizers) or 'none'}."
            )
        self.normalizers = nn.ModuleList(normalizers)
        if widths:
            self.in_features = widths[0]

    @property
    def residues(self) -> Residues:  # type: ignore[override]
        """What is left of each transformation after all of them."""
        left: Residues = residues()
        for normalizer in self:
            left = then(left, normalizer.residues)
        return left

    @property
    def centers(self) -> bool:  # type: ignore[override]
        """Whether the rows lose one dimension on the way."""
        return any(normalizer.centers for normalizer in self)

    def __iter__(self) -> Iterator[Normalizer]:
        return iter(self.normalizers)  # type: ignore[arg-type]

    def fit(self, x: Tensor) -> Self:
        """Take the statistics of the rows ``(N, D)``; earlier ones are forgotten."""
        fitted = self._with_statistics()
        if len(fitted) != 1:
            return super().fit(x)
        fitted[0].fit(self._until(fitted[0], x))  # which keeps the sums that `partial_fit` adds to
        return self

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls, where that is possible.

        It is if at most one of the normalisers has statistics: those of a second one would be taken
        after a first one that still changes.
        """
        fitted = self._with_statistics()
        if len(fitted) > 1:
            raise ValueError(
                f"{self} cannot be fitted in parts: each of its statistics depends on those before "
                "it. Call `fit` with all rows."
            )
        last = fitted[0] if fitted else list(self)[-1]
        last.partial_fit(self._until(last, x))
        return self

    def _with_statistics(self) -> list[Normalizer]:
        """The parts that are fitted; a chain is if one of its own is, once for each."""
        found: list[Normalizer] = []
        for part in self:
            own = part._with_statistics() if isinstance(part, NormalizerChain) else [part]
            found += [part for one in own if list(one.buffers())]
        return found

    def _until(self, last: Normalizer, x: Tensor) -> Tensor:
        """Rows as they come to a part, past others that have no statistics."""
        for normalizer in self:
            if normalizer is last:
                return x
            x = normalizer.partial_fit(x)(x)
        raise AssertionError("the part is one of the chain")

    @property
    def product(self) -> Product:  # type: ignore[override]
        """The most that a part needs."""
        return outer if any(normalizer.product is outer for normalizer in self) else elementwise

    @property
    def unit_rows(self) -> bool:  # type: ignore[override]
        """Whether it begins with `UnitNorm`."""
        return next(iter(self)).unit_rows

    def statistics_of(self, x: Tensor) -> Statistics:
        """Of each part, what the ones before it make of the rows."""
        found = []
        for normalizer in self:
            found.append(normalizer.statistics_of(x))
            x = normalizer.map(x, found[-1])
        return tuple(found)

    def checked_statistics_of(self, x: Tensor) -> Statistics:
        """The same, without gradient, for rows that were looked at."""
        found = []
        for normalizer in self:
            found.append(normalizer.checked_statistics_of(x))
            x = normalizer.map(x, found[-1])
        return tuple(found)

    def map(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Rows through all of them."""
        for normalizer, own in zip(self, statistics, strict=True):
            x = normalizer.map(x, own)
        return x

    def unmap(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Each undone, last first."""
        for normalizer, own in zip(reversed(list(self)), reversed(statistics), strict=True):
            x = normalizer.unmap(x, own)
        return x

    def writes(self, statistics: Statistics) -> list[tuple[Tensor, Tensor]]:
        """Those of all parts."""
        parts = zip(self, statistics, strict=True)
        return [pair for normalizer, own in parts for pair in normalizer.writes(own)]

    def remember(self, statistics: Statistics) -> Self:
        """Keep the statistics of each, once all are written."""
        pairs = self.writes(statistics)
        if pairs:
            write_all(pairs)
        for normalizer, own in zip(self, statistics, strict=True):
            normalizer.remember(own)
        return self

    def check_affine(self) -> None:
        """Refuse a part after the first that brings rows to length one."""
        if any(normalizer.unit_rows for normalizer in list(self)[1:]):
            raise ValueError(f"`{self}` is not affine: only its first part may be `UnitNorm`.")

    def refuse(self, moments: RowMoments, name: str = "x") -> None:
        """Raise where one of them does."""
        for normalizer in list(self)[self.unit_rows :]:
            normalizer.refuse(moments, name)
            own = normalizer.affine(moments)
            moments = moments.mapped((own.shift, own.factor))

    def affine(self, moments: RowMoments) -> Affine:
        """All of them as one map, each fitted on the moments that the ones before it leave.

        The first subtracts the mean, so that the others have nothing to subtract.
        """
        whole = Affine()
        for normalizer in list(self)[self.unit_rows :]:
            own = normalizer.affine(moments)
            moments = moments.mapped((own.shift, own.factor))
            whole = Affine(
                own.shift if whole.shift is None else whole.shift,
                _composed(whole.factor, own.factor),
                _composed(own.inverse, whole.inverse),
            )
        return whole

    def _remembered(self, x: Tensor) -> Statistics:
        return tuple(normalizer._remembered(x) for normalizer in self)


def _composed(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """One factor for two; see `Affine`."""
    if first is None or second is None:
        return second if first is None else first
    if first.dim() == 2:
        return first @ second if second.dim() == 2 else first * second
    return first[..., None] * second if second.dim() == 2 else first * second
