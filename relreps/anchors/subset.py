"""Which anchors of a set to keep: those that say something the others do not."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, full_precision, unit_rows
from relreps._core.rounding import rank_tolerance, rounding_of, unit_of


@torch.no_grad()
def prune_anchors(anchors: Tensor, threshold: float) -> Tensor:
    r"""Drop every anchor that is nearly parallel to one kept before it.

    Row i is kept if :math:`|\cos(a_i, a_j)| \le 1 - \delta` for every kept j < i. Opposite anchors
    count as parallel: their columns of a code differ by a sign. Greedy in the order given, so put
    anchors that must stay first; deterministic, and pruning the kept rows again keeps them all.
    Rows of zeros are dropped, and a cosine that differs from the limit by the rounding of the type
    of the anchors meets it. Translators that invert a relative code are as stable as the anchors
    of the *target* are well-conditioned: prune there. O(ADK) time for K kept rows, in float64.

    Args:
        anchors: Anchors, centred before if their code will be.
        threshold: :math:`\delta` in [0, 1]. 0 drops rows of zeros only; 1 keeps orthogonal rows.

    Shape:
        - anchors: :math:`(A, D)`. Output: :math:`(K,)`, indices of the kept rows, ascending.

    Raises:
        ValueError: If all anchors are zero.

    Example:
        >>> prune_anchors(torch.tensor([[1.0, 0.0], [-1.0, 0.01], [0.0, 1.0]]), 0.1)
        tensor([0, 2])

    References:
        Anchor pruning of inverse relative projections, arXiv:2406.15057, where the order is that of
        a farthest-point walk by :math:`1 - |\cos|` from a random row.
    """
    rows = _kept_precision(anchors)
    checks.check_number("threshold", threshold, 0, 1)
    # A turn by a small angle a changes a cosine c = cos(t) to cos(t - a) = c + a sin(t) + O(a^2),
    # and sin(t) = sqrt(1 - c^2): near 1 hardly at all.
    limit = 1 - threshold
    limit += (1 - limit**2) ** 0.5 * angle_rounding(anchors)
    kept = []
    with full_precision(anchors):
        units = unit_rows(rows)
        alive = (units != 0).any(1)
        while bool(alive.any()):
            i = int(alive.to(torch.uint8).argmax())
            kept.append(i)
            # Row by row, not by a product: the cosine of two rows is then the same in every set.
            cosines = (units * units[i]).sum(1).abs().clamp(max=1)
            alive &= cosines <= limit
            alive[: i + 1] = False
    return torch.tensor(kept, device=anchors.device)


def angle_rounding(anchors: Tensor) -> float:
    """Angle that rounding may turn rows by: of sums over their width, or of half a type.

    Here a half type counts with its own rounding, not as float32: copies of an anchor, computed
    twice in it, are apart by that much, and repeat each other all the same.
    """
    return max(anchors.shape[1] * rounding_of(anchors.dtype), 2 * torch.finfo(anchors.dtype).eps)


@torch.no_grad()
def pivoted_anchors(anchors: Tensor, num_anchors: int | None = None) -> Tensor:
    r"""A well-conditioned subset of anchors, by QR with column pivoting.

    Each step takes the row with the largest part outside the span of those taken before, so that
    the first k rows in practice span nearly as much as any k can, and the condition number stays
    low; contrived anchors can defeat it. Stops at the numerical rank by default: the rows after it
    are combinations of these. Deterministic; ties go to LAPACK, which takes the first. The first k
    indices are those of ``pivoted_anchors(anchors, k)``. Runs on the host. O(AD min(A, D)) in
    float64.

    Args:
        anchors: Anchors, centred or scaled to length one before if their code will be.
        num_anchors: How many to keep, at most the numerical rank, which is the default.

    Shape:
        - anchors: :math:`(A, D)`. Output: :math:`(K,)`, indices in the order taken.

    Raises:
        ValueError: If more are wanted than the rank, or all anchors are zero.

    Example:
        >>> pivoted_anchors(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
        tensor([1, 2])

    References:
        Businger and Golub 1965; an alternative to the pruning of arXiv:2406.15057.
    """
    from scipy.linalg import qr

    rows = _kept_precision(anchors)
    if num_anchors is not None:
        num_anchors = checks.check_size("num_anchors", num_anchors)
    triangle, order = qr(rows.mT.cpu().numpy(), mode="r", pivoting=True)
    sizes = torch.from_numpy(triangle).diagonal().abs()
    tolerance = rank_tolerance(anchors.shape[1], rounding_of(anchors.dtype))
    rank = int((sizes > sizes[0] * tolerance).sum())
    if num_anchors is not None and num_anchors > rank:
        raise ValueError(
            f"`num_anchors` must be at most the rank of the anchors, got {num_anchors} and "
            f"rank {rank} of {tuple(anchors.shape)} anchors: more would be linearly dependent."
        )
    return torch.from_numpy(order[: num_anchors or rank]).long().to(anchors.device)


def _kept_precision(anchors: Tensor) -> Tensor:
    """Checked anchors in float64, their largest entry near 1."""
    checks.check_rows("anchors", anchors)
    checks.check_readable("anchors", anchors)
    checks.check_finite("anchors", anchors)
    rows = as_float64(anchors)
    largest = rows.abs().max() if rows.numel() else rows.new_zeros(())
    if not bool(largest > 0):
        raise ValueError("`anchors` must not all be zero: a zero anchor has no direction.")
    return rows / unit_of(largest)
