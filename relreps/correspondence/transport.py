"""Optimal transport between two sets of rows: plans, and what alternations with them share."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core.warnings import warn

#: Steps of an alternation, over which the regularisation falls from the first value to the last.
_STEPS = 20
_FIRST_EPSILON = 0.2
#: Largest share of the mass that a plan may have in the wrong place.
_TOLERANCE = 1e-2


def schedule(epsilon: float, iterations: tuple[int, int]) -> list[tuple[float, int]]:
    """Regularisation and Sinkhorn iterations of each step of an alternation.

    The regularisation falls geometrically to ``epsilon``: a soft plan first, that commits to
    nothing. The last plan, which has to be right, gets the second number of iterations.
    """
    levels = [
        _FIRST_EPSILON * (epsilon / _FIRST_EPSILON) ** (t / (_STEPS - 1)) for t in range(_STEPS)
    ]
    return [(level, iterations[t == _STEPS - 1]) for t, level in enumerate(levels)]


def sinkhorn(
    cost: Tensor, epsilon: float, max_iterations: int, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor], float]:
    """Entropic plan ``(N, M)``, its log scalings, and the share of the mass in the wrong place.

    Every row has the same mass. The larger side keeps some of it: a slack row or column of
    constant cost takes what the smaller side has no room for, so that a match stays one to one.
    """
    import ot

    # For N < M: rows of mass 1/M and a slack row of mass (M - N)/M face M columns of mass 1/M.
    n, m = cost.shape
    size = max(n, m)
    rows = cost.new_full((n + (n < m),), 1 / size)
    columns = cost.new_full((m + (m < n),), 1 / size)
    mean = cost.mean().clamp(min=torch.finfo(cost.dtype).tiny)  # costs may all be 0
    padded = torch.nn.functional.pad(cost / mean, (0, int(m < n), 0, int(n < m)), value=1.0)
    if n != m:
        (rows if n < m else columns)[-1] = abs(n - m) / size
    plan, log = ot.bregman.sinkhorn_log(
        rows,
        columns,
        padded,
        epsilon,
        numItermax=max_iterations,
        stopThr=1e-3 * size**-0.5,
        warmstart=start,
        warn=False,
        log=True,
    )
    # Mass too much here is too little there: half of the differences have to move.
    error = max((plan.sum(1) - rows).abs().sum(), (plan.sum(0) - columns).abs().sum()) / 2
    return plan[:n, :m], (log["log_u"], log["log_v"]), float(error)


def barycenters(plan: Tensor, y: Tensor, seeds: int) -> Tensor:
    """The mean of the rows of ``y`` that a plan gives to each row of ``x`` ``(N, D_y)``.

    The first ``seeds`` rows of both sides are pairs, and get their partner.
    """
    means = (plan / plan.sum(1, keepdim=True)) @ y
    means[:seeds] = y[:seeds]
    return means


def warn_unless_converged(error: float, epsilon: float, iterations: int, plan: Tensor) -> None:
    """Say that a plan has much of its mass in the wrong place, if so."""
    if error <= _TOLERANCE:
        return
    what = f"{error:.1%} of the mass is in the wrong place"
    if not error <= 1:  # rounding, not the iterations: the plan has no meaning
        what = "its plan has another mass than it should"
    if epsilon < 10 * torch.finfo(plan.dtype).eps:
        what += f", as `epsilon` is below what {str(plan.dtype).removeprefix('torch.')} resolves"
    warn(
        f"The transport did not converge in {iterations} iterations: {what}, so the pairs may be "
        f"poor. Raise `epsilon`, now {epsilon:g}, and look at the scores."
    )


def assign(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one pairs of rows and columns that are most similar in sum, ``min(N, M)``."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity.cpu().numpy(), maximize=True)
    device = similarity.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)
