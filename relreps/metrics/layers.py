"""Two networks, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.modules import evaluating
from relreps._core.tables import ScoreTable
from relreps._core.warnings import warn
from relreps.metrics.cka_stream import CKA
from relreps.metrics.grids import make_grid
from relreps.metrics.taps import Pool, Taps, listed

#: Products of features that `CKA` may keep of all layers together. What is added to them in each
#: batch takes as much again.
_MOST_BYTES = 1 << 32


class _Fields(NamedTuple):
    scores: Tensor
    layers_a: list[str]
    layers_b: list[str]


class LayerComparison(_Fields, ScoreTable):
    """Scores of every layer of one network with every layer of another.

    Attributes:
        scores: One row a layer of the first, one column a layer of the second; float64, on the CPU.
        layers_a: Names of the rows.
        layers_b: Names of the columns.
    """

    __slots__ = ()

    heads = "a", "b"


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
            ``"mean"`` averages over positions: of outputs of three axes over the second one, as of
            sequences ``(N, T, D)``, and of more over all but two, as of maps ``(N, C, H, W)``. For
            sequences ``(N, C, T)`` give ``lambda z: z.mean(2) if z.dim() == 3 else z``.

    Raises:
        ValueError: No batch, a layer that does not exist (the nearest names are offered), outputs
            that are not finite or not paired, or whose width changes from batch to batch; layers so
            wide that what `CKA` keeps of them does not fit memory.
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
    first = Taps("model_a", model_a, layers, pool)
    second = Taps("model_b", model_b, layers if layers_b is None else layers_b, pool)
    empty = True
    with evaluating(model_a, model_b):
        for batch in loader:
            inputs_a, inputs_b = _split(batch)
            outputs = first(inputs_a), second(inputs_b)
            if empty:
                _warn_of_left_out({**first.left_out, **second.left_out})
            rows = _paired(first, outputs[0], second, outputs[1])
            if empty:
                _check_memory(measure, first, second, *rows)
            grid.update(*rows)
            empty = False
    if empty:
        raise ValueError("`loader` must give at least one batch, got none. Is it used up?")
    names = first.full_names, second.full_names
    return LayerComparison(grid.compute(names).cpu(), first.names, second.names)


def _check_memory(
    measure: Callable[..., Any], first: Taps, second: Taps, a: list[Tensor], b: list[Tensor]
) -> None:
    """Refuse, before it is asked for, more memory than products of features may take."""
    if getattr(measure, "func", measure) is not CKA:
        return
    widths_a, widths_b = ([rows.shape[1] for rows in side] for side in (a, b))
    entries = sum(w * w for w in (*widths_a, *widths_b)) + sum(widths_a) * sum(widths_b)
    size = 8 * entries  # float64
    if size > _MOST_BYTES:
        names, widths = (*first.full_names, *second.full_names), (*widths_a, *widths_b)
        widest = names[widths.index(max(widths))]
        raise ValueError(
            f"`measure` CKA would keep {size / 2**30:.1f} GiB of products of features; the widest "
            f"layer, `{widest}`, has {max(widths)} features. Average over positions by "
            '`pool="mean"`, name fewer `layers`, or take `MinibatchCKA`, which keeps no products.'
        )


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
    first: Taps, a: list[Tensor], second: Taps, b: list[Tensor]
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


def _warn_of_left_out(left_out: Mapping[str, str]) -> None:
    if left_out:
        warn(
            f"Layers that cannot be compared are left out: {listed(left_out)} Name `layers` to "
            "choose them yourself.",
            UserWarning,
        )
