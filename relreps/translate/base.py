"""The one type of all translators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.description import options
from relreps._core.state import FittedModule, write_all


class Translator(FittedModule, ABC):
    """A map of vectors of one latent space into another, fitted on rows of both.

    Its output lies in the *original* target space, and the whole map is in its state.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        in_features = checks.check_size("in_features", in_features)
        out_features = checks.check_size("out_features", out_features)
        self.in_features, self.out_features = in_features, out_features

    @abstractmethod
    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Fit on rows ``x (N, D_x)`` and ``y``; on an error nothing changes."""

    def fit_pairs(self, x: Tensor, y: Tensor) -> Self:
        """Fit on rows of which row i of ``x`` is known to belong to row i of ``y``.

        What calls `fit` of any translator; one whose `fit` takes more than pairs says here what.
        """
        return self.fit(x, y)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(..., D_x)`` of the source space in the target space."""

    def inverse(self, y: Tensor) -> Tensor:
        """Vectors ``(..., D_y)`` of the target space in the source space, where there is a way."""
        raise ValueError(
            f"{type(self).__name__} has no inverse. Fit another one with the two sides exchanged."
        )

    def _keep(self, values: Mapping[str, Tensor | float], **attributes: Any) -> None:
        """Write buffers and attributes: while some of them are new and some old, it is unfitted."""
        self._fitted = False
        for name, value in attributes.items():
            setattr(self, name, value)
        named = ((getattr(self, name), value) for name, value in {**values, "fitted": True}.items())
        write_all((b, torch.as_tensor(value, device=b.device)) for b, value in named)
        self._fitted = True

    def extra_repr(self) -> str:
        """Constructor call."""
        return ", ".join((f"{self.in_features}, {self.out_features}", *options(self)[2:]))
