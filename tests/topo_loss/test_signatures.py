"""The signature loss: the edges that connect each of two clouds."""

import numpy as np
import pytest
import torch

from relreps import SignatureLoss
from relreps.topo_loss import signature_loss
from tests.topo_loss._clouds import METRICS, close, cloud, grad, matrix, tree


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("squared", [True, False])
def test_the_signature_loss_is_its_formula(metric, squared):
    x, z = cloud(12, 5), cloud(12, 3)
    dx, dz = (d / d.max() for d in (matrix(x, metric), matrix(z, metric)))
    norms = [np.square(dx[at] - dz[at]).sum() for at in (tree(dx)[0], tree(dz)[0])]
    wanted = sum(norms if squared else np.sqrt(norms)) / 2
    value = signature_loss(x, z, metric=metric, squared=squared)
    close(value, torch.tensor(wanted))


def test_the_signature_loss_without_a_unit_and_with_a_learned_one():
    x, z = cloud(12, 5), cloud(12, 3)
    dx, dz = matrix(x), matrix(z)
    ex, ez = tree(dx)[0], tree(dz)[0]

    def value(dx, dz):
        return torch.tensor(sum(np.square(dx[at] - dz[at]).sum() for at in (ex, ez)) / 2)

    close(SignatureLoss(normalize="none")(x, z), value(dx, dz))
    learned = SignatureLoss(normalize="learned").double()
    close(learned(x, z), value(dx / dx.max(), dz))
    learned.scale.data.fill_(3.0)
    close(learned(x, z), value(dx / dx.max(), dz / 3))
    learned(x, z).backward()
    assert learned.scale.grad != 0
    assert torch.autograd.gradcheck(
        lambda z, s: signature_loss(x, z, normalize="learned", scale=s),
        (z.requires_grad_(), learned.scale),
    )
    fresh = SignatureLoss(normalize="learned")
    fresh.load_state_dict(learned.state_dict())
    assert fresh.scale == 3


@pytest.mark.parametrize("metric", [*METRICS, ("lp", 0.5), ("fp", 3.0), "cosine"], ids=str)
@pytest.mark.parametrize("squared", [True, False])
def test_the_signature_loss_has_no_unit(metric, squared):
    """Also of metrics that are powers, whose distances leave the range of float32."""
    x, z = cloud(12, 5).float(), cloud(12, 3).float()
    wanted = signature_loss(x, z, metric=metric, squared=squared)
    for a, b in ((1e-30, 1e30), (1e30, 1e-30)):
        value = signature_loss(a * x, b * z, metric=metric, squared=squared)
        close(value, wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [1e-39, 1e-30, 1e30])
def test_norms_of_gaps_of_any_size(scale):
    x, z = scale * cloud(12, 5).float(), scale * cloud(12, 3).float()

    def loss(x, z):
        return signature_loss(x, z, normalize="none", squared=False)

    for found, wanted in zip(
        (loss(x, z), *grad(loss, x, z)),
        (loss(x.double(), z.double()), *grad(loss, x.double(), z.double())),
        strict=True,
    ):
        close(found.double() / wanted.abs().max(), wanted / wanted.abs().max(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("squared", [True, False])
def test_derivatives_of_the_signature_loss(squared):
    x, z = cloud(8, 5), cloud(8, 3).requires_grad_()

    def loss(z):
        return signature_loss(x, z, squared=squared)

    assert torch.autograd.gradgradcheck(loss, z)
    hessian = torch.autograd.functional.hessian(loss, z.detach())
    close(torch.func.jacrev(torch.func.grad(loss))(z.detach()), hessian)
    close(torch.vmap(loss)(z.detach()[None])[0], loss(z).detach())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: signature_loss(torch.ones(3, 2), torch.ones(3, 2), scale=2.0), "`scale` .* 'max'"),
        (
            lambda: signature_loss(torch.ones(3, 2), torch.ones(3, 2), normalize="learned"),
            "`scale` must be given",
        ),
        (
            lambda: signature_loss(
                torch.ones(3, 2), torch.ones(3, 2), normalize="learned", scale=0.0
            ),
            "`scale` must be positive",
        ),
        (lambda: SignatureLoss(normalize="maximum"), "`normalize` .* 'max'"),
        (lambda: SignatureLoss(metric="l3"), "`metric`"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_repr_names_the_options():
    assert str(SignatureLoss()) == "SignatureLoss(metric='l2', normalize='max', squared=True)"
