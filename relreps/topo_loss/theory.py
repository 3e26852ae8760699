"""What densely connected batches say about the distribution that they are drawn from."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks


def mass_concentration_bound(
    p: float | Tensor,
    b: int,
    l: int,  # noqa: E741
    c: float | Tensor,
) -> Tensor:
    r"""Least mass around a set that a class must have if its batches are connected.

    Let a batch of b independent draws be connected at scale :math:`\beta` (all its death times are
    below :math:`\beta`) with probability at least c. If a set has mass p, then the points within
    :math:`l \beta` of it have at least mass

    .. math:: R(p) = \inf \{ q \in [p, 1] : \Psi(q) \le 1 - c \}, \qquad
              \Psi(q) = \sum_{\substack{u + v + w = b \\ u, w \ge 1,\; v < l}}
              \frac{b!}{u!\, v!\, w!}\, p^u (q - p)^v (1 - q)^w

    because with a point in the set, one beyond, and fewer than l between, some gap exceeds
    :math:`\beta`. The sum over u and w is done in closed form and every term left is positive;
    :math:`\Psi` falls as q grows, so R is found by bisection, to rounding in float64. O(l) time an
    entry.

    Args:
        p: Mass of the set, in [0, 1].
        b: Number of draws.
        l: Width of the shell in units of :math:`\beta`.
        c: Probability of a connected batch, in [0, 1].

    Shape:
        - p, c: numbers or tensors that broadcast. Output: that shape, float64.

    Example:
        >>> mass_concentration_bound(0.2, b=16, l=5, c=0.9)
        tensor(0.6386, dtype=torch.float64)

    References:
        Hofer et al., arXiv:2002.04805.
    """
    b, l = checks.check_size("b", b), checks.check_size("l", l)  # noqa: E741
    given = p if isinstance(p, Tensor) else c
    device = given.device if isinstance(given, Tensor) else torch.device("cpu")
    mass, level = (_probability(name, v, device) for name, v in (("p", p), ("c", c)))
    mass, level = torch.broadcast_tensors(mass, 1 - level)
    low, high = mass, torch.ones_like(mass)
    for _ in range(64):
        middle = (low + high) / 2
        enough = _disconnected(mass, middle, b, l) <= level
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(_disconnected(mass, mass, b, l) <= level, mass, high)


def _probability(name: str, value: float | Tensor, device: torch.device) -> Tensor:
    if not isinstance(value, Tensor):
        checks.check_number(name, value, 0, 1)
        return torch.tensor(value, dtype=torch.float64, device=device)
    checks.check_floating(name, value)
    checks.check_readable(name, value)
    inside = (value >= 0) & (value <= 1)
    if not bool(inside.all()):
        raise ValueError(f"`{name}` must be in [0, 1], got {float(value[~inside][0])}.")
    return value.detach().double()


def _disconnected(p: Tensor, q: Tensor, b: int, l: int) -> Tensor:  # noqa: E741
    """Probability of a draw that is surely not connected."""
    v = torch.arange(min(l, b - 1), dtype=torch.float64, device=p.device)
    p, shell, rest = p[..., None], (q - p)[..., None], (1 - q)[..., None]
    others = b - v
    total = p + rest
    share = torch.minimum(p, rest) / torch.where(total > 0, total, 1)
    # Not all of the others on one side: 1 - (1 - a)^m - a^m, without cancellation for a small.
    mixed = -torch.expm1(others * torch.log1p(-share)) - share**others
    top = torch.tensor(b + 1.0, dtype=torch.float64, device=p.device)
    ways = torch.lgamma(top) - torch.lgamma(v + 1) - torch.lgamma(others + 1)
    log = ways + torch.xlogy(v, shell) + torch.xlogy(others, total)
    return (log.exp() * mixed.clamp(min=0)).sum(-1)
