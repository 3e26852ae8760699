"""The topological densification loss."""

import itertools
import math
import warnings

import pytest
import torch
from torch.autograd import gradcheck

from relreps import (
    NumericalWarning,
    TopologicalDensificationLoss,
    death_times,
    relative_projection,
    topological_densification_loss,
)
from relreps.parity import both_placements

MODES = ("abs", "square", "hinge")
PENALTIES = {
    "abs": lambda d: (d - 1.5).abs(),
    "square": lambda d: (d - 1.5) ** 2,
    "hinge": lambda d: (d - 1.5).clamp(min=0),
}


def points(n=30, width=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, width, dtype=dtype, generator=generator)


def classes(n=30):
    """Unequal classes, one of them a single point, numbered with gaps."""
    labels = torch.randint(-1, 5, (n,), generator=torch.Generator().manual_seed(1)) * 10
    labels[7] = 3
    return labels


def by_forest(loss):
    """The loss and its gradient by the route of devices: all classes in one forest.

    It is taken wherever values may not be looked at, inside of a function transform for one.
    """

    def grad_and_value(z, labels):
        grad, value = torch.func.grad_and_value(loss)(z.detach(), labels)
        return value, grad

    return grad_and_value


# What it computes.


@pytest.mark.parametrize("mode", MODES)
def test_sums_the_penalties_of_each_cloud(mode):
    z = points(24).reshape(2, 3, 4, 4)
    wanted = PENALTIES[mode](death_times(z)).sum(-1)
    loss = {
        r: TopologicalDensificationLoss(1.5, mode=mode, reduction=r)(z)
        for r in ("none", "sum", "mean")
    }
    assert torch.allclose(loss["none"], wanted)
    assert torch.allclose(loss["sum"], wanted.sum())
    assert torch.allclose(loss["mean"], wanted.mean())
    assert loss["mean"].shape == ()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("metric", ["l2", "cosine", "precomputed"])
def test_labels_make_one_cloud_a_class(metric, mode):
    z, labels = points(), classes()
    x = torch.cdist(z, z) if metric == "precomputed" else z

    def of_class(k):
        own = labels == k
        cloud = x[own][:, own] if metric == "precomputed" else x[own]
        return PENALTIES[mode](death_times(cloud, metric)).sum()

    wanted = torch.stack([of_class(k) for k in labels.unique()])
    for reduction, value in {
        "none": wanted,
        "sum": wanted.sum(),
        "mean": wanted.sum() / (len(wanted) - 1),  # the single point is no cloud to average over
    }.items():
        loss = TopologicalDensificationLoss(1.5, mode=mode, metric=metric, reduction=reduction)
        assert torch.allclose(loss(x, labels), value)


@pytest.mark.parametrize("method", ["closure", "prim", "boruvka", "single_linkage"])
@pytest.mark.parametrize("mode", MODES)
def test_both_routes_of_labels_agree(mode, method):
    z, labels = points().requires_grad_(), classes()
    on_device = "auto" if method == "single_linkage" else method
    for reduction, metric in itertools.product(("sum", "mean"), ("l2", "f0")):
        options = {"mode": mode, "metric": metric, "reduction": reduction}
        one = TopologicalDensificationLoss(1.5, method=method, **options)(z, labels)
        forest = by_forest(TopologicalDensificationLoss(1.5, method=on_device, **options))
        other, theirs = forest(z, labels)
        assert torch.allclose(one, other)
        assert torch.allclose(torch.autograd.grad(one, z)[0], theirs)


