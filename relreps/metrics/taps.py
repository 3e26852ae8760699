"""Taps: the outputs of some layers of a network, as rows."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32

#: From an output ``(N, ...)`` to rows ``(N, D)``, or a name.
Pool = str | Callable[[Tensor], Tensor]


def mean_over_positions(output: Tensor) -> Tensor:
    """Mean over all positions: of maps ``(N, C, ...)``, and of sequences ``(N, T, D)``.

    Three axes are those of a sequence, whose features come last; four or more those of a map.
    """
    if output.dim() == 3:
        return output.mean(1)
    return output.flatten(2).mean(2) if output.dim() > 3 else output


class Taps:
    """The outputs of some layers of a model."""

    def __init__(
        self, name: str, model: nn.Module, layers: Sequence[str] | None, pool: Pool | None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`{name}` must be a torch.nn.Module, got {type(model).__name__}.")
        if pool is not None and not callable(pool):
            checks.check_choice("pool", pool, ("mean",))
        self.model_name, self._model = name, model
        self._pool = mean_over_positions if isinstance(pool, str) else pool
        self._widths: dict[str, int] = {}
        #: Layers that were not asked for and cannot be compared, and why.
        self.left_out: dict[str, str] = {}
        self._by_default = layers is None
        modules = dict(model.named_modules(remove_duplicate=layers is None))
        if layers is None:
            layers = [layer for layer, module in modules.items() if not any(module.children())]
        self._modules = {layer: modules[layer] for layer in _known(name, layers, modules)}

    def __call__(self, inputs: Any) -> list[Tensor]:
        """Rows of each layer, in the order of the names."""
        seen: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for layer, module in self._modules.items():
                hooks.callback(module.register_forward_hook(self._hook(layer, seen)).remove)
            self._model(**inputs) if isinstance(inputs, Mapping) else self._model(inputs)
        if self._by_default and (seen or self.left_out):
            self._choose(seen, inputs)
        idle = [layer for layer in self._modules if layer not in seen]
        if idle:
            raise RuntimeError(
                f"`layers` must name modules that every forward of `{self.model_name}` calls, "
                f"but {', '.join(map(repr, idle))} did not run."
            )
        return [seen[layer] for layer in self._modules]

    @property
    def names(self) -> list[str]:
        """Names of the layers."""
        return list(self._modules)

    @property
    def full_names(self) -> list[str]:
        """With the name of the model."""
        return [f"{self.model_name}.{layer}" for layer in self._modules]

    def _choose(self, seen: dict[str, Tensor], inputs: Any) -> None:
        """Leave out what the first batch does not call, or calls in a way that has no rows."""
        self._by_default = False
        n = _batch_size(inputs, list(seen.values()))
        for layer, rows in seen.items():
            if len(rows) != n:
                why = f"gives {len(rows)} rows for {n} samples"
                self.left_out.setdefault(f"{self.model_name}.{layer}", why)
        kept = {
            layer: module
            for layer, module in self._modules.items()
            if layer in seen and f"{self.model_name}.{layer}" not in self.left_out
        }
        if not kept:
            raise ValueError(
                f"`layers` must be named for `{self.model_name}`: by default none is left. "
                f"{listed(self.left_out)}"
            )
        self._modules = kept

    def _why_not(self, output: Any, again: bool) -> str | None:
        """Why a layer that was not asked for cannot be compared."""
        if again:
            return "runs more than once"
        if not isinstance(output, Tensor):
            return f"gives a {type(output).__name__}"
        if not output.is_floating_point():
            return f"gives {output.dtype}"
        if self._pool is None and output.dim() < 2:
            return f"gives shape {tuple(output.shape)}"
        return None

    def _hook(self, layer: str, seen: dict[str, Tensor]) -> Callable[..., None]:
        what = f"{self.model_name}.{layer}"

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            why = self._why_not(output, again=layer in seen) if self._by_default else None
            if why is not None:
                self.left_out.setdefault(what, why)
            if what in self.left_out:
                return
            if layer in seen:
                raise RuntimeError(
                    f"`layers` must name modules that run once in a forward; `{what}` ran again. "
                    "Name the module around it, or give each use a module of its own."
                )
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"`layers` must name modules whose output is a tensor; that of `{what}` is a "
                    f"{type(output).__name__}. Name another layer, or wrap this one."
                )
            rows = output.flatten(1) if self._pool is None and output.dim() > 1 else output
            if self._pool is not None:
                rows = self._pool(rows)
            checks.check_rows(what, rows)
            width = self._widths.setdefault(layer, rows.shape[1])
            if rows.shape[1] != width:
                raise ValueError(
                    f"`{what}` must give rows of one width, got {width} features first and "
                    f"{rows.shape[1]} now, of an output of shape {tuple(output.shape)}. Average "
                    'over what varies in length, by `pool="mean"`, or leave the layer out.'
                )
            checks.check_finite(what, rows)
            # A copy, because the next layer may work in place.
            seen[layer] = at_least_float32(rows.detach()).clone()

        return keep


def _batch_size(inputs: Any, outputs: Sequence[Tensor]) -> int:
    """Number of samples: rows of the first tensor that goes in, else of most that come out."""
    parts = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
    for part in parts:
        if isinstance(part, Tensor) and part.dim():
            return len(part)
    return Counter(map(len, outputs)).most_common(1)[0][0] if outputs else 0


def listed(left_out: Mapping[str, str]) -> str:
    """Layers and why they are left out, as a sentence."""
    return "; ".join(f"`{layer}` {why}" for layer, why in left_out.items()) + "."


def _known(model_name: str, layers: Sequence[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """The names, if they are names of modules and there is one at least."""
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
        raise ValueError(f"`layers` must be different names of layers, got {layers!r}.")
    for layer in layers:
        if layer not in modules:
            near = difflib.get_close_matches(str(layer), list(modules), n=3, cutoff=0.3)
            hint = f" The nearest are {', '.join(map(repr, near))}." if near else ""
            raise ValueError(
                f"`layers` must name modules of `{model_name}`, got {layer!r}, which is none.{hint}"
            )
    return list(layers)
