"""Losses and measures on death times, other than the densification loss."""

import math
import operator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from scipy.stats import multinomial

from relreps import RTDLiteLoss, SignatureLoss, death_times, mass_concentration_bound
from relreps.topo_loss import (
    ConnectivityLoss,
    death_time_quantiles,
    edge_lengths,
    persistent_entropy,
    rtd_lite,
    signature_loss,
    total_persistence,
    wasserstein_h0,
)

close = torch.testing.assert_close
METRICS = {"l2": "euclidean", "l1": "cityblock", "linf": "chebyshev", "sqeuclidean": "sqeuclidean"}


def cloud(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def matrix(x, metric="l2"):
    return squareform(pdist(x.detach().numpy(), METRICS[metric]))


def tree(d):
    """Edges of the minimum spanning tree, and their total length, by SciPy."""
    found = minimum_spanning_tree(d)
    return found.nonzero(), found.sum()


def grad(f, *points):
    points = [p.detach().clone().requires_grad_() for p in points]
    return torch.autograd.grad(f(*points).sum(), points)


TWO_CLOUDS = {
    "signature-max": lambda x, y, **o: signature_loss(x, y, **o),
    "signature-none": lambda x, y, **o: signature_loss(x, y, normalize="none", **o),
    "signature-norm": lambda x, y, **o: signature_loss(x, y, squared=False, **o),
    "rtd_lite": rtd_lite,
    "rtd_lite-median": lambda x, y, **o: rtd_lite(x, y, quantile=0.5, **o),
}
two_clouds = pytest.mark.parametrize("f", TWO_CLOUDS.values(), ids=TWO_CLOUDS)


# Two clouds


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


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("quantile", [0.9, 0.5, 0.0, 1.0])
def test_rtd_lite_is_its_formula(metric, quantile):
    x, y = cloud(15, 5), cloud(15, 3)
    above = np.triu_indices(15, 1)
    dx, dy = (d / np.quantile(d[above], quantile) for d in (matrix(x, metric), matrix(y, metric)))
    wanted = (tree(dx)[1] + tree(dy)[1]) / 2 - tree(np.minimum(dx, dy))[1]
    close(rtd_lite(x, y, metric=metric, quantile=quantile), torch.tensor(wanted))


@pytest.mark.parametrize("metric", ["cosine", "f0", ("lp", 3), ("fp", 0.5), "l1"])
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


# Diagrams


def assignment(a, b, q):
    """The usual definition: every point may go to its own place on the diagonal."""
    m, n = len(a), len(b)
    cost = np.zeros((m + n, m + n))
    cost[:m, :n] = np.abs(a[:, None] - b) ** q
    cost[:m, n:] = np.where(np.eye(m), (a[:, None] / 2) ** q, 1e9)
    cost[m:, :n] = np.where(np.eye(n), (b / 2) ** q, 1e9)
    return cost[linear_sum_assignment(cost)].sum() ** (1 / q)


lengths = st.lists(st.integers(0, 8), max_size=7)


@settings(max_examples=150, deadline=None)
@given(lengths, lengths, st.sampled_from([1.0, 1.5, 2.0, 4.0]))
def test_wasserstein_is_the_best_assignment(a, b, q):
    a, b = (torch.tensor(d, dtype=torch.float64) for d in (a, b))
    close(wasserstein_h0(a, b, q), torch.tensor(assignment(a.numpy(), b.numpy(), q)).double())


@pytest.mark.parametrize("q", [1.0, 2.0, 3.0])
def test_wasserstein_is_that_of_gudhi(q):
    wasserstein = pytest.importorskip("gudhi.wasserstein")
    for m, n in ((40, 40), (30, 60), (0, 5), (1, 1)):
        a, b = cloud(m).exp(), 2 * cloud(n).exp()
        diagrams = [np.stack((np.zeros(len(d)), d.numpy()), 1) for d in (a, b)]
        wanted = wasserstein.wasserstein_distance(*diagrams, order=q, internal_p=np.inf)
        close(wasserstein_h0(a, b, q), torch.tensor(float(wanted), dtype=torch.float64))


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("q", [1.0, 2.0])
def test_wasserstein_is_a_metric_on_multisets(diagonal, q):
    a, b, c = cloud(3, 12).abs()

    def w(a, b):
        return wasserstein_h0(a, b, q, diagonal=diagonal)

    close(w(a, b), w(b, a))
    close(w(a[torch.randperm(12)], b), w(a, b))
    assert w(a, a) == 0
    assert w(a, c) <= w(a, b) + w(b, c) + 1e-12
    for scale in (1e-200, 7.0, 1e200):
        close(w(scale * a, scale * b), scale * w(a, b), rtol=1e-9, atol=0)


def test_complete_matching():
    a, b = cloud(2, 12).abs()
    wanted = (a.sort().values - b.sort().values).abs().square().sum().sqrt()
    close(wasserstein_h0(a, b, 2, diagonal=False), wanted)
    far = torch.tensor([1.0]), torch.tensor([4.0])  # the diagonal is cheaper beyond a ratio of 3
    assert wasserstein_h0(*far, diagonal=False) == 3
    assert wasserstein_h0(*far) == 2.5


def test_wasserstein_in_leading_axes():
    a, b = cloud(2, 3, 6).abs(), cloud(2, 3, 9).abs()
    close(wasserstein_h0(a, b, 2)[1, 2], wasserstein_h0(a[1, 2], b[1, 2], 2))
    assert wasserstein_h0(a[..., :0], b[..., :0]).shape == (2, 3)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("q", [1.0, 2.0, 2.5])
def test_gradients_of_wasserstein(diagonal, q):
    def f(a, b):
        return wasserstein_h0(a, b, q, diagonal=diagonal)

    a, b = (0.1 + cloud(2, 7).abs()).requires_grad_()
    assert torch.autograd.gradcheck(f, (a, b))
    for pair in ((a, a), (torch.zeros(7), torch.zeros(7)), (torch.zeros(7), torch.ones(7))):
        assert all(g.isfinite().all() for g in grad(f, *pair))


def test_wasserstein_on_meta_and_compiled():
    a, b = cloud(2, 2).abs(), cloud(2, 3).abs()
    assert wasserstein_h0(a.to("meta"), b.to("meta")).shape == (2,)
    torch._dynamo.reset()
    close(
        torch.compile(wasserstein_h0, fullgraph=True, backend="eager")(a, b), wasserstein_h0(a, b)
    )


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (torch.ones(3), torch.ones(2), {"diagonal": False}, "`a` and `b` must have one shape"),
        (torch.ones(2, 3), torch.ones(3), {}, "`a` and `b` must have the same leading axes"),
        (torch.tensor([-1.0]), torch.ones(3), {}, "`a` must hold death times"),
        (torch.ones(3), torch.tensor([torch.nan]), {}, "`b` must hold death times"),
        (torch.tensor([torch.inf]), torch.ones(3), {}, "leave them out"),
        (torch.tensor(1.0), torch.ones(3), {}, r"`a` must have shape \(\.\.\., m\)"),
        (torch.ones(3), torch.ones(3), {"q": 0.5}, "`q` must be in"),
        (torch.ones(3), torch.ones(3), {"q": math.inf}, "`q` must be .* finite"),
    ],
)
def test_bad_diagrams(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        wasserstein_h0(a, b, **options)


# Death times


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_total_persistence_is_a_sum_over_the_tree(p):
    x = cloud(3, 12, 4)
    values = total_persistence(death_times(x), p)
    wanted = [minimum_spanning_tree(matrix(c)).power(p).sum() for c in x]
    close(values, torch.tensor(wanted))
    assert torch.autograd.gradcheck(
        lambda x: total_persistence(death_times(x), p), x.requires_grad_()
    )
    (slope,) = grad(lambda d: total_persistence(d, p), torch.tensor([0.0, 1.0]))
    close(slope, torch.tensor([0.0, p]))
    assert total_persistence(torch.ones(2, 0)).tolist() == [0, 0]


@pytest.mark.parametrize("f", [total_persistence, persistent_entropy])
def test_what_is_no_death_time_is_refused_or_spoils_the_value(f):
    for bad in (math.nan, -1.0, math.inf):
        d = torch.tensor([1.0, bad])
        with pytest.raises(ValueError, match="`deaths` must hold death times"):
            f(d)
    d = torch.tensor([[1.0, math.nan]])
    assert torch.vmap(f)(d).isnan()  # where values cannot be looked at


def test_persistent_entropy():
    d = cloud(4, 9).abs()
    p = d / d.sum(-1, keepdim=True)
    close(persistent_entropy(d), -(p * p.log()).sum(-1))
    close(persistent_entropy(1e100 * d), persistent_entropy(d))
    close(persistent_entropy(torch.ones(2, 9)), torch.full((2,), math.log(9)))
    assert persistent_entropy(torch.tensor([0.0, 3.0])) == 0
    assert torch.autograd.gradcheck(persistent_entropy, d.requires_grad_())
    for zeros in (torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])):
        assert persistent_entropy(zeros).isfinite()
        assert grad(persistent_entropy, zeros)[0].isfinite().all()
    assert persistent_entropy(torch.ones(2, 0)).tolist() == [0, 0]