def test_infinite_distances_are_no_edges():
    d = torch.tensor([[0.0, 1.0, math.inf], [1.0, 0.0, math.inf], [math.inf, math.inf, 0.0]])
    d.requires_grad_()
    for mode in MODES:
        loss = topological_densification_loss(d, 3.0, mode=mode, metric="precomputed")
        assert loss == {"abs": 2, "square": 4, "hinge": 0}[mode]
        (grad,) = torch.autograd.grad(loss, d)
        assert grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_a_length_that_overflows_is_not_left_out(mode):
    z = torch.tensor([[-1.5e38, -1.5e38], [1.5e38, 1.5e38], [0.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    loss = TopologicalDensificationLoss(1.0, mode=mode)
    assert loss(z, labels) == math.inf
    assert by_forest(loss)(z, labels)[0] == math.inf


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("labelled", [False, True])
def test_half_types_overflow_only_if_the_value_does(mode, labelled):
    z = ((3 if mode == "square" else 60) * points(8 * 16, 128)).half()
    z, labels = (z, torch.arange(128) % 8) if labelled else (z.view(8, 16, 128), None)
    loss = TopologicalDensificationLoss(1.5, mode=mode)
    assert loss(z, labels).dtype == torch.float16
    assert torch.equal(loss(z, labels), loss(z.float(), labels).half())
    assert loss(z, labels).isfinite()


def test_zero_exactly_where_it_should_be():
    chain = 1.5 * torch.arange(6.0)[:, None]
    for mode in MODES:
        assert TopologicalDensificationLoss(1.5, mode=mode)(chain) == 0
    assert TopologicalDensificationLoss(2.0, mode="hinge")(chain) == 0
    assert TopologicalDensificationLoss(2.0)(chain) == 2.5
    z = points()
    hinge, both = (topological_densification_loss(z, 1.5, mode=m) for m in ("hinge", "abs"))
    assert 0 < hinge < both


def test_duplicates_count_but_do_not_move():
    z = points(6)
    z[1] = z[0]
    z.requires_grad_()
    death = topological_densification_loss(z[:2], 0.7)
    assert death == 0.7
    (grad,) = torch.autograd.grad(death, z)
    assert not grad.any()


@pytest.mark.parametrize("labelled", [False, True])
def test_no_edges_give_zero_connected_to_the_graph(labelled):
    shapes = ((0, 3), (1, 3)) if labelled else ((0, 3), (1, 3), (0, 4, 3), (4, 1, 3), (4, 0, 3))
    for shape, reduction in itertools.product(shapes, ("sum", "mean")):
        z = torch.ones(shape, requires_grad=True)
        labels = torch.zeros(shape[0], dtype=torch.long) if labelled else None
        loss = TopologicalDensificationLoss(1.0, reduction=reduction)(z, labels)
        assert loss == 0
        loss.backward()
        assert torch.equal(z.grad, torch.zeros(shape))
    none = TopologicalDensificationLoss(1.0, reduction="none")
    assert none(torch.ones(0, 2), torch.arange(0)).shape == (0,)


def test_a_batch_without_two_points_of_a_class_is_named():
    z = torch.ones(3, 2, requires_grad=True)
    alone = TopologicalDensificationLoss(1.0)
    none = TopologicalDensificationLoss(1.0, reduction="none")
    with pytest.warns(NumericalWarning, match="No two of the 3 points .* `ClassBatchSampler`"):
        assert alone(z, torch.arange(3)) == by_forest(alone)(z, torch.arange(3))[0] == 0
    with pytest.warns(NumericalWarning, match="No two of the 3 points"):
        assert none(z, torch.arange(3)).tolist() == [0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert alone(z + 0, torch.tensor([0, 1, 1])) == 1


# Functions of one's own.


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_of_ones_own(mode):
    z, labels = points().requires_grad_(), classes()
    function = {"abs": torch.abs, "square": torch.square, "hinge": lambda excess: excess.relu()}
    own, named = (TopologicalDensificationLoss(1.5, mode=m) for m in (function[mode], mode))
    assert own.mode is function[mode]
    for given in ((z, labels), (z.reshape(3, 10, 4),)):
        assert torch.equal(own(*given), named(*given))
    torch._dynamo.reset()
    compiled = torch.compile(own, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(z, labels), named(z, labels))
    assert own(z.to("meta"), labels.to("meta")).is_meta


def test_a_mode_that_is_not_zero_at_zero_counts_edges_only():
    """Between classes there is no edge, nor where the distance is infinite."""
    z, labels = points(), classes()
    loss = TopologicalDensificationLoss(1.5, mode=lambda excess: excess.cosh(), reduction="sum")
    wanted = sum((death_times(z[labels == k]) - 1.5).cosh().sum() for k in labels.unique())
    assert torch.allclose(loss(z, labels), wanted)
    assert torch.allclose(by_forest(loss)(z, labels)[0], wanted)
    d = torch.tensor([[0.0, 1.0, math.inf], [1.0, 0.0, math.inf], [math.inf, math.inf, 0.0]])
    given = TopologicalDensificationLoss(1.0, mode=torch.cosh, metric="precomputed")
    assert given(d) == 1


def test_a_reduction_of_ones_own():
    z, labels = points(), classes()
    each = TopologicalDensificationLoss(1.5, reduction="none")
    worst = TopologicalDensificationLoss(1.5, reduction=torch.max)
    assert worst(z, labels) == each(z, labels).max()
    assert worst(z.reshape(3, 10, 4)) == each(z.reshape(3, 10, 4)).max()
    with pytest.raises(ValueError, match="`reduction` 'none' with `labels`, or a callable"):
        worst(z.to("meta"), labels.to("meta"))


def test_a_mode_has_to_keep_the_shape():
    with pytest.raises(ValueError, match=r"`mode` must keep the shape .* \(29,\), got \(\)"):
        topological_densification_loss(points(), 1.5, mode=torch.sum)


def test_options_are_checked_once():
    """By the constructor, or at the door of the function: the scale may change after that."""
    z = points()
    loss = TopologicalDensificationLoss(1.5)
    loss.scale = 0.5
    assert loss(z) == topological_densification_loss(z, 0.5)


# As a loss.


@pytest.mark.parametrize("metric", ["l1", "l2", "sqeuclidean", "linf", "cosine", "f0", ("lp", 3)])
@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode, metric):
    z, labels = points(12).requires_grad_(), torch.arange(12) % 3
    loss = TopologicalDensificationLoss(0.8, mode=mode, metric=metric)
    assert gradcheck(loss, (z, labels))
    assert gradcheck(loss, (z.reshape(2, 6, 4),))


def test_descent_brings_every_death_to_the_scale():
    z = points(16, 32, torch.float32).requires_grad_()
    optimizer = torch.optim.SGD([z], lr=0.2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    for _ in range(250):
        optimizer.zero_grad()
        topological_densification_loss(z, 3.0).backward()
        optimizer.step()
        schedule.step()
    assert (death_times(z.detach()) - 3).abs().max() < 1e-2


def test_both_placements_weigh_encodings_and_codes():
    z = points(20).requires_grad_()
    r = relative_projection(z, points(5))
    before, after = TopologicalDensificationLoss(1.5), TopologicalDensificationLoss(0.5)
    loss = both_placements(before(z), after(r))
    assert torch.allclose(loss, 0.1 * before(z) + 0.9 * after(r))
    assert both_placements(before(z), after(r), (1, 0)) == before(z)
    loss.backward()
    with pytest.raises(ValueError, match="`weights` must be two numbers"):
        both_placements(before(z), after(r), (1,))
    with pytest.raises(ValueError, match="`weights` must be two numbers"):
        both_placements(before(z), after(r), 0.5)
    with pytest.raises(ValueError, match=r"`weights` must be in \[0"):
        both_placements(before(z), after(r), (1, -1))


# Graphs and devices.


def test_labels_compile_and_run_on_meta():
    z, labels = points(9), classes(9)
    loss = TopologicalDensificationLoss(1.5)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(z, labels), loss(z, labels))
    assert loss(z.to("meta"), labels.to("meta")).is_meta


def test_one_value_a_class_is_refused_where_its_number_is_unknown():
    loss = TopologicalDensificationLoss(1.5, reduction="none")
    z, labels = points().to("meta"), classes().to("meta")
    with pytest.raises(ValueError, match="`reduction` 'none' with `labels`"):
        loss(z, labels)
    assert loss(z.reshape(3, 10, 4)).shape == (3,)


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "huber"}, ValueError, "`mode` must be one of 'abs', 'square', 'hinge'"),
        ({"metric": "l3"}, ValueError, "`metric` must be one of 'l1'"),
        ({"method": "kruskal"}, ValueError, "`method` must be one of 'auto'"),
        ({"reduction": "max"}, ValueError, "`reduction` must be one of 'mean'"),
        ({"scale": -1.0}, ValueError, "`scale` must be in"),
        ({"scale": math.inf}, ValueError, "`scale` must be finite"),
        ({"scale": math.nan}, ValueError, "`scale` must be in"),
        ({"scale": "1"}, TypeError, "`scale` must be a number"),
    ],
)
def test_bad_options_are_named(options, error, message):
    options = {"scale": 1.0, **options}
    with pytest.raises(error, match=message):
        TopologicalDensificationLoss(options.pop("scale"), **options)


@pytest.mark.parametrize(
    ("z", "labels", "error", "message"),
    [
        (points(), classes(29), ValueError, "`labels` must have one entry for each of the 30"),
        (points(), classes().float(), TypeError, "`labels` must be an integer tensor"),
        (points(), classes().tolist(), TypeError, "`labels` must be an integer tensor, got list"),
        (points().reshape(3, 10, 4), classes(), ValueError, r"`z` must have shape \(n, D\) with"),
        (points() / 0, None, ValueError, "`z` must be finite"),
        (points()[0], None, ValueError, "`z` must have shape"),
        (points().long(), None, TypeError, "`z` must be a floating-point tensor"),
    ],
)
def test_bad_input_is_named(z, labels, error, message):
    with pytest.raises(error, match=message):
        TopologicalDensificationLoss(1.0)(z, labels)


def test_says_what_it_is():
    loss = TopologicalDensificationLoss(0.7, mode="hinge", metric=("lp", 3))
    assert "0.7, mode='hinge', metric=('lp', 3)" in repr(loss)
