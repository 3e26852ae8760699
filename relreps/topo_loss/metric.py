"""Metrics of point clouds: all pairs to select from, chosen pairs to measure with gradient.

Selection needs only the order of the distances, so every metric but ``f0`` is brought to a p-norm
there, or a power of one. Both sides take differences of coordinates: a matrix product is cheaper,
but its rounding is that of the squared norms, which buries every distance below a thousandth of the
radius in float32.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision, unit_rows
from relreps._core.rounding import safe_norm, safe_reciprocal

Metric: TypeAlias = str | tuple[str, float]

#: Exponents of which torch has a norm that neither overflows nor vanishes near one.
KERNELS = (1.0, 2.0, math.inf)
_NORMS = {"l1": 1.0, "l2": 2.0, "sqeuclidean": 2.0, "cosine": 2.0, "linf": math.inf}
NAMES = ("l1", "l2", "sqeuclidean", "linf", "cosine", "f0", "precomputed", ("lp", "p"), ("fp", "p"))


def parse_metric(metric: Metric) -> tuple[str, float]:
    """Name and exponent of a metric (a list, as JSON has it, too); an unknown one is refused."""
    if isinstance(metric, tuple | list) and len(metric) == 2 and metric[0] in ("lp", "fp"):
        checks.check_number("metric", metric[1], -math.inf, math.inf)
        if metric[1] > 0 and (metric[1] < math.inf or metric[0] == "lp"):
            return metric[0], float(metric[1])
        raise ValueError(f"`metric` {metric[0]!r} needs a positive exponent, got {metric[1]}.")
    name = "l2" if metric == "euclidean" else metric
    checks.check_choice("metric", name, NAMES)
    return str(name), _NORMS.get(str(name), 0.0)


def on_host(x: Tensor) -> bool:
    """Whether values may be looked at, and host libraries used: on the CPU, outside of tracing."""
    return x.device.type == "cpu" and checks.eager() and not _transformed(x)


def _transformed(x: Tensor) -> bool:
    """Whether ``x`` stands for values inside of `torch.func.grad`, `torch.vmap` and the like."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))


def check_cloud(name: str, x: Tensor, metric: Metric) -> None:
    """Refuse what is not ``(..., n, D)``, or square where the metric is precomputed."""
    checks.check_floating(name, x)
    square = parse_metric(metric)[0] == "precomputed"
    if x.dim() < 2 or (square and x.shape[-1] != x.shape[-2]):
        wanted = "(..., n, n), one distance a pair" if square else "(..., n, D), one point a row"
        raise ValueError(f"`{name}` must have shape {wanted}, got {tuple(x.shape)}.")


def check_distances(name: str, d: Tensor) -> None:
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
    if bool(((gap > 1e-4 * torch.maximum(d, other)) & off).any() or (gap.isinf() & off).any()):
        raise ValueError(
            f"`{name}` must be symmetric to 1e-4 of each distance. Symmetrise them first, "
            "for example by `(d + d.mT) / 2`."
        )


def embed(x: Tensor, metric: Metric) -> tuple[Tensor, float]:
    """Points and the exponent of the norm that orders their pairs as ``metric`` does; 0 is f0.

    A norm does not mind the unit, so the cloud is first divided by a power of two (exact) that
    brings it near one: powers of the coordinates then neither overflow nor vanish.
    """
    name, p = parse_metric(metric)
    x = at_least_float32(x)
    if name == "cosine":
        x = directions(x)
    if not p or not x.numel():
        return x, p
    largest = x.abs().amax((-2, -1), keepdim=True)
    return x / torch.where(largest > 0, largest, 1).log2().floor().exp2(), p


def pairwise(x: Tensor, y: Tensor, p: float) -> Tensor:
    """Distances ``(..., n, m)`` of points ``(..., n, D)`` and ``(..., m, D)``, 0 meaning f0.

    For p < 1 it is the p-th power of the norm, which does not overflow where the norm does.
    """
    with full_precision(x):
        if p in KERNELS:
            return torch.cdist(x, y, p, compute_mode="donot_use_mm_for_euclid_dist")
        total = x.new_zeros(*x.shape[:-1], y.shape[-2])
        largest = torch.cdist(x, y, math.inf) if p else total
        unit = torch.where(largest > 0, largest, 1)
        for k in range(x.shape[-1]):  # one coordinate at a time: no (n, m, D) tensor
            gap = (x[..., :, None, k] - y[..., None, :, k]).abs()
            total = total + ((gap / unit) ** p if p else _saturated(gap))
        if not p:
            return total
        return largest * total ** (1 / p) if p > 1 else largest**p * total


def directions(x: Tensor) -> Tensor:
    """Unit rows and one more coordinate, 1 for a row of zeros.

    Half the squared distance of two such rows is one minus their cosine, where a zero row has
    cosine 0 with all but its like: so a cosine distance is also a Euclidean one, and is measured
    without the cancellation of ``1 - cos``.
    """
    zero = (x == 0).all(-1, keepdim=True).to(x.dtype)
    return torch.cat((unit_rows(x), zero), -1)


def edge_lengths(x: Tensor, edges: Tensor, metric: Metric = "l2") -> Tensor:
    """Lengths of chosen pairs of points, with gradient.

    O(kD) for k pairs, backward included. An edge of length zero has gradient zero, never NaN; so
    has, for exponents below one, a coordinate in which both ends agree.

    Args:
        x: Points, or distances where the metric is ``"precomputed"``.
        edges: Pairs of row numbers. On the eager CPU their range is checked.
        metric: See `death_times`.

    Shape:
        - x: :math:`(*, n, D)`; edges: :math:`(*, k, 2)`, ``int64``. Output: :math:`(*, k)`.

    Example:
        >>> x = torch.tensor([[0.0], [5.0], [1.0]])
        >>> edge_lengths(x, torch.tensor([[0, 2], [1, 2]]))
        tensor([1., 4.])
    """
    check_cloud("x", x, metric)
    _check_edges(edges, x)
    return measure(x, edges, metric).to(x.dtype)


