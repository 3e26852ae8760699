"""Discovery of parallel anchors: what is found, how sure it is, and what is refused."""

import re
import warnings

import pytest
import torch

import relreps
from relreps import PerformanceWarning, discover_parallel_anchors
from relreps.correspondence import discovery, mutual_nearest
from tests._data import orthogonal, right, seeded

N, D, S, A = 200, 12, 6, 120


def problem(noise=0.3, n=N, dtype=torch.float32):
    """Both spaces, the partner in y of each row of x, and seeds in a random order."""
    x = torch.randn(n, D, dtype=dtype)
    partner = torch.randperm(n)
    y = torch.empty_like(x)
    y[partner] = x @ orthogonal(D, dtype=dtype) + noise * torch.randn_like(x)
    seeds = torch.randperm(n)[:S]
    return x, y, partner, (seeds, partner[seeds])


@pytest.mark.parametrize("seed", range(3))
def test_few_seeds_give_many_pairs(seed):
    torch.manual_seed(seed)
    x, y, partner, seeds = problem()
    found = discover_parallel_anchors(x, y, seeds, A)
    assert right(found, partner).float().mean() > 0.95


def test_result_unpacks_seeds_first_then_the_surest_no_row_twice():
    x, y, _, seeds = problem()
    indices_x, indices_y, scores = discover_parallel_anchors(x, y, seeds, N)
    assert torch.equal(indices_x[:S], seeds[0])
    assert torch.equal(indices_y[:S], seeds[1])
    for indices in (indices_x, indices_y):
        assert indices.dtype == torch.long
        assert indices.shape == indices.unique().shape == (N,)
    assert scores.shape == (N,)
    assert (scores[S:].diff() <= 0).all()


def test_seeds_stay_even_where_they_are_wrong_and_their_score_says_so():
    x, y, partner, _ = problem(noise=0.1)
    seeds_x = torch.randperm(N)[:10]
    seeds_y = partner[seeds_x]
    seeds_y[[0, 1]] = seeds_y[[1, 0]]
    found = discover_parallel_anchors(x, y, (seeds_x, seeds_y), A)
    assert torch.equal(found.indices_y[:10], seeds_y)
    assert found.scores[:2].max() < 0 < found.scores[2:10].min()
    assert right(found, partner)[10:].float().mean() > 0.95


def test_more_rows_on_one_side():
    x, y, partner, (seeds_x, seeds_y) = problem()
    kept = torch.cat((seeds_x, torch.tensor([i for i in range(N) if i not in seeds_x])))[:130]
    few = torch.arange(S)
    found = discover_parallel_anchors(x[kept], y, (few, seeds_y), 80)
    assert right(found, partner[kept]).float().mean() > 0.9
    back = discover_parallel_anchors(y, x[kept], (seeds_y, few), 80)
    assert (partner[kept][back.indices_y] == back.indices_x).float().mean() > 0.9


