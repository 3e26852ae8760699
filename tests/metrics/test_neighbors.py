"""Neighbourhood measures against loops over sets, scikit-learn and dense formulas."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from relreps import NumericalWarning
from relreps.metrics import cknna, mean_reciprocal_rank, mutual_knn, neighborhood_jaccard
from relreps.projection import Quantize
from tests._data import orthogonal

N, D, E, K = 40, 6, 9, 5
close = torch.testing.assert_close

MEASURES = {
    "mutual_knn": mutual_knn,
    "calibrated": lambda x, y, k, **options: mutual_knn(x, y, k, True, **options),
    "neighborhood_jaccard": neighborhood_jaccard,
    "cknna": cknna,
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def pair(n=N, noise=0.5):
    x = torch.randn(n, D, dtype=torch.float64)
    return x, torch.cat((x, noise * torch.randn(n, E - D, dtype=torch.float64)), 1)


def one_hot_pair():
    """Few directions, of several lengths, and rows of zeros: everything ties."""
    choices = torch.tensor([[1, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 3]])
    return tuple(choices[torch.randint(0, len(choices), (12,))].double() for _ in range(2))


def quantized_pair():
    """Codes on a grid: equal cosines of different rows, in products that round differently."""
    return tuple(Quantize(1.0)(1.2 * torch.randn(13, 4, dtype=torch.float64)) for _ in range(2))


def half_tied_pair():
    """Copies in one space, of which the other knows nothing."""
    return torch.randn(5, 3, dtype=torch.float64).repeat(3, 1)[:13], torch.randn(13, 4).double()


TIED = [one_hot_pair, quantized_pair, half_tied_pair]


def gram(x):
    rows = x.numpy() / np.maximum(np.linalg.norm(x.numpy(), axis=1, keepdims=True), 1e-300)
    return (rows @ rows.T).round(12)


def lists(x, k):
    """The definition: for each row, every set of k others that none of the rest is nearer than."""
    similar = gram(x)
    found = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        last = sorted(similar[i, others])[-k]
        sure = [j for j in others if similar[i, j] > last]
        tied = [j for j in others if similar[i, j] == last]
        found.append([{*sure, *some} for some in combinations(tied, k - len(sure))])
    return found


def brute_force(x, y, k):
    """Averages over every choice among what ties, of each row and each space for itself."""
    n, a, b = len(x), gram(x), gram(y)
    choices = list(zip(lists(x, k), lists(y, k), strict=True))
    shared = [[len(p & q) for p in ours for q in theirs] for ours, theirs in choices]
    m, c = np.mean([np.mean(row) for row in shared]) / k, k / (n - 1)

    def h(values):
        """From what each row may add: pairs of vectors, of the two sides."""
        terms = [
            np.mean([((p * q).sum(), p.sum(), q.sum(), p.sum() * q.sum()) for p, q in row], 0)
            for row in values
        ]
        products, r, s, rs = np.array(terms).T
        across = r.sum() * s.sum() - (r * s).sum() + rs.sum()  # rows are drawn independently
        return products.sum() + across / ((n - 1) * (n - 2)) - 2 / (n - 2) * rs.sum()

    def only(row, kept):
        return row * np.isin(np.arange(n), list(kept))

    cross = [
        [(only(a[i], p & q), only(b[i], p & q)) for p in choices[i][0] for q in choices[i][1]]
        for i in range(n)
    ]
    own_a = [[(only(a[i], p), only(a[i], p)) for p in choices[i][0]] for i in range(n)]
    own_b = [[(only(b[i], q), only(b[i], q)) for q in choices[i][1]] for i in range(n)]
    return {
        "mutual_knn": m,
        "calibrated": (m - c) / (1 - c),
        "neighborhood_jaccard": np.mean([np.mean([s / (2 * k - s) for s in r]) for r in shared]),
        "cknna": h(cross) / np.sqrt(h(own_a) * h(own_b)),
    }


def values(x, y, k, **options):
    return {name: float(measure(x, y, k, **options)) for name, measure in MEASURES.items()}


@pytest.mark.parametrize("chunk_size", [1, 7, N, 1000])
def test_equal_to_the_definitions(chunk_size):
    x, y = pair()
    assert values(x, y, K, chunk_size=chunk_size) == pytest.approx(brute_force(x, y, K))


@pytest.mark.parametrize("make", TIED)
@pytest.mark.parametrize("chunk_size", [5, 1000])
@pytest.mark.parametrize("k", [2, 3])
def test_ties_are_broken_in_every_way(make, chunk_size, k):
    x, y = make()
    expected = pytest.approx(brute_force(x, y, k), rel=1e-9)
    assert values(x, y, k, chunk_size=chunk_size) == expected
    coarse = values(x.float(), y.float(), k)
    assert coarse == pytest.approx(brute_force(x, y, k), rel=1e-4, abs=1e-6)


@each_measure
@pytest.mark.parametrize("make", TIED)
def test_the_order_of_the_rows_does_not_matter(measure, make):
    x, y = (side.repeat(4, 1)[torch.randperm(4 * len(side))].float() for side in make())
    order = torch.randperm(len(x))
    close(measure(x[order], y[order], 9), measure(x, y, 9))


@pytest.mark.parametrize("classes", [2, 4])
def test_independent_one_hot_spaces_share_what_chance_gives(classes):
    shares = []
    for _ in range(20):
        x, y = (torch.eye(classes)[torch.randint(classes, (200,))] for _ in range(2))
        shares.append(mutual_knn(x, y, 10, calibrated=True))
        assert neighborhood_jaccard(x, y, 10) < 0.05
    assert abs(torch.stack(shares).mean()) < 0.01


def test_the_jaccard_index_of_long_lists_is_expected_exactly():
    """Against many draws, as there are too many choices to go through."""
    n, k = 60, 25
    x, y = (torch.eye(2)[torch.randint(2, (n,))] for _ in range(2))
    noise = torch.rand(2, 400, n, n)
    total = 0.0
    similar = [side @ side.T - 9 * torch.eye(n) for side in (x, y)]
    for one, other in zip(*noise, strict=True):
        near = [
            torch.zeros(n, n).scatter(1, (s + 0.5 * draw).topk(k).indices, 1)
            for s, draw in zip(similar, (one, other), strict=True)
        ]
        shared = (near[0] * near[1]).sum(1)
        total += float((shared / (2 * k - shared)).mean()) / 400
    assert float(neighborhood_jaccard(x, y, k)) == pytest.approx(total, abs=2e-3)


def test_neighbours_are_those_of_scikit_learn():
    x, y = pair(200)
    found = [
        NearestNeighbors(n_neighbors=K, metric="cosine").fit(side.numpy()).kneighbors()[1]
        for side in (x, y)
    ]
    shared = [len({*a} & {*b}) for a, b in zip(*found, strict=True)]
    assert float(mutual_knn(x, y, K)) == pytest.approx(np.mean(shared) / K)


def debiased_cka(x, y):
    """By the Gram matrices without their diagonals (Song et al. 2012, equation 5)."""
    n = len(x)
    k, l = (gram(side) * (1 - np.eye(n)) for side in (x, y))  # noqa: E741

    def h(a, b):
        mean = a.sum() * b.sum() / ((n - 1) * (n - 2))
        return np.trace(a @ b) + mean - 2 / (n - 2) * (a @ b).sum()

    return h(k, l) / np.sqrt(h(k, k) * h(l, l))


def test_cknna_of_all_neighbours_is_debiased_cka_of_unit_rows():
    x, y = pair()
    assert float(cknna(x, y, N - 1)) == pytest.approx(debiased_cka(x, y))


@each_measure
def test_a_space_is_like_itself(measure):
    x, y = pair()
    close(measure(x, x, K), torch.tensor(1.0, dtype=torch.float64))
    assert measure(x, y, K) < 1


@each_measure
def test_symmetric(measure):
    x, y = pair()
    close(measure(x, y, K), measure(y, x, K))


@each_measure
def test_each_space_may_turn_and_each_row_may_grow(measure):
    x, y = pair()
    before = measure(x, y, K)
    turned = x @ orthogonal(D)
    stretched = y * torch.rand(N, 1, dtype=torch.float64) * 1e20
    close(measure(turned, stretched, K), before)


@each_measure
def test_a_translation_or_a_linear_map_of_one_space_shows(measure):
    x, y = pair()
    before = measure(x, y, K)
    assert (measure(x + 3, y, K) - before).abs() > 0.01
    assert (measure(x * torch.arange(1, D + 1), y, K) - before).abs() > 0.01


@each_measure
def test_a_shuffle_of_both_changes_nothing_and_of_one_everything(measure):
    x, y = pair()
    order = torch.randperm(N)
    close(measure(x[order], y[order], K), measure(x, y, K))
    assert measure(x[order], y, K) < 0.5 * measure(x, y, K)


def test_independent_spaces_share_neighbours_by_chance():
    n, k = 800, 40
    x, y = torch.randn(n, 20), torch.randn(n, 30)
    assert float(mutual_knn(x, y, k)) == pytest.approx(k / (n - 1), rel=0.1)
    assert abs(mutual_knn(x, y, k, calibrated=True)) < 0.01
    assert float(neighborhood_jaccard(x, y, k)) == pytest.approx(k / (2 * n), rel=0.1)
    assert float(cknna(x, y, k)) == pytest.approx(k / n, rel=0.1)
    assert abs(cknna(x, y, n - 1)) < 0.01


@pytest.mark.parametrize("measure", [mutual_knn, neighborhood_jaccard])
@pytest.mark.parametrize("n", [6, 53, 90])
def test_a_copy_is_the_neighbour_and_the_row_itself_never_is(measure, n):
    """Exact copies in one space, near copies in the other: each row's one neighbour is its copy."""
    x, y = torch.randn(n, 37), torch.randn(n, 20)
    order = torch.randperm(2 * n)
    near = torch.cat((y, y + 1e-3 * torch.randn_like(y)))
    assert measure(torch.cat((x, x))[order], near[order], 1) == 1


