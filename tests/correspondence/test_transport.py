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


def test_a_schedule_falls_to_epsilon_and_ends_with_the_most_iterations():
    levels, iterations = zip(*transport.schedule(0.02, (5, 99)), strict=True)
    ratios = torch.tensor(levels[1:]) / torch.tensor(levels[:-1])
    close(ratios, ratios[:1].expand(19))
    assert levels[0] == pytest.approx(0.2)
    assert levels[-1] == pytest.approx(0.02)
    assert iterations == (5,) * 19 + (99,)


def test_barycenters_are_means_by_the_plan_and_seeds_keep_their_partners():
    plan, y = torch.rand(6, 5, dtype=torch.float64), normal(5, 3)
    means = transport.barycenters(plan, y, 2)
    close(means[:2], y[:2])
    close(means[4], (plan[4][:, None] * y).sum(0) / plan[4].sum())


def test_equal_costs_of_zero_are_shared_alike():
    plan, _, error = transport.sinkhorn(torch.zeros(4, 4, dtype=torch.float64), 0.1, 100)
    close(plan, torch.full((4, 4), 1 / 16, dtype=torch.float64))
    assert error < 1e-9
