"""Samplers: what every one promises, and what each is for."""

import pytest
import torch
from sklearn.cluster import KMeans

from relreps import (
    EMAAnchors,
    FarthestAnchors,
    KMeansAnchors,
    StratifiedAnchors,
    UniformAnchors,
)

N, D, A, BLOBS = 60, 5, 8, 12
SAMPLERS = [UniformAnchors, StratifiedAnchors, FarthestAnchors, KMeansAnchors]
GEOMETRIC = [FarthestAnchors, KMeansAnchors]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
each_geometric = pytest.mark.parametrize("sampler", GEOMETRIC)
each_normalize = pytest.mark.parametrize("normalize", [True, False], ids=["angles", "positions"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(n=N):
    return torch.randn(n, D, dtype=torch.float64), torch.randint(0, 4, (n,))


def blobs(size=10):
    """Well separated clusters on orthogonal axes, shuffled, and the cluster of each row."""
    members = torch.arange(BLOBS).repeat(size)[torch.randperm(BLOBS * size)]
    centres = 10 * torch.eye(BLOBS, dtype=torch.float64)[members]
    return centres + 0.1 * torch.randn_like(centres), members


def rotated(x):
    return x @ torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], dtype=x.dtype)).Q


def radius(x, picks):
    """Distance of each row to the nearest pick."""
    return torch.cdist(x, x[picks], compute_mode="donot_use_mm_for_euclid_dist").amin(1)


def inertia(x, centres):
    return torch.cdist(x, centres).amin(1).square().sum()


@each_sampler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("num_anchors", [1, A, N])
def test_picks_are_distinct_rows(sampler, num_anchors, dtype):
    x, labels = problem()
    picks = sampler(num_anchors)(x.to(dtype), labels)
    assert picks.dtype == torch.long
    assert picks.shape == picks.unique().shape == (num_anchors,)
    assert picks.min() >= 0
    assert picks.max() < N


@each_sampler
def test_the_generator_decides(sampler):
    x, labels = problem()
    draw = sampler(A, generator=seeded())
    first, second = draw(x, labels), draw(x, labels)
    assert torch.equal(first, sampler(A, generator=seeded())(x, labels))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(first, sampler(A)(x, labels))


@pytest.mark.parametrize("sampler", [UniformAnchors, StratifiedAnchors, FarthestAnchors])
def test_fewer_anchors_are_the_first_of_more(sampler):
    x, labels = problem()
    more = sampler(N, generator=seeded())(x, labels)
    for a in (1, A, N - 1):
        assert torch.equal(sampler(a, generator=seeded())(x, labels), more[:a])


def test_uniform_draws_every_row_alike():
    x, _ = problem(10)
    draw = UniformAnchors(3)
    counts = torch.bincount(torch.cat([draw(x) for _ in range(1000)]), minlength=10)
    assert counts.min() > 240  # of 300 expected, deviation 14
    assert counts.max() < 360


def test_stratified_takes_turns_and_passes_over_empty_classes():
    labels = torch.tensor([5] * 2 + [-1] * 10 + [7] * 4)[torch.randperm(16)]
    drawn = labels[StratifiedAnchors(16)(torch.randn(16, D), labels)].tolist()
    assert drawn == [-1, 5, 7] * 2 + [-1, 7] * 2 + [-1] * 6


@pytest.mark.parametrize("num_anchors", [1, 3, 10, 11])
def test_stratified_counts_differ_by_at_most_one(num_anchors):
    labels = torch.arange(4).repeat(10)
    counts = labels[StratifiedAnchors(num_anchors)(torch.randn(40, D), labels)].bincount(
        minlength=4
    )
    assert counts.max() - counts.min() <= 1


def test_stratified_order_within_a_class_is_random():
    labels = torch.zeros(5, dtype=torch.long)
    draw = StratifiedAnchors(1)
    assert len({int(draw(torch.randn(5, D), labels)) for _ in range(100)}) == 5


@each_normalize
def test_each_farthest_anchor_is_farthest_from_those_before(normalize):
    x, _ = problem()
    picks = FarthestAnchors(20, normalize=normalize)(x)
    space = torch.nn.functional.normalize(x) if normalize else x
    radii = []
    for i in range(1, len(picks)):
        distance = radius(space, picks[:i])
        assert distance[picks[i]] == distance.max()
        radii.append(distance.max())
    assert radii == sorted(radii, reverse=True)


