"""Two networks, layer by layer."""

from __future__ import annotations

import difflib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32
from relreps._core.modules import evaluating
from relreps._core.tables import markdown_grid
from relreps.metrics.grids import make_grid

Pool = Callable[[Tensor], Tensor]


class LayerComparison(NamedTuple):
    """Scores of every layer of one network with every layer of another.

    Attributes:
        scores: One row a layer of the first, one column a layer of the second; float64, on the CPU.
        layers_a: Names of the rows.
        layers_b: Names of the columns.
    """

    scores: Tensor
    layers_a: list[str]
    layers_b: list[str]

    def to_markdown(self, digits: int = 3) -> str:
        """A Markdown table; scores that are NaN read ``n/a``."""
        return markdown_grid("a \\ b", self.layers_a, self.layers_b, self.scores, digits)


@torch.no_grad()
def compare_layers(
    model_a: nn.Module,
    model_b: nn.Module,
    loader: Iterable[Any],
    measure: Callable[..., Any],
    layers: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    *,
    pool: Pool | None = None,
) -> LayerComparison:
    r"""How alike each layer of one network is to each layer of another.

    Each network is called once for every batch, on its own inputs, in eval mode; outputs of layers
    are seen by forward hooks, which are gone when the call ends, however it ends. What a measure
    needs of one layer alone is computed once for that layer if the measure is `CKA` or
    `MinibatchCKA`.

    Args:
        model_a: The network of the rows.
        model_b: The network of the columns.
        loader: Batches. A tensor, or a tuple or list of one, goes to both networks; one of two is
            ``(inputs_a, inputs_b)``, paired row by row; a mapping is given as keyword arguments.
            Take labels out: ``(x for x, _ in loader)``.
        measure: A function of two tensors ``(N, D)`` and ``(N, E)``, such as `mutual_knn`: the
            rows of all layers are kept. Or a streaming class, or a `functools.partial` of one, such
            as `CKA`: built for the widths of a pair of layers, it keeps no rows. `CKA` holds one
            ``(D, E)`` matrix a pair; with wide layers use `MinibatchCKA`, or pool.
        layers: Names of the layers of ``model_a``, as in ``named_modules()``. By default all that
            have no layers inside and run once, with rows of features: those that run again, or
            whose outputs are no floating-point tensor or not one row a sample, are left out with
            a warning that names them.
        layers_b: Names of those of ``model_b``; by default ``layers``, if they are given.
        pool: From an output ``(N, ...)`` to rows ``(N, D)``; by default other axes are flattened.
            ``lambda z: z.flatten(2).mean(2) if z.dim() > 2 else z`` averages over positions.

    Raises:
        ValueError: No batch, a layer that does not exist (the nearest names are offered), outputs
            that are not finite or not paired.
        TypeError: A named layer whose output is not a floating-point tensor; a model that is no
            module; a measure that cannot be called.
        RuntimeError: A named layer that does not run, or runs more than once for a batch.

    Warns:
        UserWarning: Layers that were not named are left out.
        NumericalWarning: What the measure says of a layer, once for that layer.

    Example:
        >>> from relreps.metrics import CKA, compare_layers
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> result = compare_layers(net, net, torch.randn(5, 8, 4), CKA)
        >>> bool((result.scores.diagonal() > 0.999).all())
        True
        >>> result.layers_a
        ['0', '1']
    """
    grid = make_grid(measure)
    first = _Taps("model_a", model_a, layers, pool)
    second = _Taps("model_b", model_b, layers if layers_b is None else layers_b, pool)
    empty = True
    with evaluating(model_a, model_b):
        for batch in loader:
            inputs_a, inputs_b = _split(batch)
            outputs = first(inputs_a), second(inputs_b)
            if empty:
                _warn_of_left_out({**first.left_out, **second.left_out})
            grid.update(*_paired(first, outputs[0], second, outputs[1]))
            empty = False
    if empty:
        raise ValueError("`loader` must give at least one batch, got none. Is it used up?")
    names = first.full_names, second.full_names
    return LayerComparison(grid.compute(names).cpu(), first.names, second.names)


