"""Permutation tests against all permutations, and against what they promise."""

from functools import partial
from itertools import permutations

import pytest
import torch

from relreps import NumericalWarning
from relreps.metrics import linear_cka, mutual_knn, permutation_test, procrustes_distance

close = torch.testing.assert_close
debiased = partial(linear_cka, debiased=True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_is_the_share_of_all_permutations():
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    test = permutation_test(procrustes_distance, x, y, num_permutations=3000, generator=seeded())
    every = [float(procrustes_distance(x, y[list(order)])) for order in permutations(range(5))]
    share = sum(v <= float(test.value) + 1e-12 for v in every) / len(every)
    assert float(test.p_value) == pytest.approx(share, abs=0.04)
    close(test.value, procrustes_distance(x, y))
    as_good = (test.null <= test.value + 1e-12).sum()
    close(test.p_value, (1 + as_good.double()) / 3001)


@pytest.mark.parametrize("measure", [debiased, procrustes_distance, mutual_knn])
def test_it_finds_what_is_there_and_knows_which_way_is_better(measure):
    x = torch.randn(40, 4)
    test = permutation_test(measure, x, x + 0.1 * torch.randn(40, 4), num_permutations=19)
    assert float(test.p_value) == 1 / 20
    assert test.null.shape == (19,)


def test_p_is_small_as_often_as_it_says():
    values = [
        permutation_test(
            debiased, torch.randn(12, 3), torch.randn(12, 3), num_permutations=9
        ).p_value
        for _ in range(200)
    ]
    small = (torch.stack(values) <= 0.2 + 1e-9).double().mean()
    assert 0.1 < small < 0.3


def test_a_seed_gives_the_same_and_leaves_the_global_one_alone():
    x, y = torch.randn(20, 3), torch.randn(20, 3)
    state = torch.get_rng_state()
    one, two = (
        permutation_test(debiased, x, y, num_permutations=9, generator=seeded(3)) for _ in range(2)
    )
    close(one.null, two.null, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_pairings_that_change_nothing_are_as_good():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(10, 1)
    y = torch.randn(20, 2)
    test = permutation_test(lambda a, b: b.sum() / 3, x, y, num_permutations=99)
    assert float(test.p_value) == 1


def test_higher_may_be_worse():
    x = torch.randn(30, 3)
    worse = permutation_test(debiased, x, x, num_permutations=9, higher_is_better=False)
    assert float(worse.p_value) == 1


def test_a_measure_without_a_value():
    x = torch.randn(10, 3)
    with pytest.warns(NumericalWarning, match="so that p is NaN"):
        test = permutation_test(lambda a, b: a.sum() * torch.nan, x, x, num_permutations=3)
    assert test.p_value.isnan()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("linear_cka", 9, 9), TypeError, "`measure` must be a function"),
        ((lambda a, b: a, 9, 9), TypeError, "must give one number.*Tensor"),
        ((debiased, 9, 8), ValueError, "paired row by row, got 9 and 8"),
    ],
)
def test_what_is_refused(arguments, error, message):
    measure, n, m = arguments
    with pytest.raises(error, match=message):
        permutation_test(measure, torch.randn(n, 3), torch.randn(m, 3))


def test_options_that_are_refused():
    x = torch.randn(9, 3)
    with pytest.raises(ValueError, match="`num_permutations` must be at least 1, got 0"):
        permutation_test(debiased, x, x, num_permutations=0)
    with pytest.raises(TypeError, match=r"`generator` must be a torch\.Generator"):
        permutation_test(debiased, x, x, generator=3)
