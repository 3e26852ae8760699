"""Death times: exact, the same by every method, on any device, with their gradient."""

import itertools
import math

import gudhi
import numpy as np
import pytest
import torch
from ripser import ripser
from scipy.spatial.distance import pdist, squareform

from relreps import death_times, minimum_spanning_tree
from tests.topo_loss._clouds import CLOUDS, DEVICE_METHODS, METHODS, NAMES, cloud_of

# Against other libraries.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_agrees_with_gudhi(kind, method, dtype):
    x = cloud_of(kind, dtype=dtype)
    deaths = death_times(x, method=method)
    d = squareform(pdist(x.double().numpy()))
    tree = gudhi.RipsComplex(distance_matrix=d).create_simplex_tree(max_dimension=1)
    tree.compute_persistence(min_persistence=-1.0)
    bars = tree.persistence_intervals_in_dimension(0)
    wanted = np.sort(bars[np.isfinite(bars[:, 1]), 1])
    assert deaths.dtype == dtype
    assert len(deaths) == len(wanted) == len(x) - 1
    np.testing.assert_allclose(deaths, wanted, rtol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_agrees_with_ripser(kind, method, dtype):
    x = cloud_of(kind, dtype=dtype)
    deaths = death_times(x, method=method)
    d = squareform(pdist(x.double().numpy()))
    bars = ripser(d, maxdim=0, distance_matrix=True)["dgms"][0][:-1, 1]
    missing = len(x) - 1 - len(bars)  # bars of length zero, which ripser leaves out
    np.testing.assert_allclose(deaths[missing:], np.sort(bars), rtol=1e-6)
    assert not deaths[:missing].any()


@pytest.mark.parametrize("metric", ["l1", "l2", ("lp", 3.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_may_break_ties_but_moves_no_death_time(metric, dtype):
    """Coordinates that binary numbers do not hold: kernels differ in the last bit of a distance."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randint(0, 8, (200, 16), generator=generator) / 7).to(dtype)
    wanted = death_times(x.double(), metric).to(dtype)
    for method in ("auto", *METHODS):
        deaths = death_times(x, metric, method)
        assert torch.allclose(deaths, wanted, rtol=8 * torch.finfo(dtype).eps)


# Invariances.


def test_isometries_scale_and_order():
    x = cloud_of("random", 60, 5)
    rotation = torch.linalg.qr(cloud_of("random", 5, 5)).Q
    deaths = death_times(x)
    assert torch.allclose(death_times(x @ rotation + 3), deaths)
    assert torch.equal(death_times(x.flip(0)), deaths)
    assert not torch.allclose(death_times(x * torch.arange(1, 6)), deaths)
    for scale in (1e-30, 1e-20, 1e20, 1e30):  # the squares of these are no float32
        for method in METHODS:
            scaled = death_times((scale * x).float(), method=method)
            assert torch.allclose(scaled.double() / scale, deaths, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_distant_cloud_keeps_its_distances(method):
    x = (cloud_of("random", 40) * 64).round() / 64 + 1000  # exact in float32, also when moved
    near, far = (
        death_times((x - 1000).float(), method=method),
        death_times(x.float(), method=method),
    )
    assert torch.equal(near, far)


def test_batches_are_loops():
    x = torch.randn(2, 3, 9, 4)
    for method in METHODS:
        deaths = death_times(x, method=method)
        assert deaths.shape == (2, 3, 8)
        for a, b in itertools.product(range(2), range(3)):
            assert torch.equal(deaths[a, b], death_times(x[a, b], method=method))


# Masks, and sizes without edges.


@pytest.mark.parametrize("metric", ["l2", "f0", "precomputed"])
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_masked_clouds_are_shorter_clouds(method, metric):
    clouds = torch.stack([cloud_of(kind) for kind in CLOUDS])
    mask = torch.rand(4, 40, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[2] = torch.arange(40) == 7
    mask[3] = False
    square = metric == "precomputed"
    x = torch.cdist(clouds, clouds) if square else clouds.clone()
    exists = mask[:, :, None] & mask[:, None] if square else mask[:, :, None].expand_as(x)
    x = x.masked_fill(~exists, math.nan).requires_grad_()
    deaths = death_times(x, metric, method, mask=mask)
    for row, points, there in zip(deaths, x.detach(), mask, strict=True):
        points = points[there][:, there] if square else points[there]
        known = max(int(there.sum()) - 1, 0)
        assert torch.equal(row[:known], death_times(points, metric))
        assert row[known:].isposinf().all()
    (grad,) = torch.autograd.grad(torch.where(deaths.isfinite(), deaths, 0).sum(), x)
    assert grad.isfinite().all()
    assert not grad[~exists].any()


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_sizes_without_edges(method):
    for shape in ((0, 3), (1, 3), (2, 0, 3), (2, 1, 3), (0, 5, 3), (5, 0)):
        x = torch.zeros(shape, requires_grad=True)
        deaths = death_times(x, method=method)
        assert deaths.shape == (*shape[:-2], max(shape[-2] - 1, 0))
        deaths.sum().backward()
        assert not x.grad.any()
    assert death_times(torch.tensor([[0.0], [3.0]]), method=method).tolist() == [3]


def test_all_points_equal():
    for method in METHODS:
        for dtype in (torch.float32, torch.float64):
            assert not death_times(torch.ones(70, 3, dtype=dtype), method=method).any()


# Gradients and types.


@pytest.mark.parametrize("metric", NAMES, ids=str)
def test_gradients(metric):
    x = cloud_of("random", 2 * 5, 2).reshape(2, 5, 2).requires_grad_()
    for method in METHODS:
        assert torch.autograd.gradcheck(
            lambda x, m=method: death_times(x, metric, m), x, check_batched_grad=metric == "l2"
        )
    if metric != "cosine":  # normalised rows have no second derivative in torch
        assert torch.autograd.gradgradcheck(lambda x: death_times(x, metric), x)


def test_gradient_of_precomputed_distances():
    x = cloud_of("random", 9, 3)
    d = torch.cdist(x, x).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: death_times((d + d.mT) / 2, "precomputed"), d)
    (grad,) = torch.autograd.grad(death_times(d, "precomputed").sum(), d)
    assert grad.sum() == 8
    assert torch.equal(grad, grad.mT)


def test_only_the_ends_of_edges_move():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]], requires_grad=True)
    death_times(x)[1].backward()
    assert torch.allclose(x.grad, torch.tensor([[-0.6, -0.8], [0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_measured_in_float32(dtype):
    for n in (20, 50):
        x = cloud_of("random", n).to(dtype)
        deaths = death_times(x)
        assert deaths.dtype == dtype
        assert torch.equal(deaths, death_times(x.float()).to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        for method in METHODS:
            assert torch.equal(death_times(x.float(), method=method), death_times(x.float()))


# Devices and graphs.


@pytest.mark.parametrize("metric", ["l2", "f0"])
def test_function_transforms(metric):
    x = cloud_of("random", 2 * 35, 3).reshape(2, 35, 3).requires_grad_()
    deaths = death_times(x, metric)
    assert torch.allclose(torch.vmap(lambda x: death_times(x, metric))(x), deaths)
    (wanted,) = torch.autograd.grad(deaths.sum(), x)
    grad = torch.func.grad(lambda x: death_times(x, metric).sum())
    assert torch.allclose(torch.vmap(grad)(x.detach()), wanted)


@pytest.mark.parametrize("method", DEVICE_METHODS)
@pytest.mark.parametrize("metric", ["l2", "f0", ("lp", 3), "precomputed"])
def test_what_is_not_finite_spoils_the_value_and_nothing_else(metric, method):
    """Where values cannot be looked at: an index out of range would stop the device."""
    x = cloud_of("random", 36).float()
    x = torch.cdist(x, x) if metric == "precomputed" else x
    x[3], x[4, 1], x[5, 2] = math.nan, math.nan, math.inf
    deaths = torch.vmap(lambda x: death_times(x, metric, method))(torch.stack((x, x)))
    assert deaths.shape == (2, 35)
    assert not deaths.isfinite().all()


@pytest.mark.parametrize("method", ["auto", *DEVICE_METHODS])
def test_runs_on_meta(method):
    for n in (5, 40 if method == "auto" else 3):
        x = torch.empty(3, n, 4, device="meta", requires_grad=True)
        deaths = death_times(x, method=method, mask=x[..., 0] > 0)
        assert deaths.is_meta
        assert deaths.shape == (3, n - 1)
        deaths.sum().backward()
        square = torch.empty(3, n, n, device="meta")
        assert minimum_spanning_tree(square, method).shape == (3, n - 1, 2)


@pytest.mark.parametrize("method", DEVICE_METHODS)
def test_compiles_in_one_graph_for_any_number_of_clouds(method):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: death_times(x, method=method), fullgraph=True, backend="eager"
    )
    for clouds in (3, 5):
        x = torch.randn(clouds, 4, 2, requires_grad=True)
        torch._dynamo.mark_dynamic(x, 0)
        assert torch.allclose(compiled(x), death_times(x))


class Deaths(torch.nn.Module):
    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, x):
        return death_times(x, method=self.method)


def operators(program):
    """Every operator of an exported program, nested graphs included."""
    return {
        str(node.target)
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }


@pytest.mark.parametrize("method", DEVICE_METHODS)
def test_never_waits_for_the_device(method):
    batch = torch.export.Dim("batch", min=2, max=1 << 24)
    x = torch.randn(3, 4, 2)
    program = torch.export.export(Deaths(method), (x,), dynamic_shapes=({0: batch},))
    found = operators(program)
    assert any("cdist" in name for name in found)
    waits = ("local_scalar", "nonzero", "item", "masked_select", "unique", "_to_cpu")
    assert not [name for name in found if any(word in name for word in waits)]
    y = torch.randn(5, 4, 2)
    assert torch.allclose(program.module()(y), death_times(y))


# Bad input.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, d: death_times(x, method="kruskal"), ValueError, "'auto', 'closure', 'prim'"),
        (lambda x, d: death_times(x.long()), TypeError, "`x` must be a floating-point"),
        (lambda x, d: death_times(x[0]), ValueError, r"`x` must have shape \(\.\.\., n, D\)"),
        (lambda x, d: death_times(x, "precomputed"), ValueError, r"\(\.\.\., n, n\)"),
        (lambda x, d: death_times(x * math.nan), ValueError, "`x` must be finite"),
        (
            lambda x, d: death_times(torch.stack((x, x / (x > x[3])))),
            ValueError,
            r"in \d of 10 rows \(the first is row [5-9]\)",
        ),
        (lambda x, d: death_times(x, mask=torch.ones(5)), TypeError, "`mask` must be a bool"),
        (lambda x, d: death_times(x, mask=torch.ones(4) > 0), ValueError, r"shape \(5,\)"),
        (lambda x, d: death_times(-d, "precomputed"), ValueError, "`x` must not be negative"),
        (
            lambda x, d: death_times(x.to("meta"), method="single_linkage"),
            ValueError,
            "runs on the CPU outside of torch.compile only",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    x = cloud_of("random", 5)
    with pytest.raises(error, match=message):
        call(x, torch.cdist(x, x))
