"""Names that people look for at the top of the package, and where they are."""

from __future__ import annotations

import importlib
import pkgutil

#: Names that are another one now.
RENAMED = {
    "AbstractSampler": "relreps.anchors.Sampler",
    "ParallelAnchors": "relreps.correspondence.Pairs",
    "UnsupervisedAnchors": "relreps.correspondence.Pairs",
}


def home_of(name: str) -> str | None:
    """The full name of what a public module of the package offers under this one; None if none.

    Modules are imported here, and not when the package is; those of other packages stay aside.
    """
    if name.startswith("_"):
        return None
    if name in RENAMED:
        return RENAMED[name]
    package = importlib.import_module("relreps")
    for info in pkgutil.iter_modules(package.__path__, "relreps."):
        if "._" in info.name or info.name.endswith(".integrations"):
            continue
        if name in offered(info.name):
            return f"{info.name}.{name}"
    return None


def offered(module: str) -> list[str]:
    """The public names of a module: those it lists, or those that are its own."""
    found = importlib.import_module(module)
    own = [n for n, member in vars(found).items() if getattr(member, "__module__", "") == module]
    names: list[str] = getattr(found, "__all__", [n for n in own if not n.startswith("_")])
    return names
