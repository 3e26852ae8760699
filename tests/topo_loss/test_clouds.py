"""What the losses of clouds have in common, above all those of two clouds of the same samples."""

import operator

import pytest
import torch

from relreps import RTDLiteLoss, SignatureLoss, death_times
from relreps.topo_loss import (
    ConnectivityLoss,
    edge_lengths,
    persistent_entropy,
    rtd_lite,
    signature_loss,
)
from tests.topo_loss._clouds import close, cloud, grad

TWO_CLOUDS = {
    "signature-max": lambda x, y, **o: signature_loss(x, y, **o),
    "signature-none": lambda x, y, **o: signature_loss(x, y, normalize="none", **o),
    "signature-norm": lambda x, y, **o: signature_loss(x, y, squared=False, **o),
    "rtd_lite": rtd_lite,
    "rtd_lite-median": lambda x, y, **o: rtd_lite(x, y, quantile=0.5, **o),
}
two_clouds = pytest.mark.parametrize("f", TWO_CLOUDS.values(), ids=TWO_CLOUDS)


@pytest.mark.parametrize("metric", ["cosine", "f0", ("lp", 3), ("lp", 0.5), ("fp", 0.5), "l1"])
@two_clouds
def test_precomputed_distances_give_the_same(f, metric):
    x, y = cloud(10, 4), cloud(10, 3)
    pairs = torch.cartesian_prod(torch.arange(10), torch.arange(10))
    dx, dy = (edge_lengths(c, pairs, metric).view(10, 10) for c in (x, y))
    close(f(x, y, metric=metric), f(dx, dy, metric="precomputed"))


@two_clouds
def test_clouds_in_leading_axes(f):
    x, y = cloud(2, 3, 8, 4), cloud(2, 3, 8, 2)
    values = f(x, y)
    assert values.shape == (2, 3)
    close(values[1, 2], f(x[1, 2], y[1, 2]))
    order = torch.randperm(8)
    close(f(x[..., order, :], y[..., order, :]), values)


@two_clouds
def test_gradients(f):
    x, y = cloud(7, 3), cloud(7, 2)
    assert torch.autograd.gradcheck(f, (x.requires_grad_(), y.requires_grad_()))
    copies = torch.cat((x[:4], x[:3])).detach(), torch.cat((y[:4], y[:3])).detach()
    for clouds in (copies, (copies[0], y.detach()), (torch.zeros_like(x), y.detach())):
        assert f(*clouds).isfinite()
        assert all(g.isfinite().all() for g in grad(f, *clouds))


@two_clouds
@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (3, 1, 4), (0, 5, 4), (2, 0, 4)])
def test_nothing_to_connect_is_zero_in_the_graph(f, shape):
    x, y = cloud(*shape).requires_grad_(), cloud(*shape).requires_grad_()
    value = f(x, y)
    close(value, x.new_zeros(shape[:-2]))
    value.sum().backward()
    assert not x.grad.any()
    assert not y.grad.any()
    for loss in (SignatureLoss(), RTDLiteLoss()):
        out = loss(x, y)
        assert out.shape == ()
        assert out == 0
        assert out.requires_grad


@two_clouds
def test_two_points(f):
    x, y = torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [2.0]])
    wanted = {"signature-none": 4.0}
    name = next(key for key, value in TWO_CLOUDS.items() if value is f)
    close(f(x, y), torch.tensor(wanted.get(name, 0.0)))