@pytest.mark.parametrize("branches", [1, 3])
def test_the_connectivity_loss_is_its_formula(branches):
    z = cloud(4, 10, 6)
    parts = [part for c in z for part in c.chunk(branches, -1)]
    wanted = np.mean([np.abs(minimum_spanning_tree(matrix(p, "l1")).data - 2).sum() for p in parts])
    close(ConnectivityLoss(branches=branches)(z), torch.tensor(wanted))


def test_the_connectivity_loss_brings_every_edge_to_its_length():
    z = cloud(16, 8).requires_grad_()
    loss = ConnectivityLoss(scale=1.5, metric="l2")
    optimizer = torch.optim.SGD([z], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, total_iters=250)
    for _ in range(250):
        optimizer.zero_grad()
        loss(z).backward()
        optimizer.step()
        schedule.step()
    close(death_times(z.detach()), torch.full((15,), 1.5, dtype=torch.float64), atol=1e-2, rtol=0)


def test_the_connectivity_loss_at_its_edges():
    loss = ConnectivityLoss(branches=2)
    for shape in ((1, 4), (0, 4), (0, 5, 4)):
        z = torch.ones(shape, requires_grad=True)
        assert loss(z) == 0
        assert loss(z).requires_grad
    z = torch.zeros(5, 4, requires_grad=True)
    close(loss(z), torch.tensor(8.0))
    assert grad(loss, z)[0].isfinite().all()
    assert loss(torch.ones(7, 4, device="meta")).shape == ()
    torch._dynamo.reset()
    z = cloud(4, 4)
    close(torch.compile(loss, fullgraph=True, backend="eager")(z), loss(z))
    assert torch.autograd.gradcheck(loss, z.requires_grad_())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConnectivityLoss(branches=3)(torch.ones(4, 4)), "`branches` must divide .* got 3"),
        (lambda: ConnectivityLoss(scale=-1.0), "`scale`"),
        (lambda: ConnectivityLoss(scale=math.inf), "`scale` must be finite"),
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
        (lambda: ConnectivityLoss(metric="precomputed"), "`metric`"),
        (lambda: ConnectivityLoss()(torch.ones(4, 4) / 0), "must be finite"),
        (lambda: SignatureLoss(normalize="maximum"), "`normalize` .* 'max'"),
        (lambda: RTDLiteLoss(quantile=1.5), "`quantile`"),
        (lambda: RTDLiteLoss(metric="l3"), "`metric`"),
        (lambda: SignatureLoss(metric="l3"), "`metric`"),
        (lambda: total_persistence(torch.ones(3), 0), "`p`"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_reprs_name_the_options():
    assert str(ConnectivityLoss(2)) == "ConnectivityLoss(scale=2, metric='l1', branches=1)"
    assert str(SignatureLoss()) == "SignatureLoss(metric='l2', normalize='max', squared=True)"
    assert str(RTDLiteLoss()) == "RTDLiteLoss(metric='l2', quantile=0.9)"


# Choosing a scale


def test_quantiles_of_each_class():
    x = cloud(40, 3).float()
    labels = torch.arange(40) % 3 + 5
    q = (0.0, 0.3, 1.0)
    found = death_time_quantiles(x, labels, q)
    wanted = [torch.quantile(death_times(x[labels == c]), torch.tensor(q)) for c in (5, 6, 7)]
    close(found, torch.stack(wanted))
    close(death_time_quantiles(x[labels == 6], quantiles=q), found[1:2])
    assert not death_time_quantiles(x.requires_grad_()).requires_grad


def test_quantiles_of_smaller_clouds_are_longer():
    x = cloud(200, 3)
    labels = torch.arange(200) % 2
    small = death_time_quantiles(x, labels, samples_per_class=8)
    assert (small[:, 1:] > death_time_quantiles(x, labels)[:, 1:]).all()
    draws = [
        death_time_quantiles(
            x, labels, samples_per_class=8, generator=torch.Generator().manual_seed(s)
        )
        for s in (0, 0, 1)
    ]
    close(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": torch.tensor([0, 0, 0, 4, 5])}, r"at least 2 .* 4 \(1\), 5 \(1\)"),
        ({"samples_per_class": 6}, r"at least 6 .* 0 \(5\)"),
        ({"samples_per_class": 1}, "`samples_per_class`"),
        ({"quantiles": (0.5, 1.5)}, "`quantiles`"),
        ({"quantiles": []}, "`quantiles` must be a sequence of numbers"),
        ({"quantiles": 0.5}, "`quantiles` must be a sequence of numbers"),
        ({"metric": "precomputed"}, "`metric`"),
        ({"labels": torch.zeros(4).long()}, "`labels`"),
    ],
)
def test_bad_questions(options, message):
    with pytest.raises(ValueError, match=message):
        death_time_quantiles(torch.ones(5, 2), **options)


