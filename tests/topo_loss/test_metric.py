"""The metrics of clouds: their definitions, lengths of edges, and what is refused."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from relreps import (
    RTDLiteLoss,
    TopologicalDensificationLoss,
    death_times,
    minimum_spanning_tree,
)
from relreps._core import blocks
from relreps.topo_loss import Metric, edge_lengths
from relreps.topo_loss.kinds import resolve_metric
from relreps.topo_loss.trees import spanning_edges
from tests.topo_loss._clouds import CLOUDS, METHODS, NAMES, cloud_of


def numpy_metric(metric):
    """The definitions, written out."""
    name, p = metric if isinstance(metric, tuple) else (metric, None)
    return {
        "l1": lambda u, v: np.abs(u - v).sum(),
        "l2": lambda u, v: math.sqrt(np.square(u - v).sum()),
        "sqeuclidean": lambda u, v: np.square(u - v).sum(),
        "linf": lambda u, v: np.abs(u - v).max(),
        "cosine": lambda u, v: 1 - u @ v / math.sqrt((u @ u) * (v @ v)),
        "f0": lambda u, v: (np.abs(u - v) / (1 + np.abs(u - v))).sum(),
        "lp": lambda u, v: (np.abs(u - v) ** p).sum() ** (1 / p),
        "fp": lambda u, v: (np.abs(u - v) ** p).sum(),
    }[name]


@pytest.mark.parametrize("metric", NAMES, ids=str)
def test_metrics_are_those_of_their_definitions(metric):
    x = cloud_of("random", 50)
    for method in ("closure", "single_linkage"):
        heights = linkage(pdist(x.numpy(), numpy_metric(metric)), "single")[:, 2]
        np.testing.assert_allclose(death_times(x, metric, method), heights, rtol=1e-12)
    wanted = pdist(x.numpy(), numpy_metric(metric))
    i, j = torch.triu_indices(50, 50, 1)
    found = resolve_metric(metric).distances(x)[i, j].numpy()  # in some unit
    np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), rtol=1e-10)


@pytest.mark.parametrize("p", [0.02, 0.05, 100.0])
@pytest.mark.parametrize("name", ["lp", "fp"])
def test_extreme_exponents_find_the_tree(name, p):
    """Of norms beyond the range of float32, at every distance from the radius down."""
    x = cloud_of("random", 40, 128, torch.float32) * torch.logspace(-6, 1, 40)[:, None]
    gap = (x[:, None].double() - x.double()).abs()
    largest = gap.amax(-1)
    share = (gap / largest.clamp(min=1e-300)[..., None]).pow(p).sum(-1)
    log = torch.where(largest > 0, largest.log() + share.clamp(min=1).log() / p, 0)
    order = log - log.min()  # any increasing function of the distances has the same tree
    i, j = minimum_spanning_tree(order).unbind(-1)
    for method in ("closure", "single_linkage"):
        a, b = spanning_edges(x, resolve_metric((name, p)), method).unbind(-1)
        assert torch.allclose(log[a, b], log[i, j], rtol=1e-5, atol=1e-5 / p)


def test_names_of_the_euclidean_metric():
    x = cloud_of("random")
    assert torch.equal(death_times(x, "euclidean"), death_times(x, "l2"))
    assert torch.allclose(death_times(x, ("lp", 2)), death_times(x, "l2"))
    assert torch.allclose(death_times(x, ("lp", math.inf)), death_times(x, "linf"))
    assert torch.equal(death_times(x, ["lp", 3]), death_times(x, ("lp", 3)))  # as JSON has it
    assert torch.equal(death_times(3e38 * x.sign().float(), "f0").unique(), torch.tensor([0.0, 1]))


def test_zero_rows_under_the_cosine():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    assert torch.equal(death_times(x, "cosine"), torch.tensor([0.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize("metric", NAMES, ids=str)
def test_duplicates_and_zeros_have_gradient_zero(metric):
    x = cloud_of("random", 6, 3)
    x[3], x[5] = x[1], 0
    x.requires_grad_()
    edges = torch.tensor([[1, 3]])
    length = edge_lengths(x, edges, metric)
    (grad,) = torch.autograd.grad(length.sum(), x)
    assert length == 0
    assert not grad.any()
    deaths = death_times(x, metric)
    (grad,) = torch.autograd.grad(deaths.sum(), x, create_graph=metric != "cosine")
    assert grad.isfinite().all()
    if metric not in ("cosine", "l1", "linf"):
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        assert second.isfinite().all()


# Callables.

ROWS = {
    "l1": lambda a, b: (a - b).abs().sum(-1),
    "l2": lambda a, b: torch.linalg.vector_norm(a - b, dim=-1),
    "sqeuclidean": lambda a, b: (a - b).square().sum(-1),
    "linf": lambda a, b: (a - b).abs().amax(-1),
    "cosine": lambda a, b: 1 - torch.cosine_similarity(a, b, dim=-1),
}
named = pytest.mark.parametrize("name", ROWS)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "cosine"])
def test_a_callable_has_the_tree_of_its_metric(name):
    """On whole numbers, whose distances are the same numbers: with ties and duplicates."""
    x = cloud_of("lattice")
    for dtype in (torch.float32, torch.float64):
        wanted = spanning_edges(x.to(dtype), resolve_metric(name))
        for method in METHODS:
            edges = spanning_edges(x.to(dtype), resolve_metric(ROWS[name]), method)
            assert torch.equal(edges, wanted)


@named
@pytest.mark.parametrize("kind", CLOUDS)
def test_a_callable_is_the_metric_that_it_computes(kind, name):
    x = cloud_of("random" if name == "cosine" else kind)  # 1 - cos cancels where rows are near
    for method in METHODS:
        deaths = death_times(x, ROWS[name], method)
        assert torch.allclose(deaths, death_times(x, name), rtol=1e-9, atol=1e-12)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(40))
    lengths = edge_lengths(x, pairs, ROWS[name])
    assert torch.allclose(lengths, edge_lengths(x, pairs, name), rtol=1e-9, atol=1e-12)


@named
def test_a_callable_in_batches_masks_and_classes(name):
    x = cloud_of("random", 24).reshape(2, 3, 4, 4)
    assert torch.allclose(death_times(x, ROWS[name]), death_times(x, name))
    z, labels = x.reshape(24, 4), torch.arange(24) % 3
    mask = labels > 0
    deaths = death_times(z, ROWS[name], mask=mask)
    assert torch.allclose(deaths, death_times(z, name, mask=mask))
    own, known = (TopologicalDensificationLoss(0.5, metric=m) for m in (ROWS[name], name))
    assert own.metric is ROWS[name]
    assert torch.allclose(own(z, labels), known(z, labels))
    in_forest = torch.func.grad_and_value(own)(z, labels)
    for found, wanted in zip(in_forest, torch.func.grad_and_value(known)(z, labels), strict=True):
        assert torch.allclose(found, wanted)
    loss, wanted = (RTDLiteLoss(metric=m) for m in (ROWS[name], name))
    assert torch.allclose(loss(x, x.exp()), wanted(x, x.exp()))


@named
def test_gradients_of_a_callable(name):
    x = cloud_of("random", 10, 2).reshape(2, 5, 2).requires_grad_()
    for method in METHODS:
        assert torch.autograd.gradcheck(lambda x, m=method: death_times(x, ROWS[name], m), x)
    edges = torch.tensor([[0, 1], [3, 2]]).expand(2, 2, 2)
    assert torch.autograd.gradcheck(lambda x: edge_lengths(x, edges, ROWS[name]), x)


def test_a_callable_chooses_without_gradient_in_blocks_each_pair_once(monkeypatch):
    seen = []

    def metric(a, b):
        seen.append((len(a.flatten(0, -2)), torch.is_grad_enabled()))
        return torch.linalg.vector_norm(a - b, dim=-1)

    monkeypatch.setattr(blocks, "_TABLE_CPU", 64 * 4 * 8)
    x = cloud_of("random", 40).requires_grad_()
    deaths = death_times(x, metric)
    *chosen, measured = seen
    assert [grad for _, grad in seen] == [False] * len(chosen) + [True]
    assert max(pairs for pairs, _ in chosen) == 64
    assert sum(pairs for pairs, _ in chosen) == 40 * 39 // 2
    assert measured == (39, True)
    assert torch.allclose(deaths, death_times(x))


def test_a_callable_that_is_not_symmetric_asks_for_the_lower_row_first():
    x = cloud_of("random", 40)
    upwards = lambda a, b: torch.where(a[..., 0] < 9, ROWS["l2"](a, b) * (1 + 1e-9), 0)  # noqa: E731
    x[:, 0] = torch.arange(40)
    wanted = spanning_edges(x, resolve_metric(upwards), "closure")
    for method in METHODS:
        assert torch.equal(spanning_edges(x, resolve_metric(upwards), method), wanted)


def test_a_callable_runs_where_the_named_ones_do():
    x = cloud_of("random", 2 * 7, 3).reshape(2, 7, 3)
    loss = TopologicalDensificationLoss(0.5, metric=ROWS["l1"])
    assert loss(x.to("meta")).is_meta
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), loss(x))
    assert torch.allclose(compiled(x[0], torch.arange(7) % 2), loss(x[0], torch.arange(7) % 2))
    deaths = torch.vmap(lambda x: death_times(x, ROWS["l1"]))(x)
    assert torch.allclose(deaths, death_times(x, "l1"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wide = death_times(x.float(), lambda a, b: torch.einsum("...i,...i", a - b, a - b))
    assert torch.allclose(wide, death_times(x.float(), "sqeuclidean"), rtol=1e-5)
    half = death_times(x.half(), ROWS["l2"])
    assert torch.equal(half, death_times(x.half().float(), ROWS["l2"]).half())


def test_sizes_without_edges_for_a_callable():
    for shape in ((0, 3), (1, 3), (2, 0, 3), (2, 1, 3), (0, 5, 3)):
        x = torch.zeros(shape, requires_grad=True)
        deaths = death_times(x, ROWS["l2"])
        assert deaths.shape == (*shape[:-2], max(shape[-2] - 1, 0))
        deaths.sum().backward()
        assert not x.grad.any()


def test_a_callable_may_round_below_zero():
    x = torch.tensor([[1.0, 2, 3], [2, 4, 6], [3, 6, 9], [0, 0, 1], [1, 1, 1], [7, 14, 21]]) / 7
    below = ROWS["cosine"](x[:, None], x)
    assert below.min() < 0
    wanted = spanning_edges(x, resolve_metric(ROWS["cosine"]), "closure")
    for method in METHODS:
        assert torch.equal(spanning_edges(x, resolve_metric(ROWS["cosine"]), method), wanted)
        deaths = death_times(x, ROWS["cosine"], method)
        assert torch.allclose(deaths, death_times(x, "cosine"), atol=1e-6)


def test_what_a_callable_rounds_below_zero_is_zero_to_every_method():
    x = torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0], [4, 5], [5, 5]])
    metric = resolve_metric(lambda a, b: (a - b)[..., 1].abs() - 1e-7 * b[..., 0])
    for method in METHODS:
        edges = spanning_edges(x, metric, method)
        assert edges[:4].tolist() == [[0, 1], [0, 2], [0, 3], [4, 5]]


class Stretched(torch.nn.Module):
    """A metric that learns."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, a, b):
        return torch.linalg.vector_norm((a - b) * self.weight, dim=-1)


