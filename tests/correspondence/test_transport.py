"""Plans: marginals hold, the optimum is that of POT, what is sharp is an assignment."""

import numpy as np
import ot
import pytest
import torch

from relreps.correspondence import transport
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


def test_an_alternation_with_costs_that_stay_is_one_plan():
    cost, y = torch.rand(12, 12, dtype=torch.float64), normal(12, 3)
    end = transport.alternate(cost, lambda means: cost, y, 2, 0.05, (50, 5000))
    plan, _, error = transport.sinkhorn(cost, 0.05, 5000)
    assert max(end.error, error) < 1e-3
    close(end.plan, plan, atol=1e-3, rtol=0)
    close(end.means[:2], y[:2])
    close(end.means[2:], (end.plan @ y * 12)[2:], atol=1e-2, rtol=0)


def test_equal_costs_of_zero_are_shared_alike():
    plan, _, error = transport.sinkhorn(torch.zeros(4, 4, dtype=torch.float64), 0.1, 100)
    close(plan, torch.full((4, 4), 1 / 16, dtype=torch.float64))
    assert error < 1e-9
