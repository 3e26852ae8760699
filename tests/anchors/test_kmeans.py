"""k-means, its anchors and its labels: against scikit-learn, in blocks, with empty clusters."""

import pytest
import torch
from sklearn.cluster import KMeans

from relreps import KMeansAnchors, UniformAnchors
from relreps._core import blocks
from relreps.anchors import ClusterAnchors, cluster_labels, lloyd
from tests._data import LargestMade, blobs, many_rows, normal, rotated, seeded

N, D, A, BLOBS = 60, 5, 8, 12


@pytest.fixture(scope="module")
def large():
    return many_rows()


def inertia(x, centers):
    return torch.cdist(x, centers).amin(1).square().sum()


@pytest.mark.parametrize("seed", range(3))
def test_k_means_is_about_as_good_as_that_of_scikit_learn(seed):
    """Anchors are rows, not means: both are compared by the cluster means of their partition."""
    x = normal(400, D)
    picks = KMeansAnchors(A, normalize=False, generator=seeded(seed))(x)
    nearest = torch.cdist(x, x[picks]).argmin(1)
    means = torch.stack([x[nearest == i].mean(0) for i in range(A)])
    oracle = KMeans(A, n_init=1, random_state=seed).fit(x.numpy())
    assert inertia(x, means) < 1.05 * oracle.inertia_
    random = x[UniformAnchors(A, generator=seeded(seed))(x)]
    assert inertia(x, x[picks]) < 0.9 * inertia(x, random)


def test_k_means_in_blocks_is_the_same(monkeypatch):
    x = normal(N, D)
    whole = KMeansAnchors(A, generator=seeded())(x)
    monkeypatch.setattr(blocks, "rows_in_cache", lambda *_: 3)
    monkeypatch.setattr(blocks, "rows_at_once", lambda *_: 7)
    assert torch.equal(KMeansAnchors(A, generator=seeded())(x), whole)


def test_k_means_restarts_an_empty_cluster(monkeypatch):
    """One start far from every row, and none in one blob: the empty cluster moves there."""
    x, members = blobs()
    first = torch.stack([(members == i).nonzero()[0, 0] for i in range(BLOBS - 1)])

    def start(rows, clusters, generator):
        return torch.cat((rows[first], rows.new_full((1, BLOBS), -9)))

    monkeypatch.setattr("relreps.anchors.lloyd.plus_plus", start)
    assert members[KMeansAnchors(BLOBS)(x)].tolist() == list(range(BLOBS))


def test_an_empty_cluster_restarts_at_the_row_worst_served():
    """Not at the longest row, which is as near to its centre as any."""
    rows = torch.tensor([[0.0], [1.0], [30.0], [100.0], [101.0]])
    centers = torch.tensor([[0.5], [100.5], [1000.0]])
    assert lloyd.nearest_center(rows, centers)[0].tolist() == [0, 0, 0, 1, 1]
    moved, again = lloyd.iterated(rows, centers, 1, 0.0)
    assert moved.flatten().tolist() == pytest.approx([31 / 3, 100.5, 30.0])
    assert again.tolist() == [0, 0, 2, 1, 1]


def test_very_many_centres_leave_a_block_its_rows(monkeypatch):
    rows, centers = torch.randn(2000, D), torch.randn(1000, D)
    made = LargestMade(rows)
    with made:
        nearest = lloyd.nearest_center(rows, centers)[0]
    assert made.entries == 256 * 1000
    assert torch.equal(nearest, torch.cdist(rows.double(), centers.double()).argmin(1))


def test_k_means_stops_where_it_is_told():
    x = normal(400, D)
    one, many = (KMeansAnchors(A, max_iterations=i, generator=seeded())(x) for i in (1, 100))
    assert one.tolist() != many.tolist()


def test_k_means_of_100_anchors_matches_scikit_learn(large):
    """From the same start: the same inertia within 0.3 %, and the anchors are at its centres."""
    rows = large - large.mean(0)
    start = lloyd.plus_plus(rows, 100, seeded())
    centers, assigned = lloyd.iterated(rows, start, 100, 1e-4)
    oracle = KMeans(100, init=start.numpy(), n_init=1, max_iter=100, tol=1e-4).fit(rows.numpy())
    assert (rows - centers[assigned]).double().square().sum().item() == pytest.approx(
        oracle.inertia_, rel=3e-3
    )
    picks = KMeansAnchors(100, normalize=False, generator=seeded())(large)
    assert picks.unique().numel() == 100
    assert inertia(large, large[picks]) < 0.9 * inertia(
        large, large[UniformAnchors(100, generator=seeded())(large)]
    )


@pytest.mark.parametrize("order", ["random", "center", "scores", "function"])
def test_clusters_take_turns(order):
    x, members = blobs()
    scores = torch.randn(len(x))
    given = {"scores": scores, "function": lambda rows: scores * rows.new_ones(len(rows))}
    draw = ClusterAnchors(3 * BLOBS, BLOBS, order=given.get(order, order), generator=seeded())
    rounds = draw(x).reshape(3, BLOBS)
    assert all(members[turn].unique().numel() == BLOBS for turn in rounds)
    unit = torch.nn.functional.normalize(x)
    centers = torch.stack([unit[members == i].mean(0) for i in range(BLOBS)])
    quality = scores if order in given else -(unit - centers[members]).norm(dim=1)
    best = torch.stack([torch.where(members == i, quality, -torch.inf).argmax() for i in range(12)])
    assert (set(rounds[0].tolist()) == set(best.tolist())) == (order != "random")


def test_cluster_labels_find_the_blobs_in_either_space():
    x, members = blobs()
    labels = cluster_labels(x, BLOBS, generator=seeded())
    pairs = torch.stack((labels, members), 1).unique(dim=0)
    assert len(pairs) == BLOBS
    assert torch.equal(labels, cluster_labels(rotated(x), BLOBS, generator=seeded()))
    with pytest.raises(ValueError, match=r"`num_clusters` .* got 3 and 1 distinct samples"):
        cluster_labels(torch.ones(9, 2), 3)
    with pytest.raises(ValueError, match="`x` must be finite"):
        cluster_labels(torch.full((9, 2), torch.inf), 3)
