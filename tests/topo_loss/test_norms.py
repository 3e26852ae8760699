"""Lengths of differences, and their derivatives: of any size, of any order, by any transform."""

import math

import pytest
import torch

from relreps import TopologicalDensificationLoss, topological_densification_loss
from relreps.topo_loss import ConnectivityLoss, death_times, edge_lengths
from relreps.topo_loss.norms import norm, power_sum, saturated_sum
from tests.topo_loss._clouds import NAMES, cloud_of

EDGES = torch.tensor([[0, 1], [2, 3], [1, 4], [0, 5]])
SMALLEST = 2.0**-149
#: Torch's own rules for tangents are scripts.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def sums_of_lengths(metric):
    weights = torch.tensor([0.25, -1.0, 3.0, 0.5])
    return lambda x: (edge_lengths(x, EDGES, metric) * weights.to(x)).sum()


def gradient(f, x):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


@pytest.mark.parametrize("metric", NAMES, ids=str)
@pytest.mark.parametrize("scale", [SMALLEST, 1e-42, 1e-38, 1e-30, 1.0, 1e30])
def test_gradients_of_lengths_of_any_size(metric, scale):
    """Those of float64, eager and under `torch.func`, down to the smallest number that there is."""
    x = scale * cloud_of("random", 6, 4, torch.float32)
    x = torch.where(x.abs() < scale, x.sign() * scale, x)  # none of them vanishes
    f = sums_of_lengths(metric)
    wanted = gradient(f, x.double())
    if metric in ("f0", "cosine") and scale in (1e30, SMALLEST, 1e-42):
        return  # the slope itself is out of range
    tolerance = 1e-5 * wanted.abs().max() + 2 * SMALLEST
    for found in (gradient(f, x), torch.func.grad(f)(x)):
        assert (found.double() - wanted).abs().max() <= tolerance


@pytest.mark.parametrize("metric", ["l2", "l1", "linf", ("lp", 3.0), ("lp", 0.5)], ids=str)
def test_gradients_of_a_saturated_softmax(metric):
    """Differences of some e^-95 between rows of length one."""
    logits = [[0.0, 0, -120], [0, -95, -120], [0, -96, -120], [5, 0, 0]]
    z = torch.tensor(logits).softmax(-1)

    def loss(z):
        return topological_densification_loss(z, 1.0, metric=metric)

    wanted = gradient(loss, z.double())
    assert torch.allclose(gradient(loss, z).double(), wanted, rtol=1e-5, atol=1e-7)
    assert torch.allclose(torch.func.grad(loss)(z).double(), wanted, rtol=1e-5, atol=1e-7)


def test_slopes_of_the_saturated_metric_far_out():
    gap = torch.tensor([[1e-30], [1e-3], [0.9], [1.0], [3.0], [1e4], [1e15]], requires_grad=True)
    (slope,) = torch.autograd.grad(saturated_sum(gap).sum(), gap)
    wanted = (1 + gap.detach().double()) ** -2
    assert torch.allclose(slope.double(), wanted, rtol=1e-6, atol=0)
    far = torch.tensor([[math.inf]], requires_grad=True)
    assert saturated_sum(far) == 1
    assert torch.autograd.grad(saturated_sum(far).sum(), far)[0] == 0


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0, math.inf])
def test_nan_is_not_measured(p):
    gap = torch.tensor([[math.nan, 1.0], [0.0, math.nan], [1.0, 0.0]])
    assert norm(gap, p).isnan().tolist() == [True, True, False]
    traced = torch.compile(norm, fullgraph=True, backend="eager")
    assert traced(gap, p).isnan().tolist() == [True, True, False]
    if p < math.inf:
        assert power_sum(gap, p).isnan().tolist() == [True, True, False]


@forward_mode
@pytest.mark.parametrize("metric", NAMES, ids=str)
def test_second_derivatives_of_lengths(metric):
    x = cloud_of("random", 6, 3).requires_grad_()
    f = sums_of_lengths(metric)
    assert torch.autograd.gradgradcheck(lambda x: edge_lengths(x, EDGES, metric), x)
    wanted = torch.autograd.functional.hessian(f, x.detach())
    assert torch.allclose(torch.func.hessian(f)(x.detach()), wanted)
    deaths = torch.autograd.functional.hessian(lambda x: death_times(x, metric).sum(), x.detach())
    by_func = torch.func.jacrev(torch.func.jacrev(lambda x: death_times(x, metric).sum()))
    assert torch.allclose(by_func(x.detach()), deaths)


@forward_mode
@pytest.mark.parametrize("metric", NAMES, ids=str)
def test_transforms_of_lengths(metric):
    x = cloud_of("random", 12, 3).view(2, 6, 3)

    def f(x):
        return edge_lengths(x, EDGES, metric)

    wanted = torch.stack([torch.autograd.functional.jacobian(f, one) for one in x])
    assert torch.allclose(torch.vmap(torch.func.jacrev(f))(x), wanted)
    assert torch.allclose(torch.vmap(torch.func.jacfwd(f))(x), wanted)


@pytest.mark.parametrize(
    "loss", [TopologicalDensificationLoss(1.0, mode="square"), ConnectivityLoss(metric="l2")]
)
def test_a_gradient_penalty_on_a_loss(loss):
    z = cloud_of("random", 8, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(loss, z)
    (slope,) = torch.autograd.grad(loss(z), z, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), z)
    by_func = torch.func.grad(lambda z: torch.func.grad(loss)(z).square().sum())(z.detach())
    assert torch.allclose(by_func, second)
    assert second.any()
