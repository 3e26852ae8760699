"""Normalisers one after the other."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self

from torch import Tensor, nn

from relreps._core.invariance import Residues, residues, then
from relreps.normalization.base import AbstractFittedNormalizer, AbstractNormalizer


class NormalizerChain(AbstractNormalizer):
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

    def __init__(self, *normalizers: AbstractNormalizer) -> None:
        super().__init__()
        for i, normalizer in enumerate(normalizers):
            if not isinstance(normalizer, AbstractNormalizer):
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
        """What is left of each transformation behind all of them."""
        left: Residues = residues()
        for normalizer in self:
            left = then(left, normalizer.residues)
        return left

    @property
    def centres(self) -> bool:  # type: ignore[override]
        """Whether the rows lose one dimension on the way."""
        return any(normalizer.centres for normalizer in self)

    def __iter__(self) -> Iterator[AbstractNormalizer]:
        return iter(self.normalizers)  # type: ignore[arg-type]

    def fit(self, x: Tensor) -> Self:
        """Fit each on the output of the one before; on an error nothing changes."""
        trials = [copy.deepcopy(normalizer) for normalizer in self]
        for trial in trials:
            x = trial.fit(x)(x)
        for normalizer, trial in zip(self, trials, strict=True):
            normalizer._adopt(trial)
        return self

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls, where that is possible.

        It is if at most one of the normalisers has statistics: those of a second one would be taken
        behind a first one that still changes.
        """
        if sum(isinstance(part, AbstractFittedNormalizer) for part in self.modules()) > 1:
            raise ValueError(
                f"{self} cannot be fitted in parts: each of its statistics depends on those before "
                "it. Call `fit` with all rows."
            )
        for normalizer in self:
            x = normalizer.partial_fit(x)(x)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows ``(..., D)``."""
        for normalizer in self:
            x = normalizer(x)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """Undo each, last first."""
        for normalizer in reversed(list(self)):
            x = normalizer.inverse(x)
        return x

    def relative_to(self, reference: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Fit on ``reference`` and map each of ``rows``, without state; gradients reach all."""
        for normalizer in self:
            reference, *rows = normalizer.relative_to(reference, reference, *rows)  # type: ignore[assignment]
        return tuple(rows)

    def _adopt(self, other: AbstractNormalizer) -> None:
        if isinstance(other, NormalizerChain):
            for normalizer, trial in zip(self, other, strict=True):
                normalizer._adopt(trial)

    def _refit(self, x: Tensor) -> None:
        for normalizer in self:
            normalizer._refit(x)
            x = normalizer(x)