class _Taps:
    """The outputs of some layers of a model."""

    def __init__(
        self, name: str, model: nn.Module, layers: Sequence[str] | None, pool: Pool | None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`{name}` must be a torch.nn.Module, got {type(model).__name__}.")
        self.model_name, self._model, self._pool = name, model, pool
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
                self._leave_out(layer, f"gives {len(rows)} rows for {n} samples")
        kept = {
            layer: module
            for layer, module in self._modules.items()
            if layer in seen and f"{self.model_name}.{layer}" not in self.left_out
        }
        if not kept:
            raise ValueError(
                f"`layers` must be named for `{self.model_name}`: by default none is left. "
                f"{_listed(self.left_out)}"
            )
        self._modules = kept

    def _leave_out(self, layer: str, why: str) -> None:
        self.left_out.setdefault(f"{self.model_name}.{layer}", why)

    def _hook(self, layer: str, seen: dict[str, Tensor]) -> Callable[..., None]:
        what = f"{self.model_name}.{layer}"

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = isinstance(output, Tensor)
            if self._by_default and what not in self.left_out:
                if layer in seen:
                    self._leave_out(layer, "runs more than once")
                elif not tensor:
                    self._leave_out(layer, f"gives a {type(output).__name__}")
                elif not output.is_floating_point():
                    self._leave_out(layer, f"gives {output.dtype}")
                elif self._pool is None and output.dim() < 2:
                    self._leave_out(layer, f"gives shape {tuple(output.shape)}")
            if what in self.left_out:
                return
            if layer in seen:
                raise RuntimeError(
                    f"`layers` must name modules that run once in a forward; `{what}` ran again. "
                    "Name the module around it, or give each use a module of its own."
                )
            if not tensor:
                raise TypeError(
                    f"`layers` must name modules whose output is a tensor; that of `{what}` is a "
                    f"{type(output).__name__}. Name another layer, or wrap this one."
                )
            rows = output.flatten(1) if self._pool is None and output.dim() > 1 else output
            if self._pool is not None:
                rows = self._pool(rows)
            checks.check_rows(what, rows)
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


def _listed(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"`{layer}` {why}" for layer, why in left_out.items()) + "."


def _warn_of_left_out(left_out: Mapping[str, str]) -> None:
    if left_out:
        warnings.warn(
            f"Layers that cannot be compared are left out: {_listed(left_out)} Name `layers` to "
            "choose them yourself.",
            stacklevel=4,
        )


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


def _split(batch: Any) -> tuple[Any, Any]:
    """Inputs of either network."""
    if not isinstance(batch, tuple | list):
        return batch, batch
    if len(batch) == 1:
        return batch[0], batch[0]
    if len(batch) != 2:
        raise ValueError(
            "`loader` must give inputs for both networks, or pairs `(inputs_a, inputs_b)`, got a "
            f"{type(batch).__name__} of {len(batch)}. Give what the networks are called with."
        )
    first, second = batch
    if _is_labels(second) and not _is_labels(first):
        raise ValueError(
            "`loader` must give inputs for both networks, or pairs `(inputs_a, inputs_b)`, got a "
            "pair whose second part looks like labels. Take them out: `(x for x, _ in loader)`."
        )
    return first, second


def _is_labels(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dim() == 1 and not part.is_floating_point()


def _paired(
    first: _Taps, a: list[Tensor], second: _Taps, b: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of all layers in one type, if they are paired."""
    (name, rows), *others = [
        (f"{taps.model_name}.{layer}", rows)
        for taps, side in ((first, a), (second, b))
        for layer, rows in zip(taps.names, side, strict=True)
    ]
    for other, other_rows in others:
        checks.check_paired(rows, other_rows, (name, other))
    dtype = reduce(torch.promote_types, (layer.dtype for layer in (*a, *b)))
    return [layer.to(dtype) for layer in a], [layer.to(dtype) for layer in b]
