"""Grids: one measure for every pair of layers of two networks, from batches that come once.

What a measure needs to know about one layer alone is computed once for that layer, and not again
for each of its partners.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from relreps._core.linalg import full_precision
from relreps._core.rounding import rounding_of
from relreps._core.warnings import warn
from relreps.metrics.cka import NO_BATCH
from relreps.metrics.cka_stream import CKA, Frame, MinibatchCKA, cka_of_moments, rounding_squared
from relreps.metrics.hsic import FEWEST, InnerProducts, unbiased_gram
from relreps.metrics.kernels import KernelLike, resolve_kernel
from relreps.moments import RowMoments, outer, row_moments

#: Names of the layers of both networks.
Names = tuple[list[str], list[str]]


class Grid(Protocol):
    """Takes the rows of all layers, batch by batch, and gives a score for each pair."""

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch: rows ``(N, D_i)`` of each layer of either network."""

    def compute(self, names: Names) -> Tensor:
        """Scores ``(len(a), len(b))`` of all batches so far; ``names`` are for what is said."""


def make_grid(measure: Callable[..., Any]) -> Grid:
    """The grid for a function of two spaces, or for a streaming class (or a partial of one)."""
    if isinstance(measure, nn.Module) or not callable(measure):
        what = repr(measure) if isinstance(measure, str) else f"a {type(measure).__name__}"
        raise TypeError(
            "`measure` must be a function of two spaces, such as `linear_cka`, or a streaming "
            f"class, such as `CKA` (the class, not an instance), got {what}."
        )
    streaming = measure.func if isinstance(measure, partial) else measure
    if streaming is CKA:
        return _CKAGrid(measure)
    if streaming is MinibatchCKA:
        return _MinibatchCKAGrid(measure().kernel)
    return _StreamGrid(measure) if isinstance(streaming, type) else _FunctionGrid(measure)


class _FunctionGrid:
    """Keeps the rows of every layer."""

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._measure = measure
        self._batches: list[tuple[list[Tensor], list[Tensor]]] = []

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch."""
        self._batches.append((a, b))

    def compute(self, names: Names) -> Tensor:
        """Scores of all batches so far."""
        sides = zip(*self._batches, strict=True)
        a, b = ([torch.cat(layer) for layer in zip(*side, strict=True)] for side in sides)
        return _table(names, lambda i, j: self._measure(a[i], b[j]))


class _StreamGrid:
    """One stream for each pair."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._streams: list[list[Any]] = []

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch."""
        if not self._streams:
            sized = "in_features" in inspect.signature(self._make).parameters
            self._streams = [
                [self._make(*((x.shape[1], y.shape[1]) if sized else ())) for y in b] for x in a
            ]
        for x, streams in zip(a, self._streams, strict=True):
            for y, stream in zip(b, streams, strict=True):
                stream.update(x, y)

    def compute(self, names: Names) -> Tensor:
        """Scores of all batches so far."""
        return _table(names, lambda i, j: self._streams[i][j].compute())


class _CKAGrid:
    """Moments of each layer, and of each pair."""

    def __init__(self, make: Callable[[int, int], CKA]) -> None:
        self._debiased = make(1, 1).debiased
        self._num_a = 0
        self._frames: list[Frame] = []
        self._rounding: list[Tensor] = []
        self._pairs: tuple[tuple[int, int], ...] = ()
        self._seen: RowMoments | None = None

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch."""
        sides = [*a, *b]
        if not self._frames:
            self._num_a = len(a)
            self._frames = [Frame.of(side, self._debiased) for side in sides]
            layers = range(len(sides))
            across = ((i, j) for i in layers[: len(a)] for j in layers[len(a) :])
            self._pairs = (*((i, i) for i in layers), *across)
        rows = [frame.rows(side) for frame, side in zip(self._frames, sides, strict=True)]
        new = row_moments(*rows, pairs=self._pairs, product=outer)
        self._seen = new if self._seen is None else self._seen + new
        self._rounding.append(rounding_squared(a[0], b[0]))

    def compute(self, names: Names) -> Tensor:
        """Scores of all batches so far."""
        assert self._seen is not None
        seen, eps = self._seen, torch.cat(self._rounding).mean(0)

        def score(i: int, j: int) -> Tensor:
            pair = i, self._num_a + j
            return cka_of_moments(seen.of(*pair), [self._frames[k] for k in pair], eps)

        return _table(names, score)


class _MinibatchCKAGrid:
    """All pairs of layers are one product of their `unbiased_gram` matrices, laid out as rows."""

    def __init__(self, kernel: KernelLike) -> None:
        self._kernel = resolve_kernel(kernel)
        self._sums: list[Tensor] = []

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch."""
        n = len(a[0])
        if n < FEWEST[True][0]:
            raise ValueError(
                f"Each batch of `loader` must have at least 4 rows, got {n}. If it is the last one "
                "that has so few, leave it out: `DataLoader(..., drop_last=True)`."
            )
        with full_precision(a[0]):
            sides = [
                [unbiased_gram(x, self._kernel, rounding_of(x.dtype)) for x in side]
                for side in (a, b)
            ]
        (first, noise_a), (second, noise_b) = (
            map(torch.stack, zip(*side, strict=True)) for side in sides
        )
        squares = first.square().sum(1), second.square().sum(1)
        new = [h / (n * (n - 3)) for h in (first @ second.mT, *squares, noise_a, noise_b)]
        self._sums = list(map(torch.add, self._sums, new)) if self._sums else new

    def compute(self, names: Names) -> Tensor:
        """Scores of all batches so far."""
        cross, self_a, self_b, noise_a, noise_b = self._sums

        def score(i: int, j: int) -> Tensor:
            sums = InnerProducts(cross[i, j], self_a[i], self_b[j], noise_a[i], noise_b[j])
            return sums.cosine(NO_BATCH)

        return _table(names, score)


def _table(names: Names, score: Callable[[int, int], Any]) -> Tensor:
    """Scores of all pairs, float64 on the CPU; what is said of a layer is said once, by its name.

    Args:
        names: Names of the rows and of the columns.
        score: Of a row and a column, by position.
    """
    rows: list[list[float]] = []
    said: dict[str, type[UserWarning]] = {}
    for i, a in enumerate(names[0]):
        rows.append([])
        for j, b in enumerate(names[1]):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                value = score(i, j)
            if not isinstance(value, int | float) and getattr(value, "shape", None) != ():
                raise TypeError(
                    "`measure` must give one number for two spaces, got a "
                    f"{type(value).__name__}. Wrap it: `lambda x, y: retrieval_scores(x, y)[0]`."
                )
            rows[-1].append(float(value))
            for warning in caught:
                text = str(warning.message).replace("`x`", f"`{a}`").replace("`y`", f"`{b}`")
                said[text] = warning.category  # type: ignore[assignment]
    for text, category in said.items():
        warn(text, category)
    return torch.tensor(rows, dtype=torch.float64, device="cpu")
