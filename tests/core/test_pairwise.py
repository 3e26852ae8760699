"""Distances by differences: those of SciPy, with two derivatives and right Jacobians."""

import itertools
import math

import pytest
import scipy.spatial.distance
import torch

from relreps._core import blocks
from relreps._core.pairwise import distances

NORMS = {1.0: "cityblock", 2.0: "euclidean", math.inf: "chebyshev"}
close = torch.testing.assert_close


def clouds(*lead):
    return torch.randn(*lead, 5, 3).double(), torch.randn(*lead, 4, 3).double()


def by_hand(x, y, p):
    return torch.linalg.vector_norm(x[..., :, None, :] - y[..., None, :, :], p, dim=-1)


@pytest.mark.parametrize(("p", "name"), NORMS.items())
def test_values_are_those_of_scipy(p, name):
    x, y = clouds()
    close(distances(x, y, p), torch.from_numpy(scipy.spatial.distance.cdist(x, y, name)))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
def test_both_derivatives(p, lead):
    x, y = (cloud.requires_grad_() for cloud in clouds(*lead))
    assert torch.autograd.gradcheck(lambda x, y: distances(x, y, p), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: distances(x, y, p), (x, y))


@pytest.mark.parametrize("p", NORMS)
def test_second_derivatives_are_taken_in_blocks(p, monkeypatch):
    monkeypatch.setattr(blocks, "_TABLE_CPU", 200)
    x, y = (cloud.requires_grad_() for cloud in clouds())
    assert torch.autograd.gradgradcheck(lambda x, y: distances(x, y, p), (x, y))


@pytest.mark.parametrize("p", NORMS)
def test_hessians_by_torch_func(p):
    x, y = clouds()
    weights = torch.randn(5, 4).double()

    def loss(distance):
        return lambda x: (distance(x, y, p).pow(3) * weights).sum()

    found = torch.func.jacrev(torch.func.jacrev(loss(distances)))(x)
    close(found, torch.autograd.functional.hessian(loss(by_hand), x))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("dims", [*itertools.product((0, None), repeat=3)][:-1], ids=str)
def test_vmap_whatever_is_many(p, dims):
    """Torch's own rule for the slopes is wrong where the weights alone are many."""
    inputs = torch.randn(3, 5, 4).double(), *clouds(3)
    given = [t if dim == 0 else t[0] for t, dim in zip(inputs, dims, strict=True)]

    def slopes(weights, x, y):
        return torch.func.grad(lambda x: (distances(x, y, p) * weights).sum())(x)

    each = zip(*(t if d == 0 else [t] * 3 for t, d in zip(given, dims, strict=True)), strict=True)
    close(torch.vmap(slopes, dims)(*given), torch.stack([slopes(*one) for one in each]))


def test_coincident_points_have_no_slope_and_no_curvature():
    x = torch.ones(3, 2).double().requires_grad_()
    (slope,) = torch.autograd.grad(distances(x, x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum() + slope.sum(), x)
    assert (slope == 0).all()
    assert (curvature == 0).all()


def test_memory_of_the_first_derivative_is_that_of_the_table():
    from tests._data import Largest

    x = torch.randn(60, 50).requires_grad_()
    with Largest() as made:
        torch.autograd.grad(distances(x, x).sum(), x, create_graph=True)
    assert made.size <= 60 * 60
