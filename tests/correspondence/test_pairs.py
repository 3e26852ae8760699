"""Pairs: what they are, and what is taken as seeds."""

import pickle

import pytest
import torch

import relreps
from relreps import discover_parallel_anchors
from relreps.correspondence import Pairs, pairs

CPU = torch.device("cpu")


def some():
    return Pairs(torch.tensor([4, 0]), torch.tensor([1, 2]), torch.tensor([0.5, 0.1]))


def test_pairs_unpack_and_travel():
    indices_x, indices_y, scores = some()
    assert indices_x.tolist() == [4, 0]
    assert indices_y.tolist() == [1, 2]
    assert scores.tolist() == [0.5, pytest.approx(0.1)]
    back = pickle.loads(pickle.dumps(some()))
    assert type(back) is Pairs
    assert torch.equal(back.indices_y, indices_y)


@pytest.mark.parametrize(
    "seeds", [some(), some()[:2], list(some()[:2])], ids=["Pairs", "2", "list"]
)
def test_seeds_of_every_form_are_the_same_indices(seeds):
    i, j = pairs.checked_seeds(seeds, 5, 3, CPU)
    assert i.tolist() == [4, 0]
    assert j.tolist() == [1, 2]


def test_seeds_of_narrow_integers_become_indices():
    i, _ = pairs.checked_seeds((torch.tensor([1], dtype=torch.int32), torch.tensor([0])), 2, 2, CPU)
    assert i.dtype == torch.int64


def test_united_keeps_what_is_known_and_one_partner_a_row():
    known = torch.tensor([3]), torch.tensor([7])
    i, j = pairs.united(known, torch.tensor([5, 3, 1, 2]), torch.tensor([4, 0, 7, 6]))
    assert i.tolist() == [3, 2, 5]
    assert j.tolist() == [7, 6, 4]


TAKERS = {
    "discovery": lambda x, seeds: discover_parallel_anchors(x, x, seeds, 35),
    "refined": lambda x, seeds: relreps.RefinedProcrustesTranslator(4, 4).fit(x, x, seeds),
    "transport": lambda x, seeds: relreps.TransportTranslator(4, 4).fit(x, x, seeds),
    "functional": lambda x, seeds: relreps.FunctionalMapTranslator(4, 4, num_functions=9, k=9).fit(
        x, x, seeds
    ),
}
#: What no method takes as seeds of 40 rows, and what is said about it.
BAD = {
    "one tensor": (torch.arange(5), TypeError, r"`seeds` must be a pair .* or `Pairs`, got Tensor"),
    "three": ((torch.arange(5),) * 3, TypeError, "`seeds` must be a pair .* got tuple"),
    "agreement": (
        (some(), torch.ones(())),
        TypeError,
        r"`seeds\[0\]` must be a tensor .* got Pairs",
    ),
    "floats": ((torch.ones(1), torch.arange(1)), TypeError, r"`seeds\[0\]` must be .*float32"),
    "none": ((torch.arange(0), torch.arange(0)), ValueError, r"`seeds\[0\]` .* at least one"),
    "range": ((torch.arange(2), torch.tensor([0, 40])), ValueError, r"`seeds\[1\]` .* 0 to 39"),
    "repeated": (
        (torch.tensor([1, 1]), torch.arange(2)),
        ValueError,
        r"`seeds\[0\]` .* each row once",
    ),
    "repeated pairs": (
        Pairs(torch.arange(2), torch.tensor([3, 3]), torch.ones(2)),
        ValueError,
        r"`seeds\[1\]` must name each row once, got 1 different rows in 2 seeds",
    ),
    "unpaired": (
        (torch.arange(3), torch.arange(4)),
        ValueError,
        r"`seeds\[0\]` and `seeds\[1\]` must be paired row by row, got 3 and 4",
    ),
}


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize(("seeds", "error", "message"), BAD.values(), ids=BAD)
def test_every_method_refuses_the_same_seeds_in_the_same_words(take, seeds, error, message):
    with pytest.raises(error, match=message):
        take(torch.randn(40, 4), seeds)


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
def test_every_method_takes_pairs(take):
    x = torch.randn(40, 4)
    take(x, Pairs(torch.arange(30), torch.arange(30), torch.zeros(30)))