# Theory


def disconnected(p, q, b, width):
    """The sum over all outcomes, by SciPy."""
    return sum(
        multinomial.pmf((u, b - u - w, w), b, (p, q - p, 1 - q))
        for u in range(1, b)
        for w in range(1, b - u + 1)
        if b - u - w < width
    )


def test_the_mass_bound_of_the_paper():
    """Published setting (b = 16), least mass on a grid of 20000 points."""
    p = torch.tensor([0.2, 0.2, 0.2, 0.05, 0.4], dtype=torch.float64)
    c = torch.tensor([0.9, 0.9, 0.99, 0.9, 0.9], dtype=torch.float64)
    wanted = torch.tensor([0.3332, 0.6386, 0.7690, 0.4586, 0.8379], dtype=torch.float64)
    bounds = torch.stack([mass_concentration_bound(p, 16, width, c) for width in (1, 5)])
    found = torch.cat((bounds[0, :1], bounds[1, 1:]))
    close(found, wanted, atol=1e-4, rtol=0)
    assert mass_concentration_bound(0.2, 16, 5, 0.9) == found[1]


@pytest.mark.parametrize(
    ("p", "b", "width", "c"), [(0.1, 5, 2, 0.8), (0.3, 9, 12, 0.95), (0.5, 3, 1, 0.5)]
)
def test_the_mass_bound_is_where_the_sum_meets_the_level(p, b, width, c):
    q = mass_concentration_bound(p, b, width, c).item()
    assert p <= q <= 1
    assert disconnected(p, q, b, width) == pytest.approx(1 - c, rel=1e-9)


