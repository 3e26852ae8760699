"""Samplers: what every one promises, and what each is for."""

import pytest
import torch

from relreps import (
    FarthestAnchors,
    KMeansAnchors,
    LeverageAnchors,
    StratifiedAnchors,
    TopKAnchors,
    UniformAnchors,
    anchor_report,
    prototypes,
    prune_anchors,
)
from relreps.anchors import (
    BestAlignedAnchors,
    ClusterAnchors,
    cluster_labels,
    coverage_loss,
    diversity_loss,
)
from tests._data import LargestMade, blobs, many_rows, rotated, seeded

N, D, A, BLOBS = 60, 5, 8, 12


def top_k(num_anchors, *, generator=None):
    return TopKAnchors(num_anchors, torch.linspace(0, 1, N), pool=N, generator=generator)


def by_cluster(num_anchors, *, normalize=True, generator=None):
    return ClusterAnchors(num_anchors, 4, normalize=normalize, generator=generator)


SAMPLERS = [
    UniformAnchors,
    StratifiedAnchors,
    FarthestAnchors,
    KMeansAnchors,
    LeverageAnchors,
    top_k,
    by_cluster,
]
#: Those that look where rows lie; and those that put one anchor into each of a few clusters.
GEOMETRIC = [FarthestAnchors, KMeansAnchors, LeverageAnchors, by_cluster]
SPREADING = [FarthestAnchors, KMeansAnchors]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
each_geometric = pytest.mark.parametrize("sampler", GEOMETRIC)
each_spreading = pytest.mark.parametrize("sampler", SPREADING)
each_normalize = pytest.mark.parametrize("normalize", [True, False], ids=["angles", "positions"])


def problem(n=N):
    return torch.randn(n, D, dtype=torch.float64), torch.randint(0, 4, (n,))


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


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s is not KMeansAnchors])
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


@each_geometric
@each_normalize
def test_a_rotation_leaves_the_picks(sampler, normalize):
    x, _ = problem()
    picks = [
        sampler(A, normalize=normalize, generator=seeded())(side).tolist()
        for side in (x, rotated(x))
    ]
    assert picks[0] == picks[1]


@each_spreading
@pytest.mark.parametrize("seed", range(5))
def test_one_anchor_in_each_blob(sampler, seed):
    x, members = blobs()
    picks = sampler(BLOBS, generator=seeded(seed))(x)
    assert members[picks].unique().numel() == BLOBS


@each_spreading
def test_normalize_decides_whether_length_matters(sampler):
    """Three directions at lengths 1 and 100: three groups of directions, or of positions."""
    axes = torch.eye(3).repeat(20, 1) * (1 + 1e-3 * torch.rand(60, 1))
    x = torch.cat((axes, 100 * axes)) + 1e-3 * torch.randn(120, 3)
    directions = sampler(3, normalize=True)(x)
    assert x[directions].argmax(1).unique().numel() == 3
    positions = sampler(4, normalize=False)(x)
    assert (x[positions].norm(dim=1) > 50).sum() == 3


@each_spreading
@pytest.mark.parametrize("size", [2.0**-100, 1.0, 2.0**100], ids=["tiny", "one", "huge"])
@pytest.mark.parametrize("shift", [0, 1000])
def test_positions_of_any_size_and_place(sampler, size, shift):
    x = (64 * problem()[0]).round() / 64  # float32 holds it, shifted and scaled, to the last bit
    draw = sampler(A, normalize=False, generator=seeded())
    moved = sampler(A, normalize=False, generator=seeded())
    assert moved(((x + shift) * size).float()).tolist() == draw(x).tolist()


