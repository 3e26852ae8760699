"""Spanning trees: those of the definition, and the same by every method."""

import math

import pytest
import torch

import relreps
from relreps import death_times, minimum_spanning_tree
from relreps.topo_loss import growth, linkage, order
from relreps.topo_loss.kinds import resolve_metric
from relreps.topo_loss.trees import spanning_edges
from tests.topo_loss._clouds import CLOUDS, METHODS, NAMES, cloud_of, kruskal


@pytest.mark.parametrize("kind", CLOUDS)
def test_the_tree_is_that_of_kruskal(kind):
    x = cloud_of(kind)
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    for method in ("auto", *METHODS):
        assert torch.equal(minimum_spanning_tree(d, method), kruskal(d))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", NAMES, ids=str)
def test_every_method_finds_the_same_tree(metric, dtype):
    clouds = torch.stack([cloud_of(kind, dtype=dtype) for kind in CLOUDS])
    wanted = spanning_edges(clouds, resolve_metric(metric), "closure")
    for method in ("auto", *METHODS):
        assert torch.equal(spanning_edges(clouds, resolve_metric(metric), method), wanted)


@pytest.mark.parametrize("metric", ["l2", "f0", "precomputed"])
def test_a_large_cloud_goes_by_parts(metric, monkeypatch):
    x = torch.cat((cloud_of("lattice", 60), cloud_of("random", 57))).float()
    if metric == "precomputed":
        x = torch.cdist(x, x)
    metric = resolve_metric(metric)
    held, rows = [], order.Candidates.rows
    for dtype in (torch.float32, torch.float64):
        whole = spanning_edges(x.to(dtype), metric, "single_linkage")
        monkeypatch.setattr(linkage, "LINKAGE_SIZE", 32)
        assert torch.equal(spanning_edges(x.to(dtype), metric, "single_linkage"), whole)
        monkeypatch.setattr(growth, "BLOCK", 117 * 20)
        monkeypatch.setattr(order.Candidates, "rows", lambda *a: held.append(rows(*a)) or held[-1])
        both = torch.stack((x, x)).to(dtype)
        assert torch.equal(spanning_edges(both, metric, "boruvka")[1], whole)
        assert max(d.numel() for d in held) <= growth.BLOCK
        monkeypatch.undo()


def test_places_in_the_order_are_as_wide_as_the_distances():
    assert order.strict_keys(torch.zeros(1, 3).double()).tolist() == [[0, 1, 2]]
    assert order.strict_keys(torch.zeros(1, 3).double()).dtype == torch.float64


def test_infinite_distances_leave_a_forest():
    x = cloud_of("random", 20)
    d = torch.cdist(x, x)
    apart = torch.arange(20) % 2
    d = torch.where(apart[:, None] == apart, d, math.inf)
    wanted = torch.cat([death_times(x[apart == k]) for k in range(2)]).sort().values
    for method in METHODS:
        deaths = death_times(d, "precomputed", method)
        assert torch.allclose(deaths[:-1], wanted)
        assert deaths[-1].isinf()
        edges = minimum_spanning_tree(d, method)
        assert torch.equal(edges, minimum_spanning_tree(d))
        assert torch.equal(edges[-1], torch.tensor([0, 1]))


def test_the_diagonal_is_ignored():
    d = torch.tensor([[math.nan, 2.0, 3.0], [2.0, -5.0, 4.0], [3.0, 4.0, math.inf]])
    for method in METHODS:
        assert minimum_spanning_tree(d, method).tolist() == [[0, 1], [0, 2]]


def test_small_asymmetry_is_averaged():
    x = cloud_of("random", 9)
    d = torch.cdist(x, x)
    noisy = d * (1 + 2e-5 * torch.randn(9, 9, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(death_times(noisy, "precomputed"), death_times(x), rtol=1e-4)
    one_way = torch.where(torch.arange(9)[:, None] < torch.arange(9), d, math.inf)
    with pytest.raises(ValueError, match="symmetric"):
        minimum_spanning_tree(one_way)


def test_names_are_at_the_top():
    for name in ("death_times", "minimum_spanning_tree", "TopologicalDensificationLoss"):
        assert name in relreps.__all__


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, d: minimum_spanning_tree(x), ValueError, "`distances` must have shape"),
        (lambda x, d: minimum_spanning_tree(d * math.nan), ValueError, "must not be NaN"),
        (lambda x, d: minimum_spanning_tree(-d), ValueError, "not be negative, got -"),
        (lambda x, d: minimum_spanning_tree(d.triu()), ValueError, "must be symmetric to 1e-4"),
        (lambda x, d: minimum_spanning_tree(d, "kruskal"), ValueError, "'auto', 'closure', 'prim'"),
    ],
)
def test_bad_input_is_named(call, error, message):
    x = cloud_of("random", 5)
    with pytest.raises(error, match=message):
        call(x, torch.cdist(x, x))
