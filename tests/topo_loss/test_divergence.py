"""RTD-Lite: the weights of the trees of two clouds."""

import numpy as np
import pytest
import torch

from relreps import RTDLiteLoss
from relreps.topo_loss import rtd_lite
from tests.topo_loss._clouds import METRICS, close, cloud, grad, matrix, tree


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("quantile", [0.9, 0.5, 0.0, 1.0])
def test_rtd_lite_is_its_formula(metric, quantile):
    x, y = cloud(15, 5), cloud(15, 3)
    above = np.triu_indices(15, 1)
    dx, dy = (d / np.quantile(d[above], quantile) for d in (matrix(x, metric), matrix(y, metric)))
    wanted = (tree(dx)[1] + tree(dy)[1]) / 2 - tree(np.minimum(dx, dy))[1]
    close(rtd_lite(x, y, metric=metric, quantile=quantile), torch.tensor(wanted))


def test_rtd_lite_is_symmetric_positive_and_grows_with_noise():
    x = cloud(30, 5)
    noise = cloud(30, 5)
    values = torch.stack([rtd_lite(x, x + s * noise) for s in (0, 0.02, 0.2, 1.0, 5.0)])
    assert (values.diff() > 0).all()
    close(rtd_lite(x + noise, x), values[3])
    many = rtd_lite(cloud(50, 8, 3), cloud(50, 8, 3))
    assert (many > 0).all()


def test_rtd_lite_where_most_points_coincide():
    x = torch.cat((torch.zeros(30, 2), torch.ones(1, 2)))
    y = cloud(31, 2).float()
    close(rtd_lite(x, y), rtd_lite(1e6 * x, y))


def test_rtd_lite_is_not_negative_however_it_rounds():
    """A unit far below the other distances: weights of some thousands, rounded to 1e-3."""
    for seed in (167, 5910):
        generator = torch.Generator().manual_seed(seed)
        n = int(torch.randint(3, 12, (), generator=generator))
        x = torch.randn(n, 3, generator=generator)
        x[1] = x[0] + 1e-6 * torch.randn(3, generator=generator)
        y = x + 1e-7 * torch.randn(n, 3, generator=generator) if seed % 2 else 3 * x.flip(1)
        assert rtd_lite(x, y, metric=("fp", 0.7), quantile=0.0) >= 0


@pytest.mark.parametrize("metric", [*METRICS, ("lp", 0.5), ("fp", 3.0), "cosine"], ids=str)
@pytest.mark.parametrize("quantile", [0.0, 0.9])
def test_rtd_lite_has_no_unit(metric, quantile):
    """Also of metrics that are powers, whose distances leave the range of float32."""
    x, y = cloud(12, 3).float(), cloud(12, 2).float()
    wanted = rtd_lite(x, y, metric=metric, quantile=quantile)
    for a, b in ((1e-30, 1e30), (1e30, 1e-30), (1e-18, 1e-18)):
        close(rtd_lite(a * x, b * y, metric=metric, quantile=quantile), wanted, rtol=1e-4, atol=0)
    (slope,) = grad(lambda x: rtd_lite(x, y, metric=metric), x)
    (tiny,) = grad(lambda x: rtd_lite(x, y, metric=metric), 1e-30 * x)
    close(1e-30 * tiny, slope, rtol=1e-3, atol=1e-5)


def test_rtd_lite_of_samples_in_another_order():
    """On lattices, where most distances tie."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 3, (2, 30, 3), generator=generator).double()
    order = torch.randperm(30, generator=generator)
    close(rtd_lite(x[order], y[order]), rtd_lite(x, y))


def test_derivatives_of_rtd_lite():
    x, y = cloud(8, 3), cloud(8, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y: rtd_lite(x, y), y)
    hessian = torch.autograd.functional.hessian(lambda y: rtd_lite(x, y), y.detach())
    close(torch.func.jacrev(torch.func.grad(lambda y: rtd_lite(x, y)))(y.detach()), hessian)
    close(torch.vmap(lambda y: rtd_lite(x, y))(y.detach()[None])[0], rtd_lite(x, y).detach())


@pytest.mark.parametrize(
    ("options", "name"), [({"quantile": 1.5}, "quantile"), ({"metric": "l3"}, "metric")]
)
def test_bad_options(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        RTDLiteLoss(**options)


def test_the_repr_names_the_options():
    assert str(RTDLiteLoss()) == "RTDLiteLoss(metric='l2', quantile=0.9)"
