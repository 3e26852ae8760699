"""Anchors by where rows lie: against their definitions, on ties and at every scale."""

import pytest
import torch

from relreps import FarthestAnchors, LeverageAnchors
from relreps._core import blocks
from relreps.anchors import BestAlignedAnchors, leverage_scores
from tests._data import blobs, many_rows, normal, rotated, seeded

N, D, A, BLOBS = 60, 5, 8, 12
each_normalize = pytest.mark.parametrize("normalize", [True, False], ids=["angles", "positions"])


@pytest.fixture(scope="module")
def large():
    return many_rows()


def radius(x, picks):
    """Distance of each row to the nearest pick."""
    return torch.cdist(x, x[picks], compute_mode="donot_use_mm_for_euclid_dist").amin(1)


@each_normalize
def test_each_farthest_anchor_is_farthest_from_those_before(normalize):
    x = normal(N, D)
    picks = FarthestAnchors(20, normalize=normalize)(x)
    space = torch.nn.functional.normalize(x) if normalize else x
    radii = []
    for i in range(1, len(picks)):
        distance = radius(space, picks[:i])
        assert distance[picks[i]] == distance.max()
        radii.append(distance.max())
    assert radii == sorted(radii, reverse=True)


@pytest.mark.parametrize("unit", [1, 3, 1000], ids=lambda unit: f"over-{unit}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ties_of_the_farthest_go_to_the_lowest_index(dtype, unit):
    """Against integers: on a grid most choices are ties, which rounding must not decide."""
    grid = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    picks = FarthestAnchors(25, normalize=False, generator=seeded())(grid.to(dtype) / unit)
    table = (grid[:, None] - grid).square().sum(-1)
    wanted = picks[:1].tolist()
    for _ in range(24):
        nearest = table[:, wanted].amin(1).tolist()
        wanted.append(nearest.index(max(nearest)))
    assert picks.tolist() == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_positions_up_to_the_largest_number_of_the_type(dtype):
    x = torch.rand(N, D, dtype=dtype)
    x[7, 0] = torch.finfo(dtype).max
    assert 7 in FarthestAnchors(2, normalize=False)(x)
    assert leverage_scores(x).argmax() == 7


def test_farthest_is_at_most_twice_the_best_radius():
    x, members = blobs()
    picks = FarthestAnchors(BLOBS, normalize=False)(x)
    best = max(torch.cdist(c, c).amax(1).min() for c in (x[members == i] for i in range(BLOBS)))
    assert radius(x, picks).max() <= 2 * best


@pytest.mark.parametrize("size", [2.0**-140, 2.0**-70, 2.0**70, 2.0**120])
def test_directions_of_rows_of_any_length(size):
    x = torch.randn(N, D)
    x[0] = 0
    scaled = x.clone()
    scaled[::2] *= size
    wanted = FarthestAnchors(A, generator=seeded())(x.double())
    if size < 2.0**-130:  # what is left of these rows after rounding
        wanted = FarthestAnchors(A, generator=seeded())(scaled.double())
    assert torch.equal(FarthestAnchors(A, generator=seeded())(scaled), wanted)


@each_normalize
def test_farthest_of_300_anchors_is_the_plain_algorithm(large, normalize):
    picks = FarthestAnchors(300, normalize=normalize, generator=seeded())(large)
    rows = large.double()
    rows = torch.nn.functional.normalize(rows) if normalize else rows
    squares = rows.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)
    wanted = [int(picks[0])]
    for _ in range(299):
        last = rows[wanted[-1]]
        distance = squares + last.square().sum() - 2 * rows @ last
        nearest = torch.minimum(nearest, distance)
        wanted.append(int(nearest.argmax()))
    assert picks.tolist() == wanted


@each_normalize
@pytest.mark.parametrize("rank", [2, D])
def test_leverage_is_the_diagonal_of_the_hat_matrix(normalize, rank):
    x = normal(N, D)[:, :rank] @ torch.randn(rank, D, dtype=torch.float64)
    rows = torch.nn.functional.normalize(x) if normalize else x
    scores = leverage_scores(x, normalize=normalize)
    torch.testing.assert_close(scores, (rows @ torch.linalg.pinv(rows, rtol=1e-9)).diagonal())
    assert scores.sum().item() == pytest.approx(rank)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_leverage_ignores_invertible_maps_and_the_unit(size):
    x = normal(N, D)
    changed = size * x @ torch.randn(D, D, dtype=torch.float64)
    torch.testing.assert_close(leverage_scores(changed), leverage_scores(x))
    torch.testing.assert_close(
        leverage_scores((size * x).float()), leverage_scores(x), rtol=1e-4, atol=1e-4
    )


def test_leverage_in_blocks_is_the_same(monkeypatch):
    x = normal(N, D)
    whole = leverage_scores(x)
    monkeypatch.setattr(blocks, "rows_at_once", lambda *_: 7)
    torch.testing.assert_close(leverage_scores(x), whole)


def test_leverage_draws_in_proportion():
    """Three rows of leverage 1/3 on one axis and one of leverage 1 on the other."""
    x = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    x[:3] += 1e-6 * torch.rand(3, 2)
    draw = LeverageAnchors(1, normalize=False)
    counts = torch.bincount(torch.cat([draw(x) for _ in range(1000)]), minlength=4)
    assert 440 < counts[3] < 560  # of 500 expected, deviation 16
    top = LeverageAnchors(2, normalize=False, sampled=False)
    assert top(x)[0] == 3
    assert torch.equal(top(x), top(x))


@each_normalize
def test_best_aligned_finds_the_rows_that_agree(normalize, monkeypatch):
    x = normal(N, D)
    y = 3 * rotated(x)
    spoilt = torch.randperm(N)[:5]
    y[spoilt] = 3 * torch.randn(5, D, dtype=torch.float64)
    draw = BestAlignedAnchors(N // 2, y, normalize=normalize)
    picks = draw(x)
    assert not set(picks.tolist()) & set(spoilt.tolist())
    fewer = BestAlignedAnchors(A, y, normalize=normalize)(x)
    assert torch.equal(fewer, picks[:A])
    monkeypatch.setattr(blocks, "rows_of_table", lambda *_: 7)
    assert torch.equal(draw(x), picks)


def test_best_aligned_scores_are_the_formula():
    x = normal(N, D)
    y = torch.randn(N, 3, dtype=torch.float64)
    unit = torch.nn.functional.normalize
    gaps = torch.cdist(unit(x), unit(x)) - torch.cdist(unit(y), unit(y))
    assert torch.equal(BestAlignedAnchors(N, y)(x), gaps.square().sum(1).argsort())
