"""Optional packages come in through here, when they are needed, with an error that says how."""

from __future__ import annotations

import importlib
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