def test_a_metric_with_parameters_belongs_to_the_loss():
    z = cloud_of("random", 20)
    loss = TopologicalDensificationLoss(0.5, metric=Stretched())
    assert [name for name, _ in loss.named_parameters()] == ["metric.weight"]
    loss(z).backward()
    assert loss.metric.weight.grad.abs().min() > 0
    twin = copy.deepcopy(loss)
    twin.metric.weight.data.fill_(2.0)
    assert torch.allclose(twin(z), TopologicalDensificationLoss(0.5)(2 * z))
    assert torch.allclose(loss(z), TopologicalDensificationLoss(0.5)(z))


def test_a_metric_is_taken_as_an_object():
    x = cloud_of("random", 12)
    for name in NAMES:
        metric = resolve_metric(name)
        assert isinstance(metric, Metric)
        assert resolve_metric(metric) is metric
        assert torch.equal(death_times(x, metric), death_times(x, name))
        loss = TopologicalDensificationLoss(0.5, metric=name)
        again = pickle.loads(pickle.dumps(loss))
        assert again.metric == name
        assert torch.equal(again(x), TopologicalDensificationLoss(0.5, metric=metric)(x))


def test_points_without_features_are_all_in_one_place():
    edges = torch.tensor([[0, 1], [1, 2], [0, 2], [2, 1]])
    lengths = edge_lengths(torch.zeros(5, 3, 0), edges.expand(5, -1, -1))
    assert lengths.tolist() == [[0.0] * 4] * 5


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (lambda a, b: 1.0, TypeError, "`metric` must return a floating-point tensor, got float"),
        (lambda a, b: (a > b).all(-1), TypeError, "floating-point tensor, got torch.bool"),
        (lambda a, b: a - b, ValueError, r"a row, shape \(1, 45\) .* got \(1, 45, 4\)"),
        (lambda a, b: (a - b).sum(-1), ValueError, "not negative and not NaN, got -"),
        (lambda a, b: (a - b).sum(-1).sqrt(), ValueError, "not negative and not NaN"),
        (torch.nn.PairwiseDistance, TypeError, "must be an object, got the class PairwiseDistance"),
        (3, ValueError, "`metric` must be one of 'l1'"),
    ],
)
def test_a_callable_that_is_no_metric_is_named(metric, error, message):
    with pytest.raises(error, match=message):
        death_times(cloud_of("random", 10), metric)


