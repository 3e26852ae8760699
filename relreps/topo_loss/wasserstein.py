"""Distance of two sets of death times."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from relreps._core import checks
from relreps._core.linalg import at_least_float32
from relreps._core.rounding import safe_power, unit_of
from relreps.topo_loss.deaths import check_deaths


def wasserstein_h0(a: Tensor, b: Tensor, q: float = 1.0, *, diagonal: bool = True) -> Tensor:
    r"""Wasserstein distance of two sets of death times, as persistence diagrams.

    .. math:: W_q = \Bigl( \min_\gamma \sum_{(i, j) \in \gamma} |a_i - b_j|^q +
              \sum_{i \notin \gamma} (a_i / 2)^q + \sum_{j \notin \gamma} (b_j / 2)^q
              \Bigr)^{1/q}

    over partial matchings :math:`\gamma`: a point of a diagram, with birth 0, is matched to one of
    the other or goes to the diagonal, at half its length (sup norm of the plane). An optimal
    matching keeps the order, so it is found exactly by dynamic programming over the sorted times:
    O(m m') time and memory, in m vector steps. With ``diagonal=False`` all are matched, in order:
    O(m log m). The gradient is that of the matching chosen; where the distance is 0 it is 0.

    Args:
        a: Death times, not negative, in any order.
        b: Death times; as many if ``diagonal=False``.
        q: Order, at least 1.
        diagonal: Whether points may go to the diagonal, as in the usual definition.

    Shape:
        - a: :math:`(*, m)`; b: :math:`(*, m')`. Output: :math:`(*)`.

    Example:
        >>> wasserstein_h0(torch.tensor([1.0, 2.0]), torch.tensor([2.5]))
        tensor(1.)
    """
    checks.check_number("q", q, 1, math.inf)
    checks.check_positive("q", q)
    check_deaths("a", a)
    check_deaths("b", b)
    checks.check_device(a, b, ("a", "b"))
    if a.shape[:-1] != b.shape[:-1] or (not diagonal and a.shape != b.shape):
        wanted = "the same leading axes" if diagonal else "one shape where `diagonal=False`"
        raise ValueError(
            f"`a` and `b` must have {wanted}, got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    first, second = at_least_float32(a).sort(-1).values, at_least_float32(b).sort(-1).values
    # In units (a power of two) near the longest one, so that powers neither overflow nor vanish.
    both = pad(torch.cat((first, second), -1).detach(), (1, 0))
    unit = unit_of(both.amax(-1, keepdim=True))
    first, second = first / unit, second / unit
    if diagonal:
        total = _cheapest_matching(first, second, q)
    else:
        total = ((first - second).abs() ** q).sum(-1)
    return (safe_power(total, 1 / q) * unit[..., 0]).to(a.dtype)


def _cheapest_matching(a: Tensor, b: Tensor, q: float) -> Tensor:
    """Cost of the best partial matching of two ascending sets."""
    # Let c_i[j] be the least cost of the first i of `a` and the first j of `b`. The last two are
    # matched, or one of them goes to the diagonal, so it is the least of
    #     c_{i-1}[j] + (a_i / 2)^q,   c_{i-1}[j-1] + |a_i - b_j|^q,   c_i[j-1] + (b_j / 2)^q.
    # Minus g[j] = sum_{k <= j} (b_k / 2)^q, the third is the value at j - 1: so the result minus g
    # is a running minimum over j of the first two.
    gone = pad((b / 2).pow(q).cumsum(-1), (1, 0))
    cost = gone
    for i in range(a.shape[-1]):
        point = a[..., i : i + 1]
        dropped = cost + (point / 2) ** q
        matched = cost[..., :-1] + (point - b).abs() ** q
        cost = torch.cat((dropped[..., :1], torch.minimum(dropped[..., 1:], matched)), -1)
        cost = gone + (cost - gone).cummin(-1).values
    return cost[..., -1]
