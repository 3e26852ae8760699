"""The alternation behind the discovery of anchors: codes give a plan, the plan gives anchors."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core.linalg import as_float64, at_least_float32, unit_rows
from relreps._core.warnings import NumericalWarning

#: Rounds of the alternation, over which the regularisation falls to its final value.
_ROUNDS = 20
_FIRST_EPSILON = 0.2
#: Sinkhorn iterations in a round, and in the last one, whose plan has to be right.
_ITERATIONS = 50
_LAST_ITERATIONS = 2000
#: Largest share of the mass that the last plan may have in the wrong place.
_TOLERANCE = 1e-2


class Anchors(NamedTuple):
    """Anchor directions of both spaces ``(A, D_x)``, ``(A, D_y)``, and the weight of each."""

    x: Tensor
    y: Tensor
    weights: Tensor


def softly_whitened(name: str, x: Tensor) -> Tensor:
    r"""Rows centred, softly whitened and scaled to length one ``(N, D)``; unlabelled statistics.

    .. math:: (x - \mu)(\Sigma + \tau I)^{-1/2}, \qquad
              \tau = 2 \operatorname{tr}\Sigma^2 / \operatorname{tr}\Sigma

    The ridge is twice the variance of the average direction, weighted by variance: it needs no
    choice, and does not change with the unit of the space or with dimensions that hold nothing.
    """
    rows = as_float64(x)
    rows = rows / rows.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    rows = rows - rows.mean(0)
    rows = rows / rows.abs().max().clamp(min=torch.finfo(x.dtype).eps)
    values, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    values = values.clamp(min=0)
    if values.sum() <= torch.finfo(x.dtype).eps:
        raise ValueError(
            f"`{name}` must vary, got rows that are all equal. Give at least two different rows."
        )
    ridge = 2 * values.square().sum() / values.sum()
    softened: Tensor = (rows @ vectors) * (values + ridge).rsqrt()
    return unit_rows(softened @ vectors.mT).to(x.device, at_least_float32(x).dtype)


def agreement(x: Tensor, y: Tensor, anchors: Anchors, own: bool = True) -> Tensor:
    """Cosine ``(N, M)`` between the weighted relative codes of every two rows.

    If ``own``, anchor i is row i of ``x``, and its code leaves that column out: else every pair
    would be confirmed by itself, right or wrong.
    """
    codes_x, codes_y = x @ anchors.x.mT, y @ anchors.y.mT
    if own:
        codes_x.fill_diagonal_(0)
    return unit_rows(codes_x * anchors.weights) @ unit_rows(codes_y * anchors.weights).mT


def alternate(
    x: Tensor, y: Tensor, start: Anchors, epsilon: float, seeds: int
) -> tuple[Anchors, float]:
    """Anchors found from those to start with, and the error of the last plan.

    The first ``seeds`` rows on both sides are pairs.

    In every round the codes relative to the present anchors give a transport plan, and every row
    of ``x`` becomes an anchor whose partner is the mean of the rows of ``y`` that the plan gives
    it: its direction lies on the sphere, its length says how certain the plan is, and weighs the
    column of the code. Seeds keep their partners. O(rounds NM (N + iterations)) time, O(NM) memory.
    """
    anchors, scalings, error = start, None, 0.0
    for t in range(_ROUNDS):
        level = _FIRST_EPSILON * (epsilon / _FIRST_EPSILON) ** (t / (_ROUNDS - 1))
        iterations = _ITERATIONS if t < _ROUNDS - 1 else _LAST_ITERATIONS
        cost = 1 - agreement(x, y, anchors, own=seeds > 0 or t > 0)
        plan, scalings, error = transport(cost, level, iterations, scalings)
        means = (plan / plan.sum(1, keepdim=True)) @ y
        means[:seeds] = y[:seeds]
        anchors = Anchors(x, unit_rows(means), torch.linalg.vector_norm(means, dim=-1))
    return anchors, error


def warn_of(error: float, epsilon: float, dtype: torch.dtype, stacklevel: int) -> None:
    """Say that the last plan has much of its mass in the wrong place, if so."""
    if error <= _TOLERANCE:
        return
    what = f"{error:.1%} of the mass is in the wrong place"
    if not error <= 1:  # rounding, not the iterations: the plan has no meaning
        what = "its plan has another mass than it should"
    if epsilon < 10 * torch.finfo(dtype).eps:
        what += f", as `epsilon` is below what {str(dtype).removeprefix('torch.')} resolves"
    warnings.warn(
        f"The transport did not converge in {_LAST_ITERATIONS} iterations: {what}, so the pairs "
        f"may be poor. Raise `epsilon`, now {epsilon:g}, and look at the scores.",
        NumericalWarning,
        stacklevel=stacklevel,
    )


def transport(
    cost: Tensor, epsilon: float, iterations: int, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor], float]:
    """Entropic plan ``(N, M)``, its log scalings, and the share of the mass in the wrong place.

    Every row has the same mass. The larger side keeps some of it: a slack row or column of
    constant cost takes what the smaller side has no room for, so that a match stays one to one.
    """
    import ot

    n, m = cost.shape
    size = max(n, m)
    rows = cost.new_full((n + (n < m),), 1 / size)
    columns = cost.new_full((m + (m < n),), 1 / size)
    mean = cost.mean().clamp(min=torch.finfo(cost.dtype).tiny)
    padded = torch.nn.functional.pad(cost / mean, (0, int(m < n), 0, int(n < m)), value=1.0)
    if n != m:
        (rows if n < m else columns)[-1] = abs(n - m) / size
    plan, log = ot.bregman.sinkhorn_log(
        rows,
        columns,
        padded,
        epsilon,
        numItermax=iterations,
        stopThr=1e-3 * size**-0.5,
        warmstart=start,
        warn=False,
        log=True,
    )
    error = max((plan.sum(1) - rows).abs().sum(), (plan.sum(0) - columns).abs().sum()) / 2
    return plan[:n, :m], (log["log_u"], log["log_v"]), float(error)


def assign(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one pairs of rows and columns that are most similar in sum, ``min(N, M)``."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity.cpu().numpy(), maximize=True)
    device = similarity.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


def margins(similarity: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """How far each pair is ahead of the best rival of either member ``(K,)``."""
    own = similarity[rows, columns]
    rivals = []
    for s, i, j in ((similarity, rows, columns), (similarity.mT, columns, rows)):
        if s.shape[1] > 1:
            rivals.append(s[i].scatter(1, j[:, None], -torch.inf).amax(1))
    return own - torch.stack(rivals).amax(0) if rivals else own
