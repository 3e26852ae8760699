"""Optional packages come in through here, when they are needed, with an error that says how."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module`` or say which extra of this package brings it.

    Args:
        module: Dotted name to import.
        extra: Extra of `relreps` that installs it.
        purpose: What needs it, as the subject of the error message.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is installed, and something that it needs is not
        raise ImportError(
            f"{purpose} needs {package}, which is not installed. "
            f"Install it with `pip install 'relreps[{extra}]'`."
        ) from error


#: Read by POT when it is imported: it starts each of these libraries that is installed, to take
#: their arrays, and JAX then takes most of the memory of a card.
_BACKENDS = tuple(f"POT_BACKEND_DISABLE_{name}" for name in ("JAX", "CUPY", "TENSORFLOW"))


def without_backends(module: str) -> ModuleType:
    """Import POT without the array libraries that it would start; those of the user stay.

    Where it is imported already, or one of its switches is set, somebody else has decided.
    """
    if module.partition(".")[0] in sys.modules:
        return importlib.import_module(module)
    unset = [name for name in _BACKENDS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        return importlib.import_module(module)
    finally:
        for name in unset:
            del os.environ[name]
