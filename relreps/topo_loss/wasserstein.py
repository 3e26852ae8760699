"""Distance of two sets of death times."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from relreps._core import checks
from relreps._core.linalg import as_float64, at_least_float32
from relreps._core.rounding import safe_divisor
from relreps.topo_loss.deaths import check_deaths
from relreps.topo_loss.norms import norm


def wasserstein_h0(a: Tensor, b: Tensor, q: float = 1.0, *, diagonal: bool = True) -> Tensor:
    r"""Wasserstein distance of two sets of death times, as persistence diagrams.

    .. math:: W_q = \Bigl( \min_\gamma \sum_{(i, j) \in \gamma} |a_i - b_j|^q +
              \sum_{i \notin \gamma} (a_i / 2)^q + \sum_{j \notin \gamma} (b_j / 2)^q
              \Bigr)^{1/q}

    over partial matchings :math:`\gamma`: a point of a diagram, with birth 0, is matched to one of
    the other or goes to the diagonal, at half its length (sup norm of the plane). For
    :math:`q = \infty` it is the bottleneck distance, the largest of these terms. An optimal
    matching keeps the order, so it is found exactly by dynamic programming over the sorted times:
    O(m m') time and memory, in m vector steps; the bottleneck in O(m log m). With
    ``diagonal=False`` all are matched, in order: O(m log m). The matching is chosen without
    gradient, in float64; its terms are then measured with gradient, so near diagrams keep their
    distance. Where that is 0 the gradient is 0.

    Args:
        a: Death times, not negative, in any order.
        b: Death times; as many if ``diagonal=False``.
        q: Order, at least 1, or infinity.
        diagonal: Whether points may go to the diagonal, as in the usual definition.

    Shape:
        - a: :math:`(*, m)`; b: :math:`(*, m')`. Output: :math:`(*)`.

    Example:
        >>> wasserstein_h0(torch.tensor([1.0, 2.0]), torch.tensor([2.5]))
        tensor(1.)
    """
    checks.check_number("q", q, 1, math.inf)
    check_deaths("a", a)
    check_deaths("b", b)
    checks.check_device(a, b, ("a", "b"))
    if a.shape[:-1] != b.shape[:-1] or (not diagonal and a.shape != b.shape):
        wanted = "the same leading axes" if diagonal else "one shape where `diagonal=False`"
        raise ValueError(
            f"`a` and `b` must have {wanted}, got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    first, second = at_least_float32(a).sort(-1).values, at_least_float32(b).sort(-1).values
    if diagonal:
        with torch.no_grad():
            partner = _matching(as_float64(first), as_float64(second), float(q)).to(a.device)
        terms = _terms(first, second, partner)
    else:
        terms = first - second
    return norm(pad(terms, (0, 1)), float(q)).to(a.dtype)  # a zero, for diagrams without points


def _terms(a: Tensor, b: Tensor, partner: Tensor) -> Tensor:
    """Terms ``(..., m + m')`` of a matching: those of the points of ``a``, then of the rest."""
    # The diagonal stands before the points of `b`, as a point at a / 2 from a and at 0.
    dropped = partner == 0
    ends = pad(b, (1, 0)).gather(-1, partner)
    taken = torch.zeros_like(pad(b, (1, 0)), dtype=torch.bool).scatter(-1, partner, True)[..., 1:]
    return torch.cat((torch.where(dropped, a / 2, a - ends), torch.where(taken, 0, b / 2)), -1)


def _matching(a: Tensor, b: Tensor, q: float) -> Tensor:
    """For each of one ascending set its partner in the other, from 1, or 0 for the diagonal."""
    matched, bottleneck = _bottleneck(a, b)
    m, n = a.shape[-1], b.shape[-1]
    if q == math.inf:
        i = torch.arange(m, device=a.device)
        return torch.where(m - i <= matched, i + (n - m + 1), 0)
    # In units of the bottleneck w, w <= W_q <= (m + n)^(1/q) w: the best sum of powers is from 1 to
    # m + n. A term beyond that is in no best matching, and stays in none if it is lowered to twice
    # of it: so nothing overflows, and little is lost where sums are subtracted.
    unit = safe_divisor(bottleneck)[..., None, None]
    top = 2.0 * (m + n)

    def cost(term: Tensor) -> Tensor:
        term = (term / unit).clamp(max=top)
        return term if q == 1 else term.pow(q).clamp(max=top)

    # Beyond what it costs that all go to the diagonal, a matching costs the sum over its pairs of
    #     s_ij = |a_i - b_j|^q - (a_i / 2)^q - (b_j / 2)^q.
    # Let c_i[j] be the least such sum for the first i of `a` and the first j of `b`. Of their last
    # two both are matched, or one of them is not, so it is the least of
    #     c_{i-1}[j],   c_{i-1}[j-1] + s_ij,   c_i[j-1]:   a running minimum of the first two.
    a, b = a[..., :, None], b[..., None, :]
    extra = cost((a - b).abs()) - cost(a / 2) - cost(b / 2)
    least = [torch.zeros_like(pad(b[..., 0, :], (1, 0)))]
    for pairs in extra.unbind(-2):
        before = least[-1]
        row = before.clone()
        row[..., 1:] = torch.minimum(before[..., 1:], before[..., :-1] + pairs)
        least.append(row.cummin(-1).values)
    # Back from the last two: a_i is matched where it lowers the sum, and to the first b_j from
    # which on the sum is as low.
    j = torch.full_like(matched, n)[..., None]
    partner = []
    for row, before in zip(least[:0:-1], least[-2::-1], strict=True):
        here = row.gather(-1, j)
        lower = here < before.gather(-1, j)
        at = (row > here).sum(-1, keepdim=True)
        partner.append(torch.where(lower, at, 0))
        j = torch.where(lower, at - 1, j)
    return torch.cat(partner[::-1], -1) if m else a[..., 0].long()


def _bottleneck(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the largest of two ascending sets to match, in order, and the largest term."""
    # It is enough to match the k largest of both, in order. For let w be the largest term of a
    # matching in which x goes to the diagonal, so x <= 2 w, while y < x is matched to z. If z >= x,
    # then x is nearer to z than y is, and may change places with y. If z < x, then all three may go
    # to the diagonal, as each of them is at most 2 w.
    k = min(a.shape[-1], b.shape[-1])
    a, b = (pad(v.flip(-1), (0, 1))[..., : k + 1] for v in (a, b))  # the next one, or 0
    farthest = pad((a - b).abs()[..., :k], (1, 0)).cummax(-1).values
    worst = torch.maximum(farthest, torch.maximum(a, b) / 2)
    least = worst.min(-1)
    return least.indices, least.values