def test_all_others_are_everybodys_neighbours():
    x, y = pair()
    assert mutual_knn(x, y, N - 1) == neighborhood_jaccard(x, y, N - 1) == 1


@each_measure
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_types_may_differ_and_rounding_hardly_matters(measure, dtype):
    x, y = pair()
    value = measure(x.to(dtype), y.float(), K)
    assert value.dtype == torch.float32
    close(value.double(), measure(x.to(dtype).double(), y, K), atol=0.02, rtol=0)


@each_measure
def test_autocast_and_gradients(measure):
    x, y = (side.float().requires_grad_() for side in pair())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = measure(x, y, K)
    close(inside, measure(x, y, K), atol=0, rtol=0)
    assert not inside.requires_grad


@each_measure
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    "constant",
    [torch.ones(N, D), torch.zeros(N, D), torch.rand(N, 1) * torch.randn(D), torch.rand(N, 1)],
    ids=["equal", "zero", "one-ray", "one-positive-feature"],
)
def test_a_constant_space_has_no_neighbours(measure, side, constant):
    spaces = [torch.randn(N, D), torch.randn(N, D)]
    spaces[side] = constant
    with pytest.warns(NumericalWarning, match=f"`{'xy'[side]}` is constant: its 40 rows") as caught:
        assert measure(*spaces, K).isnan()
    assert {warning.filename for warning in caught} == {__file__}


