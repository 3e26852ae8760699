"""Retrieval measures against loops over sets, and against scikit-learn's neighbours."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from relreps import NumericalWarning
from relreps.metrics import (
    jaccard_at_k,
    mean_reciprocal_rank,
    recall_at_k,
    retrieval_ranks,
    retrieval_scores,
)
from relreps.projection import Quantize
from tests._data import orthogonal

N, D, K = 50, 6, 7
close = torch.testing.assert_close

MEASURES = {
    "mrr": mean_reciprocal_rank,
    "mrr-truncated": lambda x, y, **options: mean_reciprocal_rank(x, y, k=K, **options),
    "recall": lambda x, y, **options: recall_at_k(x, y, K, **options),
    "jaccard": lambda x, y, **options: jaccard_at_k(x, y, K, **options),
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def pair(noise=0.5, n=N, features=D):
    x = torch.randn(n, features, dtype=torch.float64)
    return x, x + noise * torch.randn_like(x)


def one_hot_pair():
    """Few directions, of several lengths, and rows of zeros: everything ties."""
    choices = torch.tensor([[1, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 3]])
    return tuple(choices[torch.randint(0, len(choices), (12,))].double() for _ in range(2))


def quantized_pair():
    """Codes on a grid: equal cosines of different rows, in products that round differently."""
    x, y = pair(n=13, features=4)
    return Quantize(1.0)(1.2 * x), Quantize(1.0)(1.2 * y)


def copied_pair():
    """An exact map of rows that come three times."""
    x = torch.randn(5, 4, dtype=torch.float64).repeat(3, 1)[torch.randperm(15)]
    return x, 2 * x


TIED = [one_hot_pair, quantized_pair, copied_pair]


def brute_force(x, y, k):
    """The definitions, by loops, averaged over every way to break ties."""
    x, y = (
        [row / (np.linalg.norm(row) or 1) for row in side.numpy().astype(np.float64)]
        for side in (x, y)
    )

    def lists(query):
        similar = [round(float(query @ key), 12) for key in y]
        last = sorted(similar)[-k]
        sure = [j for j, s in enumerate(similar) if s > last]
        tied = [j for j, s in enumerate(similar) if s == last]
        return [{*sure, *some} for some in combinations(tied, k - len(sure))]

    reciprocal, truncated, recalled, overlap = [], [], [], []
    for query, answer in zip(x, y, strict=True):
        similar = [round(float(query @ key), 12) for key in y]
        right = round(float(query @ answer), 12)
        best, worst = 1 + sum(s > right for s in similar), sum(s >= right for s in similar)
        ranks = range(best, worst + 1)
        reciprocal.append(np.mean([1 / rank for rank in ranks]))
        recalled.append(np.mean([rank <= k for rank in ranks]))
        truncated.append(np.mean([(rank <= k) / rank for rank in ranks]))
        ours, theirs = lists(query), lists(answer)
        overlap.append(np.mean([len(p & q) / len(p | q) for p in ours for q in theirs]))
    return [float(np.mean(values)) for values in (reciprocal, truncated, recalled, overlap)]


@pytest.mark.parametrize("chunk_size", [1, 7, N, 1000])
def test_equal_to_the_definitions(chunk_size):
    x, y = pair()
    values = [float(measure(x, y, chunk_size=chunk_size)) for measure in MEASURES.values()]
    assert values == pytest.approx(brute_force(x, y, K))


@pytest.mark.parametrize("make", TIED)
@pytest.mark.parametrize("chunk_size", [5, 1000])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_ties_are_broken_in_every_way(make, chunk_size, k):
    x, y = make()
    expected = brute_force(x, y, k)
    for sides in ((x, y), (x.float(), y.float())):
        scores = retrieval_scores(*sides, k, chunk_size=chunk_size)
        truncated = mean_reciprocal_rank(*sides, k=k, chunk_size=chunk_size)
        joint = scores.mrr_xy, truncated, scores.recall_xy, scores.jaccard_xy
        assert [float(value) for value in joint] == pytest.approx(expected)
        alone = [f(*sides, k, chunk_size=chunk_size) for f in (recall_at_k, jaccard_at_k)]
        assert [float(value) for value in alone] == pytest.approx(expected[2:])


@each_measure
@pytest.mark.parametrize("make", TIED)
def test_the_order_of_the_rows_does_not_matter(measure, make):
    x, y = (side.repeat(4, 1).float() for side in make())
    order = torch.randperm(len(x))
    close(measure(x[order], y[order]), measure(x, y))


@pytest.mark.parametrize(("copies", "share"), [(2, 1.0), (20, 0.5)])
def test_a_copy_of_the_right_answer_is_as_right(copies, share):
    x = torch.randn(33, 16).repeat(copies, 1)
    q = orthogonal(16, dtype=torch.float32)
    close(recall_at_k(x, x, 10), torch.tensor(share))
    close(recall_at_k(x @ q, x @ q, 10), torch.tensor(share))


def test_lists_are_those_of_scikit_learn():
    x, y = pair()
    search = NearestNeighbors(n_neighbors=K, metric="cosine").fit(y.numpy())
    lists = [search.kneighbors(side.numpy(), return_distance=False) for side in (x, y)]
    overlap = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(*lists, strict=True)]
    assert float(jaccard_at_k(x, y, K)) == pytest.approx(np.mean(overlap))
    found = [i in row for i, row in enumerate(lists[0])]
    assert float(recall_at_k(x, y, K)) == pytest.approx(np.mean(found))


@pytest.mark.parametrize("n", [5, 53, 90])
def test_duplicate_keys_tie_exactly_however_the_product_rounds(n):
    """Each key twice: the right answer is the first or the second."""
    x = torch.randn(n, 37)
    twice = torch.cat((x, x))[torch.randperm(2 * n)]
    close(retrieval_ranks(twice, twice), torch.full((2 * n,), 1.5))
    close(mean_reciprocal_rank(twice, twice), torch.tensor((1 + 1 / 2) / 2))
    assert recall_at_k(twice, twice, 1) == 0.5
    assert recall_at_k(twice, twice, 2) == 1


def test_truncated_mrr_lies_below_by_less_than_the_next_reciprocal():
    x, y = pair()
    whole = mean_reciprocal_rank(x, y)
    for k in (1, 3, N - 1):
        assert whole - 1 / (k + 1) <= mean_reciprocal_rank(x, y, k=k) <= whole
    assert mean_reciprocal_rank(x, y, k=N) == whole
    assert mean_reciprocal_rank(x, y, k=1) == recall_at_k(x, y, 1)


def test_mrr_and_recall_are_means_of_the_ranks():
    x, y = pair()
    ranks = retrieval_ranks(x, y)
    assert ranks.shape == (N,)
    close(mean_reciprocal_rank(x, y), (1 / ranks).mean())
    close(recall_at_k(x, y, K), (ranks <= K).double().mean())


@each_measure
@pytest.mark.parametrize(
    "constant",
    [torch.ones(N, D), torch.zeros(N, D), torch.rand(N, 1) * torch.randn(D)],
    ids=["equal", "zero", "one-ray"],
)
def test_nothing_is_found_among_constant_keys(measure, constant):
    x = torch.randn(N, D)
    with pytest.warns(NumericalWarning, match="`y` is constant: its 50 rows"):
        assert measure(x, constant).isnan()
    assert measure(constant, x).isfinite()


def test_scores_know_which_side_is_constant():
    with pytest.warns(NumericalWarning, match="`x` is constant") as caught:
        scores = retrieval_scores(torch.ones(N, D), torch.randn(N, D), K)
    assert {warning.filename for warning in caught} == {__file__}
    finite = {name: bool(value.isfinite()) for name, value in scores._asdict().items()}
    assert finite == {name: not name.endswith("yx") for name in finite}


@each_measure
def test_equal_spaces_score_one(measure):
    x, _ = pair()
    assert measure(x, x) == 1


@pytest.mark.parametrize(("k", "share"), [(1, 0), (2, 1)])
def test_recall_counts_the_last_rank(k, share):
    """Each query is nearest to the next key, and its own comes second."""
    keys = torch.eye(4)
    assert recall_at_k(keys + 2 * keys.roll(1, 0), keys, k) == share


@each_measure
@pytest.mark.parametrize("change", ["rotation", "scale", "shuffle"])
def test_what_both_sides_may_share(measure, change):
    x, y = pair()
    before = measure(x, y)
    if change == "rotation":
        q = orthogonal(D)
        x, y = x @ q, y @ q
    elif change == "scale":
        x, y = (side * torch.rand(N, 1, dtype=torch.float64) * 1e20 for side in (x, y))
    else:
        order = torch.randperm(N)
        x, y = x[order], y[order]
    close(measure(x, y), before)


def test_independent_spaces_score_by_chance():
    n, k = 1000, 50
    x, y = torch.randn(2, n, 20)
    harmonic = math.log(n) + 0.5772
    assert float(mean_reciprocal_rank(x, y)) == pytest.approx(harmonic / n, rel=0.5)
    assert float(recall_at_k(x, y, k)) == pytest.approx(k / n, rel=0.5)
    assert float(jaccard_at_k(x, y, k)) == pytest.approx(k / (2 * n), rel=0.2)


@each_measure
def test_a_rotation_of_one_side_alone_is_lost(measure):
    x = torch.randn(1000, 20)
    assert measure(x, x @ orthogonal(20, dtype=torch.float32)) < 0.03


def test_a_zero_query_ties_with_everything():
    x = torch.eye(4)
    x[0] = 0
    first = (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    close(mean_reciprocal_rank(x, torch.eye(4)), torch.tensor((first + 3) / 4))


def test_lists_of_all_keys_agree():
    x, y = pair()
    assert jaccard_at_k(x, y, N) == recall_at_k(x, y, N) == 1


def test_retrieval_scores_are_both_directions_and_the_mean_cosine():
    x, y = pair()
    scores = retrieval_scores(x, y, K)
    close(scores.mrr_xy, mean_reciprocal_rank(x, y))
    close(scores.mrr_yx, mean_reciprocal_rank(y, x))
    close(scores.recall_xy, recall_at_k(x, y, K))
    close(scores.recall_yx, recall_at_k(y, x, K))
    close(scores.jaccard_xy, jaccard_at_k(x, y, K))
    close(scores.jaccard_yx, jaccard_at_k(y, x, K))
    close(scores.cosine, torch.nn.functional.cosine_similarity(x, y).mean())
    assert scores.mrr_xy != scores.mrr_yx
    assert scores.jaccard_xy != scores.jaccard_yx


@each_measure
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_types_may_differ_and_rounding_hardly_matters(measure, dtype):
    x, y = pair(noise=0.1)
    value = measure(x.to(dtype), y.float())
    assert value.dtype == torch.float32
    close(value.double(), measure(x.to(dtype).double(), y), atol=0.02, rtol=0)


@each_measure
def test_autocast_changes_nothing(measure):
    x, y = (side.float() for side in pair())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = measure(x, y)
    close(inside, measure(x, y), atol=0, rtol=0)


@each_measure
def test_no_gradient_is_kept(measure):
    x, y = pair()
    assert not measure(x.requires_grad_(), y).requires_grad


@each_measure
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x[1:], y), ValueError, r"paired row by row, got 49 and 50"),
        (lambda x, y: (x, y[:, 1:]), ValueError, r"same width .* got 6 and 5.*translate"),
        (lambda x, y: (x / 0, y), ValueError, r"`x` must be finite.*first is row 0"),
        (lambda x, y: (x, y.log()), ValueError, r"`y` must be finite"),
        (lambda x, y: (x.long(), y), TypeError, r"`x` must be a floating-point.*int64"),
        (lambda x, y: (x[0], y), ValueError, r"`x` must have shape \(rows, features\)"),
        (lambda x, y: (x[:0], y[:0]), ValueError, r"at least 1 row"),
    ],
    ids=["unpaired", "widths", "infinite", "nan", "integer", "one-row-only", "empty"],
)
def test_bad_rows(measure, change, error, message):
    with pytest.raises(error, match=message):
        measure(*change(*pair()))


@pytest.mark.parametrize(
    "measure",
    [recall_at_k, jaccard_at_k, retrieval_scores, lambda x, y, k: mean_reciprocal_rank(x, y, k=k)],
)
@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (N + 1, ValueError, r"`k` must be at most .* got k=51 and 50 rows"),
        (0, ValueError, r"`k` must be at least 1, got 0"),
        (2.0, TypeError, r"`k` must be an int, got float"),
    ],
)
def test_bad_k(measure, k, error, message):
    with pytest.raises(error, match=message):
        measure(*pair(), k)


@each_measure
def test_bad_chunk_size(measure):
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1, got 0"):
        measure(*pair(), chunk_size=0)
