"""Two networks, layer by layer."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from relreps import _checks
from relreps._linalg import at_least_float32
from relreps._modules import evaluating
from relreps._tables import markdown_grid
from relreps.metrics._grids import make_grid

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
        loader: Batches. A tensor goes to both networks; a tuple or list of two is
            ``(inputs_a, inputs_b)``, paired row by row; a mapping is given as keyword arguments.
            Take labels out: ``(x for x, _ in loader)``.
        measure: A function of two tensors ``(N, D)`` and ``(N, E)``, such as `mutual_knn`: the
            rows of all layers are kept. Or a streaming class, or a `functools.partial` of one, such
            as `CKA`: built for the widths of a pair of layers, it keeps no rows. `CKA` holds one
            ``(D, E)`` matrix a pair; with wide layers use `MinibatchCKA`, or pool.
        layers: Names of the layers of ``model_a``, as in ``named_modules()``; all that run and have
            no layers inside by default.
        layers_b: Names of those of ``model_b``; by default ``layers``, if they are given.
        pool: From an output ``(N, ...)`` to rows ``(N, D)``; by default other axes are flattened.
            ``lambda z: z.flatten(2).mean(2) if z.dim() > 2 else z`` averages over positions.

    Raises:
        ValueError: No batch, a layer that does not exist (the nearest names are offered), outputs
            that are not finite or not paired.
        TypeError: A layer whose output is not a tensor.
        RuntimeError: A layer that does not run, or runs more than once for a batch.

    Example:
        >>> from relreps.metrics import CKA, compare_layers
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> result = compare_layers(net, net, torch.randn(5, 8, 4), CKA)
        >>> result.scores.diagonal()
        tensor([1., 1.], dtype=torch.float64)
        >>> result.layers_a
        ['0', '1']
    """
    first = _Taps("model_a", model_a, layers, pool)
    second = _Taps("model_b", model_b, layers if layers_b is None else layers_b, pool)
    grid = make_grid(measure)
    empty = True
    with evaluating(model_a, model_b):
        for batch in loader:
            inputs_a, inputs_b = _split(batch)
            grid.update(*_paired(first, first(inputs_a), second, second(inputs_b)))
            empty = False
    if empty:
        raise ValueError("`loader` must give at least one batch, got none. Is it used up?")
    return LayerComparison(grid.compute().cpu(), first.names, second.names)


class _Taps:
    """The outputs of some layers of a model."""

    def __init__(
        self, name: str, model: nn.Module, layers: Sequence[str] | None, pool: Pool | None
    ) -> None:
        self.model_name, self._model, self._pool = name, model, pool
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
        if self._by_default and seen:
            # The first batch decides: what it does not call is left out.
            self._by_default = False
            self._modules = {name: m for name, m in self._modules.items() if name in seen}
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

    def _hook(self, layer: str, seen: dict[str, Tensor]) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            what = f"{self.model_name}.{layer}"
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
            _checks.check_rows(what, rows)
            _checks.check_finite(what, rows)
            # A copy, because the next layer may work in place.
            seen[layer] = at_least_float32(rows.detach()).clone()

        return keep


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
        _checks.check_paired(rows, other_rows, (name, other))
    dtype = reduce(torch.promote_types, (layer.dtype for layer in (*a, *b)))
    return [layer.to(dtype) for layer in a], [layer.to(dtype) for layer in b]