def test_farthest_is_at_most_twice_the_best_radius():
    x, members = blobs()
    picks = FarthestAnchors(BLOBS, normalize=False)(x)
    best = max(torch.cdist(c, c).amax(1).min() for c in (x[members == i] for i in range(BLOBS)))
    assert radius(x, picks).max() <= 2 * best


@each_geometric
@each_normalize
def test_a_rotation_leaves_the_picks(sampler, normalize):
    x, _ = problem()
    picks = [
        sampler(A, normalize=normalize, generator=seeded())(side).tolist()
        for side in (x, rotated(x))
    ]
    assert picks[0] == picks[1]


@each_geometric
@pytest.mark.parametrize("seed", range(5))
def test_one_anchor_in_each_blob(sampler, seed):
    x, members = blobs()
    picks = sampler(BLOBS, generator=seeded(seed))(x)
    assert members[picks].unique().numel() == BLOBS


@each_geometric
def test_normalize_decides_whether_length_matters(sampler):
    """Three directions at lengths 1 and 100: three groups of directions, or of positions."""
    axes = torch.eye(3).repeat(20, 1) * (1 + 1e-3 * torch.rand(60, 1))
    x = torch.cat((axes, 100 * axes)) + 1e-3 * torch.randn(120, 3)
    directions = sampler(3, normalize=True)(x)
    assert x[directions].argmax(1).unique().numel() == 3
    positions = sampler(4, normalize=False)(x)
    assert (x[positions].norm(dim=1) > 50).sum() == 3


@each_geometric
@pytest.mark.parametrize("size", [2.0**-100, 1.0, 2.0**100], ids=["tiny", "one", "huge"])
@pytest.mark.parametrize("shift", [0, 1000])
def test_positions_of_any_size_and_place(sampler, size, shift):
    x = (64 * problem()[0]).round() / 64  # float32 holds it, shifted and scaled, to the last bit
    draw = sampler(A, normalize=False, generator=seeded())
    moved = sampler(A, normalize=False, generator=seeded())
    assert moved(((x + shift) * size).float()).tolist() == draw(x).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_k_means_is_about_as_good_as_that_of_scikit_learn(seed):
    """Anchors are rows, not means: both are compared by the cluster means of their partition."""
    x, _ = problem(400)
    picks = KMeansAnchors(A, normalize=False, generator=seeded(seed))(x)
    nearest = torch.cdist(x, x[picks]).argmin(1)
    means = torch.stack([x[nearest == i].mean(0) for i in range(A)])
    oracle = KMeans(A, n_init=1, random_state=seed).fit(x.numpy())
    assert inertia(x, means) < 1.05 * oracle.inertia_
    random = x[UniformAnchors(A, generator=seeded(seed))(x)]
    assert inertia(x, x[picks]) < 0.9 * inertia(x, random)


def test_k_means_in_blocks_is_the_same(monkeypatch):
    x, _ = problem()
    whole = KMeansAnchors(A, generator=seeded())(x)
    monkeypatch.setattr("relreps.anchors.samplers._BLOCK", 3 * A)
    assert torch.equal(KMeansAnchors(A, generator=seeded())(x), whole)