def test_the_mass_bound_at_its_edges():
    assert mass_concentration_bound(0.3, 16, 5, 0.0) == 0.3  # nothing is known
    assert mass_concentration_bound(0.3, 16, 5, 1.0) == pytest.approx(1)
    assert mass_concentration_bound(0.0, 16, 5, 0.9) == 0
    assert mass_concentration_bound(1.0, 16, 5, 0.9) == 1
    assert mass_concentration_bound(0.3, 1, 5, 0.9) == 0.3  # one point is connected
    p = torch.linspace(0, 1, 11).view(1, 11)
    c = torch.tensor([[0.5], [0.9], [0.999]])
    bounds = mass_concentration_bound(p, 16, 3, c)
    assert bounds.shape == (3, 11)
    assert bounds.dtype == torch.float64
    assert (bounds.diff(dim=0) >= 0).all()
    assert (bounds >= p.double() - 1e-12).all()
    assert mass_concentration_bound(1e-6, 4000, 500, 0.999).isfinite()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((1.5, 16, 5, 0.9), "p"),
        ((torch.tensor([0.2, -0.1]), 16, 5, 0.9), "p"),
        ((0.2, 0, 5, 0.9), "b"),
        ((0.2, 16, 0, 0.9), "l"),
        ((0.2, 16, 5, 1.1), "c"),
    ],
)
def test_bad_bounds(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        mass_concentration_bound(*arguments)
