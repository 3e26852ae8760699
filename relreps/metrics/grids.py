"""One measure for every pair of layers of two networks, from batches that come once.

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
from relreps.metrics.cka import _NO_BATCH, CKA, MinibatchCKA
from relreps.metrics.hsic import first_row, in_units, squared_rounding, unbiased_gram
from relreps.metrics.paired import cosine
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
        self._make = make
        self._debiased = make(1, 1).debiased
        self._num_a = 0
        self._firsts: list[Tensor] = []
        self._rounding: list[Tensor] = []
        self._pairs: tuple[tuple[int, int], ...] = ()
        self._seen: RowMoments | None = None

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch."""
        sides = [*a, *b]
        if self._seen is None:
            self._num_a = len(a)
            self._firsts = [first_row(side) for side in sides]
            self._pairs = self._index()
        self._rounding.append(squared_rounding(a[0], b[0]))
        firsts = (first[0] for first in self._firsts)
        rows = [in_units(x, f, self._debiased) for x, f in zip(sides, firsts, strict=True)]
        new = row_moments(*rows, pairs=self._pairs, product=outer)
        self._seen = new if self._seen is None else self._seen + new

    def compute(self, names: Names) -> Tensor:
        """Scores of all batches so far."""
        return _table(names, lambda i, j: self._cka(i, self._num_a + j).compute())

    def _cka(self, i: int, j: int) -> CKA:
        """The stream that has seen layers i and j."""
        assert self._seen is not None
        first_x, first_y = self._firsts[i], self._firsts[j]
        cka = self._make(first_x.shape[1] - 1, first_y.shape[1] - 1).to(self._seen.total.device)
        cka.moments.add(self._seen.of(i, j))
        cka.first_x.update(first_x)
        cka.first_y.update(first_y)
        cka.squared_rounding.update(torch.cat(self._rounding))
        return cka

    def _index(self) -> tuple[tuple[int, int], ...]:
        """Pairs of layers, by position: each with itself, each of one side with each other one."""
        layers = range(len(self._firsts))
        a, b = layers[: self._num_a], layers[self._num_a :]
        return (*((i, i) for i in layers), *((i, j) for i in a for j in b))


class _MinibatchCKAGrid:
    """All pairs of layers are one product of their `unbiased_gram` matrices, laid out as rows."""

    def __init__(self, kernel: str) -> None:
        self._kernel = kernel
        self._sums: list[Tensor] = []

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch."""
        n = len(a[0])
        if n < 4:
            raise ValueError(
                f"Each batch of `loader` must have at least 4 rows, got {n}. If it is the last one "
                "that has so few, leave it out: `DataLoader(..., drop_last=True)`."
            )
        with full_precision(a[0]):
            sides = [[unbiased_gram(x, self._kernel) for x in side] for side in (a, b)]
        (first, noise_a), (second, noise_b) = (
            map(torch.stack, zip(*side, strict=True)) for side in sides
        )
        squares = first.square().sum(1), second.square().sum(1)
        hsic = [h / (n * (n - 3)) for h in (first @ second.mT, *squares, noise_a, noise_b)]
        self._sums = list(map(torch.add, self._sums, hsic)) if self._sums else hsic

    def compute(self, names: Names) -> Tensor:
        """Scores of all batches so far."""
        cross, self_a, self_b, noise_a, noise_b = self._sums

        def score(i: int, j: int) -> Tensor:
            sums = [cross[i, j], self_a[i], self_b[j], noise_a[i], noise_b[j]]
            return cosine(sums, _NO_BATCH)

        return _table(names, score)


def _table(names: Names, score: Callable[[int, int], Any]) -> Tensor:
    """Scores of all pairs, float64 on the CPU; what is said of a layer is said once, by its name.

    Args:
        names: Names of the rows and of the columns.
        score: Of a row and a column, by position.
    """
    rows: list[list[float]] = []
    said: dict[str, type[Warning]] = {}
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
                said[text] = warning.category
    for text, category in said.items():
        warnings.warn(text, category, stacklevel=5)
    return torch.tensor(rows, dtype=torch.float64)