def _check_edges(edges: Tensor, x: Tensor) -> None:
    """Refuse what are not pairs of row numbers of ``x``."""
    if not isinstance(edges, Tensor) or edges.dtype != torch.long:
        got = edges.dtype if isinstance(edges, Tensor) else type(edges).__name__
        raise TypeError(f"`edges` must be an int64 tensor of row numbers, got {got}.")
    if edges.dim() != x.dim() or edges.shape[:-2] != x.shape[:-2] or edges.shape[-1] != 2:
        wanted = ", ".join([*map(str, x.shape[:-2]), "k", "2"])
        raise ValueError(f"`edges` must have shape ({wanted}), got {tuple(edges.shape)}.")
    if on_host(edges) and bool(((edges < 0) | (edges >= x.shape[-2])).any()):
        raise ValueError(
            f"`edges` must be row numbers from 0 to {x.shape[-2] - 1}, got some from "
            f"{int(edges.min())} to {int(edges.max())}."
        )


def measure(x: Tensor, edges: Tensor, metric: Metric) -> Tensor:
    """Lengths of edges as in `edge_lengths`, unchecked, and in float32 at least."""
    name, p = parse_metric(metric)
    with full_precision(x):
        wide = at_least_float32(x)
        if name == "precomputed":
            return _gather_pairs(wide, edges)
        if name == "cosine":
            wide = directions(wide)
        points, ends = _flat(wide, edges)
        if p == 2 and name in ("l2", "lp") and checks.eager() and not _transformed(x):
            lengths: Tensor = _Length.apply(points, ends)  # type: ignore[no-untyped-call]
        else:
            lengths = _size(_difference(points, ends), name, p)
        return lengths.view(edges.shape[:-1])


def _gather_pairs(d: Tensor, edges: Tensor) -> Tensor:
    """Means of both entries of each pair."""
    n = d.shape[-1]
    i, j = edges.unbind(-1)
    flat = d.flatten(-2)
    return flat.gather(-1, i * n + j) / 2 + flat.gather(-1, j * n + i) / 2


def _flat(x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Points of all clouds one after the other, and the rows of all first and all second ends."""
    *batch, n, width = x.shape
    clouds = math.prod(batch)
    if batch:
        edges = edges + torch.arange(clouds, device=x.device).view(*batch, 1, 1) * n
    return x.reshape(clouds * n, width), edges.reshape(-1, 2).mT.reshape(-1)


def _difference(points: Tensor, ends: Tensor) -> Tensor:
    """First end less second end of every edge, by one indexed read."""
    each = points.index_select(0, ends).view(2, ends.shape[0] // 2, points.shape[1])
    first, second = each.unbind()
    return first - second


def _size(gap: Tensor, name: str, p: float) -> Tensor:
    """Length of each difference ``(..., D)``."""
    if name == "l1":
        return gap.abs().sum(-1)
    if name == "sqeuclidean":
        return gap.square().sum(-1)
    if name == "cosine":
        return gap.square().sum(-1) / 2
    if gap.shape[-1] == 0:
        return gap.sum(-1)
    size = gap.abs()
    if name == "f0":
        return _saturated(size).sum(-1)
    if name == "fp":
        return _powers(size, p).sum(-1)
    if p == math.inf:
        return size.amax(-1)
    # Divided by its largest coordinate, which is a constant to autograd: a norm is homogeneous.
    largest = size.detach().amax(-1, keepdim=True)
    if p == 2:
        return safe_norm(gap / torch.where(largest > 0, largest, 1)) * largest[..., 0]
    total = _powers(size / torch.where(largest > 0, largest, 1), p).sum(-1)
    root: Tensor = torch.where(total > 0, torch.where(total > 0, total, 1) ** (1 / p), 0)
    return root * largest[..., 0]


class _Length(torch.autograd.Function):
    """Euclidean lengths of edges in half the passes over the memory, where no compiler joins them.

    Of any size, with gradient 0 at 0.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, ends: Tensor) -> Tensor:
        gap = _difference(points, ends)
        if not gap.shape[-1]:
            length = gap.sum(-1)
        else:
            largest = gap.abs().amax(-1, keepdim=True)  # far faster than the norm
            unit = gap / torch.where(largest > 0, largest, 1)
            length = torch.linalg.vector_norm(unit, dim=-1) * largest[..., 0]
        ctx.save_for_backward(points, ends, gap, length)
        return length

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        points, ends, gap, length = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, back to the points
            gap = _difference(points, ends)
            length = _size(gap, "l2", 2.0)
        slope = gap * (grad * safe_reciprocal(length))[..., None]
        out = grad.new_zeros(points.shape)  # of `grad`, which may be a batch of gradients
        return out.index_add_(0, ends, torch.cat((slope, -slope))), None


def _saturated(size: Tensor) -> Tensor:
    """``size / (1 + size)``, 1 at infinity."""
    size = size.clamp(max=torch.finfo(size.dtype).max)
    return size / (1 + size)


def _powers(size: Tensor, p: float) -> Tensor:
    """``size ** p``, with gradient 0 at 0, where it is infinite for p < 1."""
    powers: Tensor = torch.where(size > 0, torch.where(size > 0, size, 1) ** p, 0)
    return powers
