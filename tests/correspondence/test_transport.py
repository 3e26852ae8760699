"""Plans: marginals hold, the optimum is that of POT, what is sharp is an assignment."""

import numpy as np
import ot
import pytest
import torch

from relreps.correspondence import transport, wasserstein
from tests._data import normal

close = torch.testing.assert_close


@pytest.mark.parametrize("shape", [(20, 20), (20, 30), (30, 20)])
def test_plan_has_its_marginals(shape):
    cost = torch.rand(shape, dtype=torch.float64)
    plan, _, error = transport.sinkhorn(cost, 0.05, 5000)
    size = max(shape)
    assert error < 1e-3
    assert plan.sum(0).max() <= 1 / size + 1e-3
    assert plan.sum(1).max() <= 1 / size + 1e-3
    torch.testing.assert_close(plan.sum().item(), min(shape) / size, atol=1e-3, rtol=0)


def test_sharp_plan_is_the_assignment():
    order = torch.randperm(15)
    cost = 1 - torch.eye(15, dtype=torch.float64)[order]
    plan, _, _ = transport.sinkhorn(cost, 0.01, 100)
    torch.testing.assert_close(plan * 15, torch.eye(15, dtype=torch.float64)[order])
    assert torch.equal(transport.assign(-cost)[1], order)


def test_marginals_hold_at_a_small_regularisation_and_the_plan_is_that_of_pot():
    cost = torch.cdist(normal(30, 3), normal(30, 3))
    plan, _, error = transport.sinkhorn(cost, 1e-3, 100_000)
    assert plan.isfinite().all()
    assert error < 1e-3
    plan, _, _ = transport.sinkhorn(cost, 0.1, 100_000)
    mass = np.full(30, 1 / 30)
    oracle = ot.sinkhorn(mass, mass, (cost / cost.mean()).numpy(), 0.1, method="sinkhorn_log")
    close(plan, torch.from_numpy(oracle), atol=1e-5, rtol=0)


def test_effective_rank():
    assert wasserstein.effective_rank(torch.ones(7)) == 7
    assert wasserstein.effective_rank(torch.tensor([1.0, 0.0, 0.0])) == 1
