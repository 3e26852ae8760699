"""What every fitted module shares: state that exists before it is fitted, and a free flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class FittedModule(nn.Module):
    """A module whose buffers are allocated at construction and filled later.

    The flag is kept twice: as a buffer, so that it is in every checkpoint, and as a Python bool, so
    that ``forward`` does not synchronise. Subclasses whose buffers imply others (caches) rebuild
    them in `_rebuild`, which runs after loading and after a change of dtype or device.
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

    def _rebuild(self) -> None:
        """Recompute what follows from the buffers. Nothing by default."""

    def _on_load(self) -> None:
        """Called once this module and its children have been loaded."""
        self._rebuild()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._rebuild()
        return self


def _after_load(module: nn.Module, _keys: Any) -> None:
    """Hook on `load_state_dict`: runs once the children of ``module`` are loaded too."""
    if isinstance(module, FittedModule):
        if not module.fitted.is_meta:
            module._fitted = bool(module.fitted)
        module._on_load()
