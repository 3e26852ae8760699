"""What every fitted module shares: state that exists before it is fitted, and a free flag."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FittedModule(nn.Module):
    """A module whose buffers are allocated at construction and filled later.

    The flag is kept twice: as a buffer, so that it is in every checkpoint, and as a Python bool, so
    that ``forward`` does not synchronise.
    """

    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self._fitted = False
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]

    def _mark_fitted(self) -> None:
        self.fitted.fill_(True)
        self._fitted = True

    def _require_fitted(self, remedy: str) -> None:
        if not self._fitted:
            raise RuntimeError(f"{type(self).__name__} has no state yet. {remedy}")

    def _on_load(self) -> None:
        """Recompute what follows from the buffers, once this module and its children are loaded."""


def _after_load(module: nn.Module, _keys: Any) -> None:
    """Hook on `load_state_dict`: runs once the children of ``module`` are loaded too."""
    if isinstance(module, FittedModule):
        if not module.fitted.is_meta:
            module._fitted = bool(module.fitted)
        module._on_load()
