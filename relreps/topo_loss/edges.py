"""Lengths of chosen pairs of points."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision
from relreps.topo_loss.kinds import MetricLike, resolve_metric


def edge_lengths(x: Tensor, edges: Tensor, metric: MetricLike = "l2") -> Tensor:
    """Lengths of chosen pairs of points, with gradient.

    O(kD) for k pairs, backward included. An edge of length zero has gradient zero, never NaN; so
    has, for exponents below one, a coordinate in which both ends agree. Those of a callable are its
    own.

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
    rule = resolve_metric(metric)
    rule.check_shape("x", x)
    _check_edges(edges, x)
    with full_precision(x):
        return rule.measure(at_least_float32(x), edges).to(x.dtype)


def _check_edges(edges: Tensor, x: Tensor) -> None:
    """Refuse what are not pairs of row numbers of ``x``."""
    if not isinstance(edges, Tensor) or edges.dtype != torch.long:
        got = edges.dtype if isinstance(edges, Tensor) else type(edges).__name__
        raise TypeError(f"`edges` must be an int64 tensor of row numbers, got {got}.")
    if edges.dim() != x.dim() or edges.shape[:-2] != x.shape[:-2] or edges.shape[-1] != 2:
        wanted = ", ".join([*map(str, x.shape[:-2]), "k", "2"])
        raise ValueError(f"`edges` must have shape ({wanted}), got {tuple(edges.shape)}.")
    if checks.on_host(edges) and bool(((edges < 0) | (edges >= x.shape[-2])).any()):
        raise ValueError(
            f"`edges` must be row numbers from 0 to {x.shape[-2] - 1}, got some from "
            f"{int(edges.min())} to {int(edges.max())}."
        )