def test_two_constant_spaces_are_both_named():
    with pytest.warns(NumericalWarning) as caught:
        assert mutual_knn(torch.ones(N, D), torch.ones(N, E), K).isnan()
    assert [str(w.message)[:3] for w in caught] == ["`x`", "`y`"]


@pytest.mark.parametrize("offset", [100.0, 3000.0])
def test_a_common_part_does_not_cost_neighbours_in_float32(offset):
    """Cosines near 1 round to the same number; what they differ by does not."""
    x = torch.randn(300, 30) + offset
    y = x + 0.3 * torch.randn_like(x)
    wide = x.double(), y.double()
    close(mutual_knn(x, y), mutual_knn(*wide).float(), atol=2e-3, rtol=0)
    close(cknna(x, y), cknna(*wide).float(), atol=2e-3, rtol=0)
    assert mean_reciprocal_rank(x, y) == 1


def test_copies_tie_under_a_common_part():
    x = torch.randn(40, 37).repeat(2, 1) + 100
    assert mutual_knn(x, x, 1) == 1
    close(mean_reciprocal_rank(x, x), torch.tensor((1 + 1 / 2) / 2))


@pytest.mark.parametrize("swapped", [False, True])
def test_one_self_term_that_is_not_positive_is_enough_to_warn(swapped):
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(4, width, generator=generator).double() for width in (2, 3)]
    signs = r"got 0.841 and -0.554" if not swapped else r"got -0.554 and 0.841"
    with pytest.warns(NumericalWarning, match=signs):
        assert cknna(*sides[:: -1 if swapped else 1], k=2).isnan()