def test_widths_may_differ_and_empty_dimensions_change_nothing():
    x, y, _, seeds = problem(dtype=torch.float64)
    wide = torch.nn.functional.pad(y, (0, 20)) @ orthogonal(D + 20)
    for a, b in zip(
        discover_parallel_anchors(x, y, seeds, A),
        discover_parallel_anchors(x, wide, seeds, A),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_rotating_moving_and_scaling_each_space_changes_nothing():
    x, y, _, seeds = problem(dtype=torch.float64)
    moved = 3e-5 * (x @ orthogonal(D)), 1e5 * (y @ orthogonal(D) + 7)
    for a, b in zip(
        discover_parallel_anchors(x, y, seeds, A),
        discover_parallel_anchors(*moved, seeds, A),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_pairs_that_were_found_are_seeds():
    x, y, partner, seeds = problem()
    shuffled = y[partner] + 0.1 * torch.randn_like(y)
    found = discover_parallel_anchors(x, y, seeds, A)
    again = discover_parallel_anchors(x, y, found, N)
    assert torch.equal(again.indices_x[:A], found.indices_x)
    assert torch.equal(again.indices_y[:A], found.indices_y)
    assert right(again, partner).float().mean() > 0.95
    near = mutual_nearest(shuffled, y)
    assert right(discover_parallel_anchors(x, y, near, N), partner).float().mean() > 0.95


def test_right_pairs_score_higher():
    x, y, partner, seeds = problem(noise=0.7)
    found = discover_parallel_anchors(x, y, seeds, N)
    good = right(found, partner)[S:]
    assert 0.1 < good.float().mean() < 0.99, "the problem is to be neither hopeless nor trivial"
    assert found.scores[S:][good].mean() > found.scores[S:][~good].mean() + 0.02


def test_scores_of_all_rows_tell_success_from_failure():
    x, y, _, seeds = problem()
    success = discover_parallel_anchors(x, y, seeds, N)
    with pytest.warns(
        relreps.NumericalWarning, match=r"Only \d+% .*no evidence.*more seeds"
    ) as told:
        failure = discover_parallel_anchors(x, torch.randn(N, D), seeds, N)
    assert (success.scores > 0).float().mean() > 0.9
    assert (failure.scores > 0).float().mean() < 0.5
    assert told[0].filename == __file__


@pytest.mark.parametrize("seed", range(3))
def test_few_rows_against_many_all_look_sure_and_it_is_said(seed):
    """Of seven times as many rows the nearest one is nearest both ways, right or wrong."""
    torch.manual_seed(seed)
    y, pick = torch.randn(7 * 30, D), torch.randperm(7 * 30)[:30]
    x = y[pick] @ orthogonal(D, dtype=torch.float32) + 2 * torch.randn(30, D)
    with pytest.warns(relreps.NumericalWarning, match="no evidence"):
        found = discover_parallel_anchors(x, y, (torch.arange(5), pick[:5]), 30)
    assert right(found, pick)[5:].float().mean() < 0.2
    assert (found.scores[5:] > 0).float().mean() > 0.5


def test_a_quarter_of_the_rows_succeeds_silently():
    y, pick = torch.randn(4 * 80, D), torch.randperm(4 * 80)[:80]
    x = y[pick] @ orthogonal(D, dtype=torch.float32) + 0.2 * torch.randn(80, D)
    found = discover_parallel_anchors(x, y, (torch.arange(S), pick[:S]), 80)
    assert right(found, pick).float().mean() > 0.9


def test_autocast_changes_nothing():
    x, y, _, seeds = problem(n=60)
    expected = discover_parallel_anchors(x, y, seeds, 40)
    with torch.autocast("cpu", torch.bfloat16):
        found = discover_parallel_anchors(x, y, seeds, 40)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_spaces_on_different_devices():
    x, y, partner, seeds = problem()
    with pytest.warns(relreps.PerformanceWarning):
        found = discover_parallel_anchors(x.cuda(), y, seeds, A, max_samples=190)
    assert all(t.is_cuda for t in found)
    assert right(found, partner.cuda()).float().mean() > 0.8
    found = discover_parallel_anchors(x, y.cuda(), seeds, A)
    assert not any(t.is_cuda for t in found)
    assert right(found, partner).float().mean() > 0.95


def test_half_and_mixed_types():
    x, y, partner, seeds = problem()
    found = discover_parallel_anchors(x.half(), y.double(), seeds, A)
    assert right(found, partner).float().mean() > 0.95


def test_large_spaces_are_represented_by_a_draw_and_it_is_said():
    x, y, partner, seeds = problem(n=150)

    def found():
        return discover_parallel_anchors(x, y, seeds, 100, max_samples=140, generator=seeded())

    with pytest.warns(relreps.PerformanceWarning) as told:
        first, second = found(), found()
    message = str(told[0].message)
    assert "`x` has 150 rows and `y` has 150 rows, of which 140 drawn at random" in message
    assert "About 131 pairs are to be expected among them. Raise" in message
    assert told[0].filename == __file__
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert right(first, partner).float().mean() > 0.8


def test_the_draw_keeps_every_anchor_asked_for():
    x, y, _, seeds = problem(n=60)
    with pytest.warns(relreps.PerformanceWarning) as told:
        found = discover_parallel_anchors(x, y, seeds, 50, max_samples=10)
    assert all("of which 50 drawn" in str(warning.message) for warning in told)
    assert len(found.indices_x.unique()) == 50


def test_a_transport_that_does_not_converge_is_told_with_its_error(monkeypatch):
    monkeypatch.setattr(discovery, "_ITERATIONS", (50, 3))
    x, y, _, seeds = problem(noise=1.0)
    with pytest.warns(relreps.NumericalWarning) as told:
        discover_parallel_anchors(x, y, seeds, A, epsilon=1e-4)
    assert re.search(r"did not converge .*: \d+\.\d% of the mass", str(told[0].message))
    assert told[0].filename == __file__


def test_a_draw_that_leaves_too_few_pairs_is_told_with_their_number():
    x, y, partner, seeds = problem(n=600)
    with pytest.warns() as told:
        found = discover_parallel_anchors(x, y, seeds, 50, max_samples=60, generator=seeded())
    # 6 seeds, and of 594 others those among the 54 drawn on either side.
    assert "About 11 pairs are to be expected among them, fewer than the 50" in str(told[0].message)
    assert right(found, partner).sum() < 20


def test_all_rows_known():
    x, y, partner, _ = problem(n=5)
    found = discover_parallel_anchors(x, y, (torch.arange(5), partner), 5)
    assert torch.equal(found.indices_y, partner)


def test_inputs_are_left_as_they_are():
    x, y, _, seeds = problem(n=40)
    given = (x, y, *seeds)
    copies = [t.clone() for t in given]
    discover_parallel_anchors(x, y, seeds, 20)
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


# --------------------------------------------------------------------------------- what is refused


def nan_row(x):
    x = x.clone()
    x[3, 1] = torch.nan
    return x


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: p | {"x": nan_row(p["x"])}, ValueError, "`x` must be finite.*first is row 3"),
        (lambda p: p | {"y": nan_row(p["y"])}, ValueError, "`y` must be finite"),
        (lambda p: p | {"x": p["x"].long()}, TypeError, "`x` must be a floating-point tensor"),
        (lambda p: p | {"y": p["y"][0]}, ValueError, r"`y` must have shape \(rows, features\)"),
        (lambda p: p | {"x": p["x"][:1]}, ValueError, r"`x` must have at least 2 row\(s\)"),
        (lambda p: p | {"y": torch.ones(N, 3)}, ValueError, "`y` must vary"),
        (
            lambda p: p | {"seeds": (torch.tensor([0, 1, 0]), p["seeds"][1])},
            ValueError,
            r"`seeds\[0\]` must name each row once, got 2 different rows in 3 seeds",
        ),
        (
            lambda p: p | {"seeds": (p["seeds"][0], torch.tensor([0, N]))},
            ValueError,
            rf"`seeds\[1\]` must be row indices from 0 to {N - 1}",
        ),
        (
            lambda p: p | {"seeds": (torch.tensor([-1]), p["seeds"][1])},
            ValueError,
            "values from -1 to -1",
        ),
        (
            lambda p: p | {"seeds": (p["seeds"][0][1:], p["seeds"][1])},
            ValueError,
            rf"`seeds\[0\]` and `seeds\[1\]` must be paired row by row, got {S - 1} and {S}",
        ),
        (
            lambda p: p | {"seeds": (torch.tensor([1.0]), p["seeds"][1])},
            TypeError,
            "row indices.*float32",
        ),
        (
            lambda p: p | {"seeds": (p["seeds"][0], [1, 2])},
            TypeError,
            r"`seeds\[1\]` must be a tensor.*list",
        ),
        (
            lambda p: p | {"seeds": (torch.tensor([], dtype=torch.long), p["seeds"][1])},
            ValueError,
            r"`seeds\[0\]` must have shape .* at least one",
        ),
        (
            lambda p: p | {"seeds": p["seeds"][0]},
            TypeError,
            r"`seeds` must be a pair \(indices_x, indices_y\) of index tensors, or `Pairs`, got T",
        ),
        (
            lambda p: p | {"num_anchors": S - 1},
            ValueError,
            f"`num_anchors` must be at least the number of seeds.* {S - 1} anchors and {S} seeds",
        ),
        (
            lambda p: p | {"num_anchors": N + 1},
            ValueError,
            "`num_anchors` must be at most the rows of the smaller space",
        ),
        (lambda p: p | {"num_anchors": 7.0}, TypeError, "`num_anchors` must be an int"),
        (lambda p: p | {"epsilon": 0.0}, ValueError, "`epsilon` must be positive"),
        (lambda p: p | {"epsilon": "a"}, TypeError, "`epsilon` must be a number"),
        (lambda p: p | {"max_samples": 1}, ValueError, "`max_samples` must be at least 2"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    x, y, _, seeds = problem()
    given = {"x": x, "y": y, "seeds": seeds, "num_anchors": A}
    with warnings.catch_warnings(), pytest.raises(error, match=message):
        discover_parallel_anchors(**change(given))


def test_copies_of_a_row_are_no_rivals():
    """Every row twice, in an order of its own on either side: any copy is as right as the other."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator).repeat(2, 1)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    order = torch.randperm(120, generator=generator)
    y = (x @ turn)[order]
    seeds = order[:10], torch.arange(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none says that the pairs are not to be believed
        pairs = discover_parallel_anchors(x, y, seeds, 100)
    assert torch.equal(pairs.indices_x % 60, order[pairs.indices_y] % 60)
    assert (pairs.scores > 0).all()


def test_another_default_device_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator)
    seeds = torch.arange(10), torch.arange(10)

    def found():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PerformanceWarning)
            return discover_parallel_anchors(
                x, x.flip(1), seeds, 20, max_samples=40, generator=generator.manual_seed(1)
            )

    wanted = found()
    with torch.device("meta"):
        assert all(map(torch.equal, found(), wanted))