@each_spreading
@each_normalize
@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_duplicates_come_last(sampler, normalize, distinct):
    x = torch.randn(distinct, D).repeat(20 // distinct, 1)
    picks = sampler(distinct, normalize=normalize)(x)
    assert x[picks].unique(dim=0).shape[0] == distinct


@each_normalize
def test_rows_of_one_direction_do_not_hang_or_repeat(normalize):
    x = torch.arange(1.0, 21)[:, None] * torch.ones(D)
    for sampler in GEOMETRIC:
        assert sampler(20, normalize=normalize)(x).sort().values.tolist() == list(range(20))


@each_sampler
@pytest.mark.parametrize("rows", [5, N])
def test_more_anchors_than_distinct_samples(sampler, rows):
    x, labels = torch.randn(5, D).repeat(N // 5, 1), torch.arange(N) % 3
    message = f"`num_anchors` .* distinct samples, got {A} and 5 distinct samples among {N}"
    with pytest.raises(ValueError, match=message):
        sampler(A)(x, labels)
    x[-rows:] = torch.randn(rows, D)  # now they are enough, whichever rows are looked at first
    assert sampler(A)(x, labels).unique().numel() == A


@each_geometric
@each_normalize
def test_zero_rows_are_rows(sampler, normalize):
    x = torch.zeros(20, D)
    x[3:10] = torch.eye(7)[:, :D] + torch.randn(7, D)
    picks = sampler(8, normalize=normalize)(x)
    assert picks.unique().numel() == 8
    if sampler is not by_cluster:
        assert set(range(3, 10)) < set(picks.tolist())


@pytest.mark.parametrize(
    "call",
    [
        *(lambda x, y, s=s: s(A, generator=seeded())(x, y) for s in SAMPLERS),
        lambda x, y: cluster_labels(x, A, generator=seeded()),
        prototypes,
        lambda x, y: torch.tensor(anchor_report(x[:A], x)[2]),
        lambda x, y: prune_anchors(x, 0.5),
        lambda x, y: coverage_loss(x, x[:A]),
        lambda x, y: coverage_loss(x, x[:A], normalize=False, temperature=0.1),
        lambda x, y: diversity_loss(x),
    ],
)
def test_autocast_changes_nothing(call):
    x, labels = torch.randn(N, D), torch.arange(N) % 4
    plain = call(x, labels)
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(x, labels)
    assert cast.dtype == plain.dtype
    assert torch.equal(cast, plain)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_labels_of_every_integer_type(dtype):
    x, labels = problem()
    draw = [StratifiedAnchors(A, generator=seeded())(x, y) for y in (labels, labels.to(dtype))]
    assert torch.equal(*draw)


@each_sampler
def test_a_seed_is_no_generator(sampler):
    with pytest.raises(TypeError, match=r"`generator` must be a torch\.Generator or None, got int"):
        sampler(A, generator=3)
    with pytest.raises(TypeError, match=r"`generator` must be a torch\.Generator or None, got int"):
        cluster_labels(problem()[0], 3, generator=3)


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
        (lambda x, y: (x, y > 1), TypeError, r"`labels` must be an integer tensor, got .*bool"),
        (lambda x, y: (x, y.tolist()), TypeError, "`labels` must be an integer tensor, got list"),
    ],
    ids=[
        "few-rows",
        "vector",
        "integer",
        "list",
        "nan",
        "labels-short",
        "labels-float",
        "bool",
        "labels",
    ],
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


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: KMeansAnchors(A, max_iterations=0), "`max_iterations` must be at least 1, got 0"),
        (lambda: KMeansAnchors(A, tolerance=-1), r"`tolerance` must be in \[0, 1\], got -1"),
        (
            lambda: KMeansAnchors(A, tolerance=torch.nan),
            r"`tolerance` must be in .*, got nan",
        ),
        (lambda: ClusterAnchors(A, 0), "`num_clusters` must be at least 1, got 0"),
        (lambda: ClusterAnchors(A, 2, max_iterations=0), "`max_iterations` must be at least 1"),
        (
            lambda: ClusterAnchors(A, 2, order="centre"),
            "`order` must be one of .* mean 'center'",
        ),
        (
            lambda: ClusterAnchors(A, 2, order=torch.ones(2, 2)),
            r"`order` must have one entry a row",
        ),
        (lambda: TopKAnchors(A, torch.ones(9), pool=7), "`pool` must be at least 8, got 7"),
        (lambda: TopKAnchors(A, torch.ones(9, 1)), "`scores` must have one entry a row, got shape"),
        (lambda: BestAlignedAnchors(A, torch.ones(9)), r"`other` must have shape \(rows, features"),
        (lambda: BestAlignedAnchors(A, torch.full((9, 2), torch.nan)), "`other` must be finite"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (TopKAnchors(A, torch.ones(N - 1)), f"`scores` .* one entry for each of the {N} rows"),
        (TopKAnchors(A, torch.full((N,), torch.nan)), "`scores` must not hold NaN .* entry 0"),
        (TopKAnchors(A, torch.ones(N), pool=N + 1), f"a pool of {N + 1} and {N} samples"),
        (
            ClusterAnchors(A, 3, order=torch.ones(N + 1)),
            f"`order` .* one entry for each of the {N} rows",
        ),
        (
            ClusterAnchors(A, 3, order=lambda x: x),
            rf"`order` .* one entry for each of the {N} rows, got shape \({N}, {D}\)",
        ),
        (ClusterAnchors(A, N + 1), f"`num_clusters` .* got {N + 1} and {N} distinct samples"),
        (BestAlignedAnchors(A, torch.randn(N - 1, D)), "`x` and `other` must be paired"),
    ],
    ids=["scores-short", "scores-nan", "pool", "order-short", "order-wide", "clusters", "unpaired"],
)
def test_options_that_do_not_fit_the_data(sampler, message):
    with pytest.raises(ValueError, match=message):
        sampler(problem()[0])


def test_scores_must_be_a_tensor():
    with pytest.raises(TypeError, match=r"`scores` must be a torch\.Tensor, got list"):
        TopKAnchors(A, [1.0] * N)
    with pytest.raises(TypeError, match=r"`scores` must be real numbers, got torch\.complex64"):
        TopKAnchors(A, torch.ones(N, dtype=torch.complex64))


# Scores


def test_top_k_takes_the_best_in_order_and_ties_by_index():
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0])
    assert TopKAnchors(3, scores)(torch.randn(4, D)).tolist() == [1, 3, 2]
    assert TopKAnchors(2, scores.long())(torch.randn(4, D)).tolist() == [1, 3]


def test_top_k_draws_uniformly_from_its_pool():
    x, scores = torch.randn(N, D), torch.arange(N)
    draw = TopKAnchors(2, scores, pool=5)
    counts = torch.bincount(torch.cat([draw(x) for _ in range(1000)]), minlength=N)
    assert counts[: N - 5].sum() == 0
    assert counts[N - 5 :].min() > 330  # of 400 expected, deviation 15


@pytest.fixture(scope="module")
def large():
    return many_rows()


@pytest.mark.parametrize(
    ("sampler", "columns"),
    [
        (UniformAnchors(300), 8),
        (FarthestAnchors(300), 8),
        (FarthestAnchors(300, normalize=False), 128),
        (KMeansAnchors(300, max_iterations=2), 128),
        (ClusterAnchors(300, 300, max_iterations=2), 128),
    ],
)
def test_no_table_of_samples_by_anchors_is_made(large, sampler, columns):
    """At most a copy of the data, and nothing of its size for directions of the farthest."""
    with LargestMade(large) as made:
        sampler(large)
    assert made.entries <= columns * len(large)