def test_too_little_for_cknna():
    """Among four rows in a circle all pairs of neighbours are alike, and nothing is left."""
    x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    with pytest.warns(NumericalWarning, match=r"self terms .* must be positive.*4 rows and k=2"):
        assert cknna(x, x, 2).isnan()


@each_measure
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x[1:], y), ValueError, r"paired row by row, got 39 and 40"),
        (lambda x, y: (x / 0, y), ValueError, r"`x` must be finite.*first is row 0"),
        (lambda x, y: (x, y.log()), ValueError, r"`y` must be finite"),
        (lambda x, y: (x.long(), y), TypeError, r"`x` must be a floating-point.*int64"),
        (lambda x, y: (x[0], y), ValueError, r"`x` must have shape \(rows, features\)"),
        (lambda x, y: (x[:1], y[:1]), ValueError, r"`x` must have at least [234] row\(s\), got 1"),
    ],
    ids=["unpaired", "infinite", "nan", "integer", "one-row-only", "one-row"],
)
def test_bad_rows(measure, change, error, message):
    with pytest.raises(error, match=message):
        measure(*change(*pair()), K)


@each_measure
@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (N, ValueError, r"`k` must be at most the number of other rows.* k=40 and 39 other rows"),
        (0, ValueError, r"`k` must be at least 1, got 0"),
        (2.0, TypeError, r"`k` must be an int, got float"),
    ],
)
def test_bad_k(measure, k, error, message):
    with pytest.raises(error, match=message):
        measure(*pair(), k)


def test_bad_k_of_one_measure():
    with pytest.raises(ValueError, match="`k` must be at most 38 to be calibrated, got 39"):
        mutual_knn(*pair(), N - 1, calibrated=True)
    with pytest.raises(ValueError, match="`k` must be at least 2, got 1"):
        cknna(*pair(), 1)
    with pytest.raises(ValueError, match=r"`x` must have at least 4 row\(s\), got 3"):
        cknna(*pair(3), 2)


@each_measure
def test_bad_chunk_size(measure):
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1, got 0"):
        measure(*pair(), K, chunk_size=0)


@each_measure
def test_a_massive_feature_leaves_the_neighbours_of_float64(measure):
    """Cosines are then near 1 or -1, and float32 cannot order them."""
    x, y = (side.float() for side in pair(200))
    x[:, 1] *= 1000
    close(measure(x, y, K).double(), measure(x.double(), y.double(), K), atol=1e-6, rtol=1e-5)
