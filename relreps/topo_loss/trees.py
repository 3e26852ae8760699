"""Minimum spanning trees of clouds: which pairs of points a single linkage joins."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision
from relreps.topo_loss.growth import boruvka, closure, prim
from relreps.topo_loss.kinds import resolve_metric
from relreps.topo_loss.linkage import single_linkage
from relreps.topo_loss.metric import Metric
from relreps.topo_loss.order import Candidates

#: Clouds of at most this many points go by the closure.
CLOSURE_SIZE = 32

_FINDERS: dict[str, Callable[[Candidates], Tensor]] = {
    "closure": closure,
    "prim": prim,
    "boruvka": boruvka,
    "single_linkage": single_linkage,
}


def minimum_spanning_tree(distances: Tensor, method: str = "auto") -> Tensor:
    """Edges of the minimum spanning tree of each matrix of distances.

    Pairs are ordered by (length, i, j) with i < j, so the tree is unique: every method finds the
    same one, ties and zeros included. Infinite distances are allowed, for pairs that do not touch:
    the finite edges are then a spanning forest and come first. There is no gradient: measure the
    edges with `relreps.topo_loss.edge_lengths`.

    Args:
        distances: Symmetric to 1e-4 of each entry (the mean of both is taken), not negative. The
            diagonal is ignored. Values are checked on the CPU, outside of ``torch.compile``.
        method: As in `death_times`.

    Shape:
        - distances: :math:`(*, n, n)`. Output: :math:`(*, n - 1, 2)`, ``int64``, i < j in a row,
          rows in the order of the pairs.

    Raises:
        TypeError, ValueError: No real square matrix, NaN, negative or asymmetric distances, an
            unknown method.

    Example:
        >>> x = torch.tensor([[0.0], [5.0], [1.0]])
        >>> minimum_spanning_tree((x - x.T).abs())
        tensor([[0, 2],
                [1, 2]])
    """
    rule = resolve_metric("precomputed")
    check_method(method)
    rule.check("distances", distances)
    with full_precision(distances):
        return spanning_edges(at_least_float32(distances), rule, method)


def spanning_lengths(
    x: Tensor, metric: Metric, method: str, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Lengths of the spanning edges, with gradient, and which of these edges exist.

    One that joins two groups does not, nor does one that the given distances call infinite. A
    length that overflowed is still one: what is computed from it is to overflow as well.
    """
    edges = spanning_edges(x, metric, method, groups)
    lengths = metric.measure(x, edges)
    exist = ~lengths.isinf() if metric.precomputed else torch.ones_like(lengths, dtype=torch.bool)
    if groups is not None:
        i, j = edges.unbind(-1)
        exist = exist & (groups.gather(-1, i) == groups.gather(-1, j))
    return lengths, exist


def spanning_edges(
    x: Tensor, metric: Metric, method: str = "auto", groups: Tensor | None = None
) -> Tensor:
    """Edges of the minimum spanning tree of each cloud, without gradient; values go unchecked.

    Pairs of different ``groups`` are infinitely far apart: the first edges then make a spanning
    forest, and those that join two groups come last, in no promised order.

    Args:
        x: Clouds, in float32 at least.
        metric: Their metric.
        method: As in `death_times`.
        groups: Integers.

    Shape:
        - x: :math:`(*, n, D)`; groups: :math:`(*, n)`. Output: :math:`(*, n - 1, 2)`.
    """
    *batch, n, width = x.shape
    find = _finder(method, x)
    clouds = math.prod(batch)
    if n < 2 or not clouds:
        return torch.zeros(*batch, max(n - 1, 0), 2, dtype=torch.long, device=x.device)
    with torch.no_grad():
        space = metric.prepare(x.detach().reshape(clouds, n, width))
        groups = None if groups is None else groups.reshape(clouds, n)
        return find(Candidates(space, metric, groups)).view(*batch, n - 1, 2)


def check_method(method: str) -> None:
    """Refuse an unknown method."""
    checks.check_choice("method", method, ("auto", *_FINDERS))


def _finder(method: str, x: Tensor) -> Callable[[Candidates], Tensor]:
    """What ``"auto"`` stands for; a method that cannot run here is refused."""
    if method == "auto" and x.shape[-2] <= CLOSURE_SIZE:
        return closure
    if method == "auto":
        return single_linkage if checks.on_host(x) else boruvka
    if method == "single_linkage" and not checks.on_host(x):
        raise ValueError(
            "`method` 'single_linkage' runs on the CPU outside of torch.compile only. Use 'auto', "
            "'closure', 'prim' or 'boruvka' here."
        )
    return _FINDERS[method]
