"""One measure for every pair of layers of two networks, from batches that come once.

What a measure needs to know about one layer alone is computed once for that layer, and not again
for each of its partners.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from relreps._linalg import as_float64, full_precision
from relreps._warnings import NumericalWarning
from relreps.metrics._pairs import centred
from relreps.metrics.cka import CKA, MinibatchCKA, _rbf, _with_length
from relreps.moments import RowMoments, merged, outer, row_moments


class Grid(Protocol):
    """Takes the rows of all layers, batch by batch, and gives a score for each pair."""

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch: rows ``(N, D_i)`` of each layer of either network."""

    def compute(self) -> Tensor:
        """Scores ``(len(a), len(b))`` of all batches so far."""


def make_grid(measure: Callable[..., Any]) -> Grid:
    """The grid for a function of two spaces, or for a streaming class (or a partial of one)."""
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

    def compute(self) -> Tensor:
        """Scores of all batches so far."""
        sides = zip(*self._batches, strict=True)
        a, b = ([torch.cat(layer) for layer in zip(*side, strict=True)] for side in sides)
        return _table([[self._measure(x, y) for y in b] for x in a])


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

    def compute(self) -> Tensor:
        """Scores of all batches so far."""
        return _table([[stream.compute() for stream in streams] for streams in self._streams])


class _CKAGrid:
    """Moments of each layer, and of each pair."""

    def __init__(self, make: Callable[[int, int], CKA]) -> None:
        self._make = make
        self._debiased = make(1, 1).debiased
        self._num_a = 0
        self._shifts: list[Tensor] = []
        self._pairs: tuple[tuple[int, int], ...] = ()
        self._seen: RowMoments | None = None

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch."""
        sides = [*a, *b]
        if self._seen is None:
            self._num_a = len(a)
            self._shifts = [as_float64(side).mean(0) for side in sides]
            self._pairs = self._index()
        if self._debiased:
            sides = [_with_length(*side) for side in zip(sides, self._shifts, strict=True)]
        new = row_moments(*sides, pairs=self._pairs, product=outer)
        self._seen = new if self._seen is None else merged(self._seen, new, self._pairs, outer)

    def compute(self) -> Tensor:
        """Scores of all batches so far."""
        assert self._seen is not None
        scatters = dict(zip(self._pairs, self._seen.scatters, strict=True))
        layers = range(len(self._shifts))
        a, b = layers[: self._num_a], layers[self._num_a :]
        return _table([[self._cka(i, j, scatters).compute() for j in b] for i in a])

    def _cka(self, i: int, j: int, scatters: dict[tuple[int, int], Tensor]) -> CKA:
        """The stream that has seen layers i and j."""
        assert self._seen is not None
        means, first = self._seen.means, (self._shifts[i], self._shifts[j])
        cka = self._make(len(first[0]), len(first[1])).to(self._seen.total.device)
        parts = scatters[i, i], scatters[i, j], scatters[j, j]
        cka.moments._add(RowMoments(self._seen.total, (means[i], means[j]), parts))
        if self._debiased:
            cka.first_x.update(first[0][None])
            cka.first_y.update(first[1][None])
        return cka

    def _index(self) -> tuple[tuple[int, int], ...]:
        """Pairs of layers, by position: each with itself, each of one side with each other one."""
        layers = range(len(self._shifts))
        a, b = layers[: self._num_a], layers[self._num_a :]
        return (*((i, i) for i in layers), *((i, j) for i in a for j in b))


class _MinibatchCKAGrid:
    r"""Gram matrices of each layer, centred so that unbiased HSIC is their inner product.

    .. math:: \hat K_{ij} = K_{ij} - \frac{r_i + r_j}{n - 2} + \frac{\sum_l r_l}{(n - 1)(n - 2)}

    off the diagonal and 0 on it, with the sums :math:`r` of rows without the diagonal (Székely and
    Rizzo 2014). All pairs of layers are then one product of these matrices, laid out as rows.
    """

    def __init__(self, kernel: str) -> None:
        self._kernel = kernel
        self._sums: list[Tensor] = []

    def update(self, a: list[Tensor], b: list[Tensor]) -> None:
        """Add a batch."""
        n = len(a[0])
        if n < 4:
            raise ValueError(f"Each batch of `loader` must have at least 4 rows, got {n}.")
        with full_precision(a[0]):
            first, second = (torch.stack([self._gram(x) for x in side]) for side in (a, b))
        hsic = [first @ second.mT, first.square().sum(1), second.square().sum(1)]
        hsic = [h / (n * (n - 3)) for h in hsic]
        self._sums = list(map(torch.add, self._sums, hsic)) if self._sums else hsic

    def compute(self) -> Tensor:
        """Scores of all batches so far."""
        cross, self_a, self_b = self._sums
        squares = torch.outer(self_a, self_b)
        if not bool((squares > 0).all()):
            warnings.warn(
                "In some layer all rows were the same in every batch: its scores are NaN.",
                NumericalWarning,
                stacklevel=4,
            )
        return torch.where(squares > 0, cross / squares.sqrt(), math.nan)

    def _gram(self, x: Tensor) -> Tensor:
        """Centred Gram matrix of one layer as a row, in float64; 0 where all rows are the same."""
        low, high = x.aminmax(dim=0)
        noise = 4 * torch.finfo(x.dtype).eps * torch.maximum(low.abs(), high.abs())
        if not bool((high - low > noise).any()):
            return as_float64(x.new_zeros(len(x) ** 2))
        x = centred(x)
        gram = as_float64(_rbf(x, 1.0) if self._kernel == "rbf" else x @ x.mT)
        n = len(gram)
        gram.fill_diagonal_(0)
        sums = gram.sum(1)
        gram = gram - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
        return gram.fill_diagonal_(0).flatten()


def _table(scores: list[list[Tensor]]) -> Tensor:
    """Scalars as a matrix of float64 on the CPU."""
    return torch.tensor([[float(score) for score in row] for row in scores], dtype=torch.float64)
