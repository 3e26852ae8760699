"""What every fitted module shares: state that exists before it is fitted, and a free flag."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def write_all(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy each second tensor into the first one, in one call: all of them or none."""
    targets, values = ([*side] for side in zip(*pairs, strict=True))
    with torch.no_grad():
        torch._foreach_copy_(targets, values)


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
        self._choices: dict[str, tuple[object, Sequence[object]]] = {}
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]

    def _keep_choice(self, name: str, value: object, choices: Sequence[object]) -> None:
        """Keep an option in the state that says how the rest of it is to be read.

        The state of another choice would fit, and silently be used for what it is not: it is
        refused. It is a number, since safetensors hold no text; only add to the end of ``choices``.
        """
        self._choices[name] = value, choices
        self.register_buffer(f"{name}_code", torch.tensor(choices.index(value)))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        for name, (value, choices) in self._choices.items():
            code = state_dict.get(f"{prefix}{name}_code")
            if code is None or code.is_meta or int(code) == choices.index(value):
                continue
            saved = choices[int(code)] if 0 <= int(code) < len(choices) else f"choice {int(code)}"
            raise ValueError(
                f"The state is that of a {type(self).__name__} with `{name}={saved!r}`, and this "
                f"one has `{name}={value!r}`. Build it with `{name}={saved!r}`."
            )
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _check_fits(self, **values: Tensor) -> None:
        """Refuse values for buffers of these names that are infinite or all zero in their types."""
        check_fits(type(self).__name__, values, {n: getattr(self, n).dtype for n in values})

    def mark_fitted(self, fitted: bool = True) -> None:
        """Say that the buffers hold something, or no more: the last line of a `fit`."""
        self.fitted.fill_(fitted)
        self._fitted = fitted

    def require_fitted(self, remedy: str) -> None:
        """Refuse to go on with buffers that hold nothing."""
        if not self._fitted:
            raise RuntimeError(f"{type(self).__name__} has no state yet. {remedy}")

    def _on_load(self) -> None:
        """Recompute what follows from the buffers, once this module and its children are loaded."""


def options(module: nn.Module) -> list[str]:
    """Constructor arguments as written in a call: they are attributes under their own names."""
    names = list(inspect.signature(type(module)).parameters)
    return [f"{name}={getattr(module, name)!r}" for name in names]


def check_fits(owner: str, values: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> None:
    """Refuse what overflows in its type, or of which nothing but zeros would be left."""
    for name, value in values.items():
        held = value.to(dtypes[name])
        harmless = name.startswith(("mean", "offset"))  # these are added: they may vanish
        if not bool(held.isfinite().all()) or not (harmless or bool(held.any() == value.any())):
            raise ValueError(
                f"{owner} cannot keep `{name}` in {held.dtype}: its largest entry is "
                f"{float(value.abs().max()):.3g}. Keep the module in a wider type, as by "
                "`.float()` or `.double()`, or bring the rows nearer to 1."
            )


def _after_load(module: nn.Module, _keys: Any) -> None:
    """Hook on `load_state_dict`: runs once the children of ``module`` are loaded too."""
    if isinstance(module, FittedModule):
        if not module.fitted.is_meta:
            module._fitted = bool(module.fitted)
        module._on_load()
