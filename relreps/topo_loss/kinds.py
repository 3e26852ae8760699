"""The kinds of metrics, and the names by which users ask for them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from relreps._core import blocks, checks
from relreps._core.linalg import at_least_float32
from relreps._core.rounding import unit_of
from relreps.topo_loss import norms
from relreps.topo_loss.metric import Metric

#: Part of a distance by which rounding may move it: those of a pair differ, or one is below zero.
_ROUNDING = 1e-4


class Differences(Metric):
    """Sums over the differences of coordinates, which a norm orders.

    Args:
        order: Exponent p of that norm; 0 is that of f0.
        length: Length of each difference ``(..., D)``, with gradient.
        power: The metric is this power of what `norms.pairwise` gives, up to a unit.
    """

    def __init__(
        self, order: float, length: Callable[[Tensor], Tensor], power: float = 1.0
    ) -> None:
        self.order, self.length, self.power = order, length, power

    def prepare(self, x: Tensor) -> Tensor:
        return self.in_own_unit(x.nan_to_num())

    def in_own_unit(self, x: Tensor) -> Tensor:
        if self.order and x.numel():
            # Neither the order of norms nor their ratios depend on the unit. Powers of coordinates
            # that are brought near one neither overflow nor vanish, and a power of two rounds
            # nothing.
            x = x / unit_of(x.detach().abs().amax((-2, -1), keepdim=True))
        return x

    def pairwise(self, rows: Tensor, space: Tensor) -> Tensor:
        return norms.pairwise(rows, space, self.order)

    def condensed(self, space: Tensor) -> Tensor:
        if self.order in norms.KERNELS and checks.on_host(space):
            # Several times as fast as the general kernel, but of one cloud at a time.
            found = [torch.pdist(cloud, self.order) for cloud in space.unbind()]
            return torch.stack(found) if len(found) > 1 else found[0][None]
        return _upper(self.pairwise(space, space))

    def part(self, space: Tensor, rows: Tensor) -> Tensor:
        return space[rows]

    @torch.no_grad()
    def distances(self, x: Tensor) -> Tensor:
        space = self.prepare(x)
        d = self.pairwise(space, space)
        return d if self.power == 1 else d**self.power

    def measure(self, x: Tensor, edges: Tensor) -> Tensor:
        by_hand = self.order == 2 and self.power == 1 and checks.plain()
        points, ends = norms.ends_of(x, edges)
        if by_hand:
            lengths = norms.euclidean(points, ends)
        else:
            first, second = norms.both_ends(points, ends)
            lengths = self.length(first - second)
        return lengths.view(edges.shape[:-1])


class Cosine(Differences):
    """One minus the cosine, as half the squared distance of unit rows; see `norms.directions`."""

    def __init__(self) -> None:
        super().__init__(2.0, norms.half_square_sum, 2.0)

    def prepare(self, x: Tensor) -> Tensor:
        return super().prepare(norms.directions(x))

    def measure(self, x: Tensor, edges: Tensor) -> Tensor:
        return super().measure(norms.directions(x), edges)


class _OfMatrix(Metric):
    """A metric whose space is the matrix of all distances, O(n^2) memory.

    Infinite ones become the largest number: infinity itself means that a pair is excluded.
    """

    @abstractmethod
    def distances(self, x: Tensor) -> Tensor:
        """All distances ``(..., n, n)``, symmetric, without gradient."""

    def prepare(self, x: Tensor) -> Tensor:
        d = self.distances(x)
        top = torch.finfo(d.dtype).max
        return d.nan_to_num(nan=top, posinf=top)

    def pairwise(self, rows: Tensor, space: Tensor) -> Tensor:
        return rows

    def condensed(self, space: Tensor) -> Tensor:
        return _upper(space)

    def part(self, space: Tensor, rows: Tensor) -> Tensor:
        return space[rows[..., :, None], rows[..., None, :]]


class Precomputed(_OfMatrix):
    """Distances as they are given; those of a pair are averaged."""

    precomputed = True

    @torch.no_grad()
    def distances(self, x: Tensor) -> Tensor:
        return x / 2 + x.mT / 2

    def measure(self, x: Tensor, edges: Tensor) -> Tensor:
        n = x.shape[-1]
        i, j = edges.unbind(-1)
        flat = x.flatten(-2)
        return flat.gather(-1, i * n + j) / 2 + flat.gather(-1, j * n + i) / 2

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.part(x, rows)

    def check_shape(self, name: str, x: Tensor) -> None:
        checks.check_floating(name, x)
        if x.dim() < 2 or x.shape[-1] != x.shape[-2]:
            raise ValueError(
                f"`{name}` must have shape (..., n, n), one distance a pair, got {tuple(x.shape)}."
            )

    def check(self, name: str, x: Tensor) -> None:
        self.check_shape(name, x)
        if checks.on_host(x):
            _check_distances(name, x)


class OfRows(_OfMatrix):
    """A callable ``(a, b) -> (...)`` that gives the distance of each row of ``a`` to that of ``b``.

    Pairs are compared in blocks, each pair once and with the lower row number first: so the matrix
    is symmetric however the callable rounds, and all methods see the same distances.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    @torch.no_grad()
    def distances(self, x: Tensor) -> Tensor:
        n, device = x.shape[-2], x.device
        i, j = torch.triu_indices(n, n, 1, device=device)
        # Traced, a block is for each cloud, so that one program runs for any number of clouds.
        width = x.numel() // max(n, 1) if checks.eager() else x.shape[-1]
        at_once = blocks.rows_of_table(width, x.dtype, device)
        found = [
            self.between(x.index_select(-2, a), x.index_select(-2, b))
            for a, b in zip(i.split(at_once), j.split(at_once), strict=True)
        ]
        place = torch.full((n, n), len(i), device=device)  # a zero stands there, for the diagonal
        place[i, j] = place[j, i] = torch.arange(len(i), device=device)
        return pad(torch.cat(found, -1).clamp_min(0), (0, 1))[..., place]

    def measure(self, x: Tensor, edges: Tensor) -> Tensor:
        points, ends = norms.ends_of(x, edges)
        return self.between(*norms.both_ends(points, ends)).view(edges.shape[:-1])

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """The callable's distances ``(...)`` of rows ``(..., D)``, checked."""
        d = self.function(a, b)
        if not isinstance(d, Tensor) or not d.is_floating_point():
            got = d.dtype if isinstance(d, Tensor) else type(d).__name__
            raise TypeError(f"`metric` must return a floating-point tensor, got {got}.")
        if d.shape != a.shape[:-1]:
            raise ValueError(
                f"`metric` must return one distance a row, shape {tuple(a.shape[:-1])} for rows of "
                f"shape {tuple(a.shape)}, got {tuple(d.shape)}. Reduce the last axis, and no other."
            )
        if checks.on_host(d) and d.numel() and not bool((d >= -_ROUNDING * d.abs().max()).all()):
            raise ValueError(
                f"`metric` must return distances, not negative and not NaN, got {d.min():.3g}."
            )
        return at_least_float32(d)


