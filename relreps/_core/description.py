"""Objects as text: constructor calls, for people and for checkpoints."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

#: Arguments that change no result, or that the sizes of the state tell.
_LEFT_OUT = ("chunk_size", "in_features", "num_anchors")


def options(module: nn.Module) -> list[str]:
    """Constructor arguments as written in a call: they are attributes under their own names."""
    names = list(inspect.signature(type(module)).parameters)
    return [f"{name}={getattr(module, name)!r}" for name in names]


def description(thing: Any) -> str:
    """What a checkpoint says of an option, such that another version of the package says the same.

    Of what is not of this package only the kind is told, as it may be renamed and rewritten.
    """
    if _is_plain(thing):
        return repr(thing)
    if isinstance(thing, nn.ModuleList | tuple | list):
        return f"[{', '.join(map(description, thing))}]"
    if hasattr(thing, "described"):
        return str(thing.described())
    if type(thing).__module__.startswith("relreps."):
        return call(thing)
    return type(thing).__name__ if isinstance(thing, nn.Module) else "a callable"


def call(thing: object) -> str:
    """The constructor call of an object, of the arguments that differ from their defaults.

    An option that is added later, with a default that changes nothing, leaves it as it is. Tensors
    are left out: the state itself holds them.
    """
    parts = []
    for name, parameter in inspect.signature(type(thing)).parameters.items():
        value = getattr(thing, name, parameter.empty)
        default = value is parameter.empty or (_is_plain(value) and value == parameter.default)
        if not (default or name in _LEFT_OUT or isinstance(value, Tensor)):
            parts.append(f"{name}={description(value)}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
