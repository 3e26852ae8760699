"""Optimal transport between two sets of rows: plans, and what alternations with them share."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core.optional import without_backends
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
    """Logarithm of the entropic plan ``(N, M)``, its log scalings, the share out of place.

    Every row has the same mass. The larger side keeps some of it: a slack row or column of
    constant cost takes what the smaller side has no room for, so that a match stays one to one.
    The share, from 0 to 1, is of mass that is not where the marginals want it.
    """
    # Only here is POT asked for: it may bring other libraries with it.
    ot = without_backends("ot")

    # For N < M: rows of mass 1/M and a slack row of mass (M - N)/M face M columns of mass 1/M.
    n, m = cost.shape
    size = max(n, m)
    rows = cost.new_full((n + (n < m),), 1 / size)
    columns = cost.new_full((m + (m < n),), 1 / size)
    mean = cost.mean().clamp(min=torch.finfo(cost.dtype).tiny)  # costs may all be 0
    padded = torch.nn.functional.pad(cost / mean, (0, int(m < n), 0, int(n < m)), value=1.0)
    if n != m:
        (rows if n < m else columns)[-1] = abs(n - m) / size
    # Costs near 1 are known to their rounding: far below it, nothing is left to regularise.
    epsilon = max(epsilon, torch.finfo(cost.dtype).eps ** 2)
    _, log = ot.bregman.sinkhorn_log(
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
    log_plan = log["log_u"][:, None] + log["log_v"] - padded / epsilon
    # Its mass is 1 but for rounding, which at a small epsilon may be all that there is.
    plan = log_plan.flatten().softmax(0).view_as(log_plan)
    # Mass too much here is too little there: half of the differences have to move.
    error = max((plan.sum(1) - rows).abs().sum(), (plan.sum(0) - columns).abs().sum()) / 2
    return log_plan[:n, :m], (log["log_u"], log["log_v"]), float(error)


def barycenters(log_plan: Tensor, y: Tensor, seeds: int) -> Tensor:
    """The mean of the rows of ``y`` that a plan gives to each row of ``x`` ``(N, D_y)``.

    The first ``seeds`` rows of both sides are pairs, and get their partner. A row whose mass all
    but went to the slack has a mean like any other: it is a softmax, whatever the mass is.
    """
    means = log_plan.softmax(1) @ y
    means[:seeds] = y[:seeds]
    return means


def mean_cost(cost: Tensor, log_plan: Tensor) -> float:
    """The mean of the costs where a plan has its mass."""
    return float((log_plan.flatten().softmax(0) * cost.flatten()).sum())


def warn_unless_converged(error: float, epsilon: float, iterations: int, plan: Tensor) -> None:
    """Say that a plan has much of its mass in the wrong place, if so."""
    if error <= _TOLERANCE:
        return
    what = f"{error:.1%} of the mass is in the wrong place"
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
