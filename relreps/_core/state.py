"""State of modules: taken over whole or not at all, written at once, and filled by a fit.

* `Stateful`: a state that does not fit, or is that of another configuration, changes nothing; what
  inference mode made can be written outside of it.
* `FittedModule`: buffers that exist before they are fitted, and a flag that is free to read.
* `write_all`: several tensors in one step, which an interrupt finds done or not begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.description import description


@torch.no_grad()
def write_all(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy each second tensor into the first one, in one call: all of them or none."""
    targets, values = zip(*pairs, strict=True)
    torch._foreach_copy_([*targets], [*values])


class Stateful(nn.Module):
    """A module whose own state is loaded whole, or not at all.

    Its own are its parameters and buffers, and those of the `Stateful` modules in it. Other modules
    in it, such as a network, may lack entries where torch allows that (``strict=False``).
    """

    #: Entries that say what the rest is for: a state without them is taken as it is.
    _optional: tuple[str, ...] = ("configuration",)
    _taken = False  # whether the last load had something for it

    def __init__(self) -> None:
        super().__init__()
        self._choices: dict[str, tuple[object, Sequence[object]]] = {}
        self._configuration = ""
        if torch.is_inference_mode_enabled():
            self.register_buffer = self._register_ordinary  # type: ignore[method-assign]
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]

    def _keep_choices(self, **options: tuple[object, Sequence[object]]) -> None:
        """Keep options, with all their choices, that say how the rest of the state is to be read.

        The state of another choice would fit, and silently be used for what it is not: it is
        refused. It is a number, since safetensors hold no text; only add to the end of choices.
        """
        self._choices |= options
        for name, (value, choices) in options.items():
            self.register_buffer(f"{name}_code", torch.tensor(choices.index(value)))

    def _keep_configuration(self, **options: object) -> None:
        """Keep, as bytes, options of which there are more than can be counted.

        Those that no state speaks of are taken to be the same.
        """
        self._configuration = ", ".join(f"{n}={description(v)}" for n, v in options.items())
        self.register_buffer("configuration", _as_bytes(self._configuration))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch, except that a state that is refused changes nothing."""
        if strict:
            entries = [*_entries(self)]
            names = {entry.name for entry in entries}
            opaque = tuple(entry.name for entry in entries if entry.tensor is None)
            found = [f"no {e.name!r}" for e in entries if e.required and e.name not in state_dict]
            found += [
                f"{name!r}, which is not known"
                for name in state_dict
                if name not in names
                and not name.endswith("_extra_state")
                and not any(name.startswith(prefix) for prefix in opaque)
            ]
            _refuse(self, found)
        return super().load_state_dict(state_dict, strict, assign)

    def _register_ordinary(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """In place of `register_buffer` for what is built in inference mode."""
        super().register_buffer(name, tensor, persistent)
        self._leave_inference()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *arguments: Any
    ) -> None:
        entries = [entry for entry in _entries(self, prefix) if entry.tensor is not None]
        self._taken = any(entry.owned and entry.name in state_dict for entry in entries)
        if self._taken:
            assign = local_metadata.get("assign_to_params_buffers", False)
            _refuse(self, [why for entry in entries for why in _misfits(entry, state_dict, assign)])
            self._check_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)

    def _check_state(self, state: dict[str, Any], prefix: str) -> None:
        """Raise if what fits was made by another configuration."""
        for name, (value, choices) in self._choices.items():
            code = state.get(f"{prefix}{name}_code")
            if code is None or code.is_meta or int(code) == choices.index(value):
                continue
            saved = choices[int(code)] if 0 <= int(code) < len(choices) else f"choice {int(code)}"
            raise ValueError(
                f"The state is that of a {type(self).__name__} with `{name}={saved!r}`, and this "
                f"one has `{name}={value!r}`. Build it with `{name}={saved!r}`."
            )
        if self._configuration:
            code = state.setdefault(f"{prefix}configuration", _as_bytes(self._configuration))
            saved = (
                self._configuration
                if code.is_meta
                else bytes(code.flatten().tolist()).decode(errors="replace")
            )
            if saved != self._configuration:
                raise ValueError(
                    f"The state is that of a {type(self).__name__} with {saved}, and this one has "
                    f"{self._configuration}. Build it as that one was built."
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._leave_inference()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._leave_inference()

    def _leave_inference(self) -> None:
        """Make buffers that inference mode made ordinary ones, which can be written anywhere."""
        if not checks.eager():
            return
        for name, buffer in self._buffers.items():
            if buffer is not None and buffer.is_inference():
                self._buffers[name] = _ordinary(buffer)

    def _on_load(self) -> None:
        """Recompute what follows from the buffers, once this module and its children are loaded."""


class FittedModule(Stateful):
    """A module whose buffers are allocated at construction and filled later.

    The flag is kept twice: as a buffer, so that it is in every checkpoint, and as a Python bool, so
    that ``forward`` does not synchronise.
    """

    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self._fitted = False

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


class _Entry(NamedTuple):
    """What a state has for a tensor; without one, for all of a module that reads it its own way."""

    name: str
    tensor: Tensor | None
    owned: bool
    required: bool = True


def _entries(module: nn.Module, prefix: str = "", owned: bool = True) -> Iterator[_Entry]:
    """What a state of ``module`` consists of."""
    owned = owned and isinstance(module, Stateful | nn.ModuleList)
    reads = type(module)._load_from_state_dict.__module__.startswith("torch.nn.")
    if module._load_state_dict_pre_hooks or not (owned or reads):
        yield _Entry(prefix, None, owned, False)
        return
    optional = module._optional if isinstance(module, Stateful) else ("num_batches_tracked",)
    skipped = module._non_persistent_buffers_set
    buffers = {name: b for name, b in module._buffers.items() if name not in skipped}
    for name, tensor in (module._parameters | buffers).items():
        if tensor is not None:
            yield _Entry(prefix + name, tensor, owned, name not in optional)
    for name, child in module._modules.items():
        if child is not None:
            yield from _entries(child, f"{prefix}{name}.", owned)


def _misfits(entry: _Entry, state: Mapping[str, Any], assign: bool) -> Iterator[str]:
    """Why an entry cannot be taken from a state; nothing if it can."""
    name, tensor = entry.name, entry.tensor
    assert tensor is not None
    if name not in state:
        if entry.owned and entry.required:
            yield f"no {name!r}"
        return
    value = state[name]
    text = tensor.dtype == torch.uint8 and not entry.required  # of any length
    if not torch.overrides.is_tensor_like(value):
        yield f"{name!r} is no tensor but {type(value).__name__}"
    elif value.shape != tensor.shape and not (text or (tensor.dim() == 0 and value.shape == (1,))):
        yield f"{name!r} has shape {tuple(value.shape)}, not {tuple(tensor.shape)}"
    elif _kind(value.dtype) != _kind(tensor.dtype):
        yield f"{name!r} is of type {value.dtype}, not {tensor.dtype}"
    elif value.layout != tensor.layout:
        yield f"{name!r} is {value.layout}, not {tensor.layout}"
    elif value.is_meta and not (tensor.is_meta or assign):
        yield f"{name!r} is on the meta device, without values"


@torch.inference_mode(False)
def _ordinary(tensor: Tensor) -> Tensor:
    """A copy that is no inference tensor."""
    return tensor.clone()


def _as_bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point or dtype.is_complex:
        return "complex" if dtype.is_complex else "real"
    return "bool" if dtype == torch.bool else "integer"


def _refuse(module: nn.Module, found: list[str]) -> None:
    """Raise as torch does, if anything was found."""
    if found:
        listed = "; ".join(found[:8]) + ("; ..." if len(found) > 8 else "")
        raise RuntimeError(
            f"Error(s) in loading state_dict for {type(module).__name__}, of which nothing was "
            f"loaded: {listed}. Build it with the sizes and options that the state was saved with."
        )


def _after_load(module: nn.Module, _keys: Any) -> None:
    """Hook on `load_state_dict`: runs once the children of ``module`` are loaded too."""
    if isinstance(module, Stateful) and module._taken:
        module._leave_inference()
        if isinstance(module, FittedModule) and not module.fitted.is_meta:
            module._fitted = bool(module.fitted)
        try:
            module._on_load()
        except BaseException:  # what follows from the buffers is still that of the old ones
            if isinstance(module, FittedModule):
                module.mark_fitted(False)
            raise