def _upper(d: Tensor) -> Tensor:
    """Entries ``(B, m)`` above the diagonal of square matrices, row by row."""
    if checks.on_host(d) and len(d) == 1:  # far faster, and a large cloud comes alone
        from scipy.spatial.distance import squareform

        return torch.from_numpy(squareform(d[0].numpy(), checks=False))[None]
    n = d.shape[-1]
    i, j = torch.triu_indices(n, n, 1, device=d.device)
    return d[..., i, j]


def _check_distances(name: str, d: Tensor) -> None:
    """Refuse NaN, negative and asymmetric distances off the diagonal. Synchronises."""
    n = d.shape[-1]
    off = ~torch.eye(n, dtype=torch.bool, device=d.device)
    advice = "Give the distances of a metric; only the diagonal is ignored."
    if bool((d.isnan() & off).any()):
        raise ValueError(f"`{name}` must not be NaN between two points. {advice}")
    if bool(((d < 0) & off).any()):
        low = float(d.masked_fill(~off, 0).min())
        raise ValueError(f"`{name}` must not be negative, got {low:.3g}. {advice}")
    other = d.mT
    gap = torch.where(d == other, 0, (d - other).abs())
    if bool(((gap > _ROUNDING * torch.maximum(d, other)) & off).any() or (gap.isinf() & off).any()):
        raise ValueError(
            f"`{name}` must be symmetric to 1e-4 of each distance. Symmetrise them first, "
            "for example by `(d + d.mT) / 2`."
        )


#: What may stand where a metric is asked for: a name, a pair of a family and its exponent (a list,
#: as JSON has it, too), a callable ``(a, b) -> (...)`` on rows, or a `Metric`.
MetricLike: TypeAlias = (
    str | tuple[str, float] | list[object] | Callable[[Tensor, Tensor], Tensor] | Metric
)


def _lp(p: float) -> Metric:
    return Differences(p, partial(norms.norm, p=p), 1 / min(p, 1.0))


def _fp(p: float) -> Metric:
    return Differences(p, partial(norms.power_sum, p=p), max(p, 1.0))


_FAMILIES: dict[object, Callable[[float], Metric]] = {"lp": _lp, "fp": _fp}
_NAMED: dict[object, Metric] = {
    "l1": _lp(1.0),
    "l2": _lp(2.0),
    "euclidean": _lp(2.0),
    "sqeuclidean": Differences(2.0, norms.square_sum, 2.0),
    "linf": _lp(math.inf),
    "cosine": Cosine(),
    "f0": Differences(0.0, norms.saturated_sum),
    "precomputed": Precomputed(),
}
_CHOICES = (*(name for name in _NAMED if name != "euclidean"), *((f, "p") for f in _FAMILIES))


def resolve_metric(metric: MetricLike) -> Metric:
    """The `Metric` that a name, a pair or a callable stands for; an unknown one is refused."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, tuple | list) and len(metric) == 2 and metric[0] in ("lp", "fp"):
        return _of_family(*metric)
    if isinstance(metric, type):
        raise TypeError(f"`metric` must be an object, got the class {metric.__name__}.")
    if callable(metric):
        return OfRows(metric)
    if metric != "euclidean":
        checks.check_choice("metric", metric, _CHOICES)
    return _NAMED[metric]


def _of_family(name: object, p: Any) -> Metric:
    checks.check_number("metric", p, -math.inf, math.inf)
    if not p > 0 or (p == math.inf and name == "fp"):
        raise ValueError(f"`metric` {name!r} needs a positive exponent, got {p}.")
    return _FAMILIES[name](float(p))