@two_clouds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_autocast(f, dtype):
    x, y = cloud(9, 4), cloud(9, 4)
    value = f(x.to(dtype), y.to(dtype))
    assert value.dtype == dtype
    close(value.double(), f(x, y), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(f(x.float(), y.float()).double(), f(x, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [SignatureLoss(), RTDLiteLoss()])
def test_losses_on_meta_and_compiled(loss):
    x, y = cloud(2, 3, 2), cloud(2, 3, 2)
    assert loss(x.to("meta"), y.to("meta")).shape == ()
    torch._dynamo.reset()
    graphs = []
    compiled = torch.compile(
        loss, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward
    )
    close(compiled(x, y), loss(x, y))
    # A list of indices would be copied to the device, which would have to be waited for.
    at = [node.args[1] for node in graphs[0].graph.nodes if node.target is operator.getitem]
    assert not any(isinstance(i, list) for index in at if isinstance(index, tuple) for i in index)
    for a, b in zip(grad(compiled, x, y), grad(loss, x, y), strict=True):
        close(a, b)


def test_the_losses_are_means_over_clouds():
    x, y = cloud(4, 9, 3), cloud(4, 9, 2)
    close(RTDLiteLoss(quantile=0.7)(x, y), rtd_lite(x, y, quantile=0.7).mean())
    close(SignatureLoss(metric="l1")(x, y), signature_loss(x, y, metric="l1").mean())


@pytest.mark.parametrize("f", [rtd_lite, signature_loss])
def test_isometries_and_scale_of_either_space(f):
    x, y = cloud(20, 6), cloud(20, 4)
    turn = torch.linalg.qr(cloud(6, 6)).Q
    value = f(x, y)
    assert value > 1e-3
    for scale in (1e-100, 1e-3, 1e3, 1e100):
        close(f(scale * (x @ turn + 5), y), value, rtol=1e-6, atol=0)
        close(f(x, scale * y), value, rtol=1e-6, atol=0)
        close(f(x, scale * (x @ turn)), torch.zeros_like(value))
    assert (f(x * torch.tensor([5.0, 1, 1, 1, 1, 1]), y) - value).abs() > 1e-3


@pytest.mark.parametrize("f", [rtd_lite, signature_loss])
def test_a_unit_of_one_cloud_is_differentiated_through(f):
    """Growing a cloud does not lower the loss: the gradient along the cloud is zero."""
    x, y = cloud(9, 4), cloud(9, 3)
    (_, slope) = grad(f, x, y)
    assert slope.abs().max() > 1e-3
    close((slope * y).sum(), y.new_zeros(()))


def test_descent_brings_the_structure_of_one_cloud_to_another():
    x = cloud(20, 5)
    z = cloud(20, 5)
    for loss in (RTDLiteLoss(), SignatureLoss()):
        points = z.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([points], lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            loss(x, points).backward()
            optimizer.step()
        assert loss(x, points) < 0.5 * loss(x, z)


@two_clouds
@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (torch.ones(4, 2), torch.ones(5, 2), {}, ValueError, "clouds of the same samples"),
        (torch.ones(4, 2), torch.ones(1, 4, 2), {}, ValueError, "clouds of the same samples"),
        (torch.ones(4, 2) / 0, torch.ones(4, 2), {}, ValueError, "`x` must be finite"),
        (torch.ones(4), torch.ones(4), {}, ValueError, "`x` must have shape"),
        (torch.ones(4, 2).long(), torch.ones(4, 2), {}, TypeError, "`x`"),
        (torch.ones(4, 2), torch.ones(4, 2), {"metric": "l7"}, ValueError, "`metric` .* 'l2'"),
        (torch.ones(4, 4), -torch.ones(4, 4), {"metric": "precomputed"}, ValueError, "negative"),
        (
            torch.ones(4, 4) - torch.eye(4).roll(2, 0).log(),
            torch.ones(4, 4),
            {"metric": "precomputed"},
            ValueError,
            "`x` must be finite between every two points",
        ),
    ],
)
def test_bad_clouds(f, x, y, options, error, message):
    with pytest.raises(error, match=message):
        f(x, y, **options)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: ConnectivityLoss(metric="l2")(2 * z),
        lambda z: SignatureLoss(normalize="none")(z, -2 * z),
        lambda z: persistent_entropy(death_times(100 * z)[0]),
    ],
)
def test_half_types_overflow_only_if_the_value_does(loss):
    z = (5 * cloud(64, 16, 64)).half()
    assert loss(z).isfinite()
    close(loss(z), loss(z.float()).half(), rtol=2e-3, atol=0)