# Bad input.

EDGE = torch.tensor([[0, 1]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: death_times(x, "l3"), ValueError, r"`metric` must be one of 'l1', 'l2'"),
        (lambda x: death_times(x, ("lp", 0)), ValueError, "needs a positive exponent, got 0"),
        (lambda x: death_times(x, ("fp", math.inf)), ValueError, "positive exponent, got inf"),
        (lambda x: death_times(x, ("lp", "2")), TypeError, "`metric` must be a number"),
        (
            lambda x: edge_lengths(x, torch.zeros(2, 1).long()),
            ValueError,
            r"\(k, 2\), got \(2, 1\)",
        ),
        (lambda x: edge_lengths(x, [[0, 1]]), TypeError, "`edges` must be an int64 .* got list"),
        (lambda x: edge_lengths(x, torch.ones(1, 2)), TypeError, "`edges` must be an int64"),
        (lambda x: edge_lengths(x, EDGE[0]), ValueError, r"`edges` must have shape \(k, 2\)"),
        (lambda x: edge_lengths(x[None], EDGE), ValueError, r"shape \(1, k, 2\)"),
        (lambda x: edge_lengths(x, -EDGE), ValueError, "from 0 to 4, got some from -1 to 0"),
        (lambda x: edge_lengths(x, 5 * EDGE, "l1"), ValueError, "`edges` must be row numbers"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(cloud_of("random", 5))