@each_geometric
@each_normalize
@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_duplicates_do_not_repeat_or_hang(sampler, normalize, distinct):
    x = torch.randn(distinct, D).repeat(20 // distinct, 1)
    picks = sampler(10, normalize=normalize)(x)
    assert picks.unique().numel() == 10
    assert x[picks].unique(dim=0).shape[0] == distinct


@each_geometric
def test_zero_rows_are_rows(sampler):
    x = torch.zeros(20, D)
    assert sampler(20)(x).sort().values.tolist() == list(range(20))
    x[3] = 1
    assert 3 in sampler(2)(x)


def test_k_means_restarts_an_empty_cluster(monkeypatch):
    """One start far from every row, and none in one blob: the empty cluster moves there."""
    x, members = blobs()
    first = torch.stack([(members == i).nonzero()[0, 0] for i in range(BLOBS - 1)])

    def start(self, rows):
        return torch.cat((rows[first], rows.new_full((1, BLOBS), -9)))

    monkeypatch.setattr(KMeansAnchors, "_start", start)
    assert members[KMeansAnchors(BLOBS)(x)].tolist() == list(range(BLOBS))


def test_k_means_stops_where_it_is_told():
    x, _ = problem(400)
    one, many = (KMeansAnchors(A, max_iterations=i, generator=seeded())(x) for i in (1, 100))
    assert one.tolist() != many.tolist()


@each_sampler
def test_no_gradient_is_kept_and_x_is_not_written(sampler):
    x, labels = problem()
    before = x.clone()
    sampler(A)(x.requires_grad_(), labels)
    assert x.grad is None
    assert torch.equal(x, before)


def test_repr():
    assert repr(FarthestAnchors(300)) == "FarthestAnchors(300)"


@each_sampler
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x[: A - 1], y[: A - 1]), ValueError, "got 8 anchors and 7 samples"),
        (lambda x, y: (x[0], y), ValueError, r"`x` must have shape \(rows, features\)"),
        (lambda x, y: (x.long(), y), TypeError, "`x` must be a floating-point tensor, got .*int64"),
        (lambda x, y: (x.tolist(), y), TypeError, "`x` must be a torch.Tensor, got list"),
        (lambda x, y: (x.where(y[:, None] > 0, torch.nan), y), ValueError, "`x` must be finite"),
        (lambda x, y: (x, y[1:]), ValueError, "`labels` must have one entry .* 60 rows"),
        (lambda x, y: (x, y.float()), TypeError, "`labels` must be an integer tensor, got .*float"),
        (lambda x, y: (x, y.tolist()), TypeError, "`labels` must be an integer tensor, got list"),
    ],
    ids=["few-rows", "vector", "integer", "list", "nan", "labels-short", "labels-float", "labels"],
)
def test_bad_data(sampler, change, error, message):
    with pytest.raises(error, match=message):
        sampler(A)(*change(*problem()))


def test_stratified_needs_labels():
    with pytest.raises(ValueError, match="`labels` must be given to StratifiedAnchors"):
        StratifiedAnchors(A)(problem()[0])


@each_sampler
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "`num_anchors` must be at least 1, got 0"),
        (-1, ValueError, "`num_anchors` must be at least 1, got -1"),
        (2.5, TypeError, "`num_anchors` must be an int, got float"),
        (True, TypeError, "`num_anchors` must be an int, got bool"),
    ],
)
def test_bad_number_of_anchors(sampler, value, error, message):
    with pytest.raises(error, match=message):
        sampler(value)


def test_bad_number_of_iterations():
    with pytest.raises(ValueError, match="`max_iterations` must be at least 1, got 0"):
        KMeansAnchors(A, max_iterations=0)


# Anchors that follow an encoder


def test_ema_copies_first_and_then_averages():
    rounds = torch.randn(4, A, D)
    ema = EMAAnchors(A, D, decay=0.9)
    for anchors in rounds:
        ema.update(anchors.requires_grad_())
    weights = torch.tensor([0.9**3, 0.1 * 0.9**2, 0.1 * 0.9, 0.1])
    torch.testing.assert_close(ema.anchors, torch.einsum("t,tad->ad", weights, rounds.detach()))
    assert not ema.anchors.requires_grad
    assert repr(ema) == "EMAAnchors(8, 5, decay=0.9)"


@pytest.mark.parametrize(("decay", "kept"), [(0.0, -1), (1.0, 0)])
def test_ema_at_the_ends_is_the_last_or_the_first(decay, kept):
    rounds = torch.randn(3, A, D)
    ema = EMAAnchors(A, D, decay)
    for anchors in rounds:
        ema.update(anchors)
    assert torch.equal(ema.anchors, rounds[kept])


def test_ema_goes_on_from_a_checkpoint_with_its_schedule():
    """The mean of all so far, as a schedule: it has to know how many there were."""
    rounds = torch.randn(5, A, D)
    ema = EMAAnchors(A, D, decay=lambda updates: updates / (updates + 1))
    for anchors in rounds:
        resumed = EMAAnchors(A, D, decay=ema.decay)
        resumed.load_state_dict(ema.state_dict())
        ema = resumed.update(anchors)
    torch.testing.assert_close(ema.anchors, rounds.mean(0))


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=rf"`decay` must be in \[0, 1\], got {decay}"):
        EMAAnchors(A, D, decay)


@pytest.mark.parametrize(
    ("anchors", "error", "message"),
    [
        (torch.randn(A, D + 1), ValueError, r"`anchors` must have shape \(8, 5\), got \(8, 6\)"),
        (torch.ones(A, D).long(), TypeError, "`anchors` must be a floating-point tensor"),
    ],
)
def test_bad_ema_update(anchors, error, message):
    with pytest.raises(error, match=message):
        EMAAnchors(A, D, 0.9).update(anchors)
