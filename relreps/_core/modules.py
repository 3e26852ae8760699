"""What is done with modules that belong to somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


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


def refuse_class(name: str, value: object) -> None:
    """Refuse a class where an object of it is wanted."""
    if isinstance(value, type):
        raise TypeError(
            f"`{name}` must be an object, got the class {value.__name__}. Make one, as "
            f"`{value.__name__}(...)`."
        )


def tensor_of(name: str, module: nn.Module, x: Any) -> Tensor:
    """What a module makes of ``x``, which has to be a tensor, with its own error told in full."""
    try:
        out = module(x)
    except RuntimeError as error:
        if "shape" not in str(error) and "size" not in str(error):
            raise
        shape = tuple(getattr(x, "shape", ()))
        raise ValueError(
            f"`{name}` must take what it is given, a tensor of shape {shape}, got: {error}. Give "
            "one that was built for this width."
        ) from error
    if not isinstance(out, Tensor):
        raise TypeError(
            f"`{name}` must return a tensor, got {type(out).__name__}. Give a module that takes "
            "the tensor out of it, such as the first of a tuple, or a pooled `last_hidden_state`."
        )
    return out
