"""Plans: marginals hold, the optimum is that of POT, what is sharp is an assignment."""

import re
import warnings

import numpy as np
import ot
import pytest
import torch

from relreps import NumericalWarning
from relreps.correspondence import discover_parallel_anchors, transport
from relreps.translate import TransportTranslator
from tests._data import normal

close = torch.testing.assert_close


@pytest.mark.parametrize("shape", [(20, 20), (20, 30), (30, 20)])
def test_plan_has_its_marginals(shape):
    cost = torch.rand(shape, dtype=torch.float64)
    log_plan, _, error = transport.sinkhorn(cost, 0.05, 5000)
    plan = log_plan.exp()
    size = max(shape)
    assert error < 1e-3
    assert plan.sum(0).max() <= 1 / size + 1e-3
    assert plan.sum(1).max() <= 1 / size + 1e-3
    torch.testing.assert_close(plan.sum().item(), min(shape) / size, atol=1e-3, rtol=0)


def test_sharp_plan_is_the_assignment():
    order = torch.randperm(15)
    cost = 1 - torch.eye(15, dtype=torch.float64)[order]
    plan, _, _ = transport.sinkhorn(cost, 0.01, 100)
    torch.testing.assert_close(plan.exp() * 15, torch.eye(15, dtype=torch.float64)[order])
    assert torch.equal(transport.assign(-cost)[1], order)


def test_marginals_hold_at_a_small_regularisation_and_the_plan_is_that_of_pot():
    cost = torch.cdist(normal(30, 3), normal(30, 3))
    plan, _, error = transport.sinkhorn(cost, 1e-3, 100_000)
    assert plan.isfinite().all()  # its logarithm: no mass is so small that it is none
    assert error < 1e-3
    plan, _, _ = transport.sinkhorn(cost, 0.1, 100_000)
    mass = np.full(30, 1 / 30)
    oracle = ot.sinkhorn(mass, mass, (cost / cost.mean()).numpy(), 0.1, method="sinkhorn_log")
    close(plan.exp(), torch.from_numpy(oracle), atol=1e-5, rtol=0)


def test_a_schedule_falls_to_epsilon_and_ends_with_the_most_iterations():
    levels, iterations = zip(*transport.schedule(0.02, (5, 99)), strict=True)
    ratios = torch.tensor(levels[1:]) / torch.tensor(levels[:-1])
    close(ratios, ratios[:1].expand(19))
    assert levels[0] == pytest.approx(0.2)
    assert levels[-1] == pytest.approx(0.02)
    assert iterations == (5,) * 19 + (99,)


def test_barycenters_are_means_by_the_plan_and_seeds_keep_their_partners():
    plan, y = torch.rand(6, 5, dtype=torch.float64), normal(5, 3)
    means = transport.barycenters(plan.log(), y, 2)
    close(means[:2], y[:2])
    close(means[4], (plan[4][:, None] * y).sum(0) / plan[4].sum())


def test_equal_costs_of_zero_are_shared_alike():
    plan, _, error = transport.sinkhorn(torch.zeros(4, 4, dtype=torch.float64), 0.1, 100)
    close(plan.exp(), torch.full((4, 4), 1 / 16, dtype=torch.float64))
    assert error < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-30, 1e-300])
@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (20, 20)])
def test_no_regularisation_is_too_small_for_a_number(shape, epsilon, dtype):
    """Rows whose mass all goes to the slack have a mean; what is out of place is a share."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(shape, generator=generator, dtype=dtype)
    log_plan, scalings, error = transport.sinkhorn(cost, epsilon, 50)
    log_plan, scalings, error = transport.sinkhorn(cost, epsilon, 50, scalings)
    assert log_plan.isfinite().all()
    assert 0 <= error <= 1
    y = torch.randn(shape[1], 3, generator=generator, dtype=dtype)
    means = transport.barycenters(log_plan, y, 0)
    assert (means.amin(0) >= y.amin(0) - 1e-5).all()
    assert (means.amax(0) <= y.amax(0) + 1e-5).all()
    assert cost.min() <= transport.mean_cost(cost, log_plan) <= cost.max()


@pytest.mark.parametrize("sizes", [(300, 100), (100, 300)])
def test_small_regularisations_between_spaces_of_different_size(sizes):
    x, q = normal(300, 5), torch.linalg.qr(normal(5, 5)).Q
    x, y = x[: sizes[0]].float(), (x @ q)[: sizes[1]].float()
    seeds = torch.arange(10), torch.arange(10)
    for epsilon in (2e-3, 1e-30):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            pairs = discover_parallel_anchors(x, y, seeds, 100, epsilon=epsilon)
            translator = TransportTranslator(5, 5, epsilon=epsilon).fit(x, y, seeds)
        assert pairs.scores.isfinite().all()
        assert translator(x).isfinite().all()
        assert translator.objective.isfinite()
        assert 0 <= translator.marginal_error <= 1
        if epsilon == 2e-3:
            assert (pairs.indices_x == pairs.indices_y).double().mean() > 0.9


def test_what_is_out_of_place_is_said_as_a_share_of_the_mass():
    x, y = normal(40, 4).float(), normal(40, 4).float()
    seeds = torch.arange(6), torch.arange(6)
    with pytest.warns(NumericalWarning) as told:
        discover_parallel_anchors(x, y, seeds, 20, epsilon=1e-30)
    (share,) = re.findall(r"iterations: ([\d.]+)% of the mass", str(told[0].message))
    assert 1 < float(share) <= 100
    assert "below what float32 resolves" in str(told[0].message)
