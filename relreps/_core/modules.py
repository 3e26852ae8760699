"""What is done to modules that belong to somebody else, and undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside, each submodule's own mode after."""
    modes = {child: child.training for module in modules for child in module.modules()}
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for child, training in modes.items():
            child.training = training
