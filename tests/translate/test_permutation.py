"""Permutations of features: planted ones are found again, streams included."""

import itertools

import pytest
import torch

from relreps import NumericalWarning
from relreps.translate import PermutationTranslator

close = torch.testing.assert_close


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("pre", ["center", "standard"])
def test_a_planted_permutation_is_recovered(signed, pre):
    x, order = normal(50, 8) + 3, torch.randperm(8)
    signs = torch.where(torch.rand(8) < 0.5, -1.0, 1.0).double() if signed else torch.ones(8)
    y = (x * signs)[:, order] + 0.1 * normal(50, 8) - 7
    t = PermutationTranslator(8, 8, signed=signed, pre=pre).double().fit(x, y)
    units = y.std(0, correction=0) / x.std(0, correction=0)[:, None] if pre == "standard" else 1
    close(t.matrix, (torch.eye(8) * signs).double()[:, order] * units)
    close(t.inverse(t(x)), x)


def test_it_is_the_best_of_all_permutations():
    x, y = normal(30, 5), normal(30, 5)
    t = PermutationTranslator(5, 5, pre=None).double().fit(x, y)
    cross = x.mT @ y
    best = max(cross[range(5), list(order)].sum() for order in itertools.permutations(range(5)))
    close((t.matrix * cross).sum(), best)


@pytest.mark.parametrize(("dx", "dy"), [(4, 7), (7, 4)])
def test_features_left_over_are_dropped_or_the_mean(dx, dy):
    wide, order = normal(50, 7), torch.randperm(7)[:4]
    x, y = (wide[:, order], wide) if dx < dy else (wide, wide[:, order])
    t = PermutationTranslator(dx, dy).double().fit(x, y)
    if dx < dy:
        close(t(x)[:, order], y[:, order])
        rest = [i for i in range(7) if i not in order.tolist()]
        close(t(x)[:, rest], y.mean(0)[rest].expand(50, 3))
    else:
        close(t(x), y)


def test_a_stream_gives_the_same():
    x = normal(60, 6)
    y = x[:, torch.randperm(6)] + 0.5 * normal(60, 6)
    t = PermutationTranslator(6, 6).double().fit(x, y)
    stream = PermutationTranslator(6, 6).double()
    for some in (slice(0, 7), slice(7, 40), slice(40, 60)):
        stream.partial_fit(x[some], y[some])
    close(stream.solve()(x), t(x))


def test_features_that_do_not_vary_are_told():
    x = normal(30, 4)
    x[:, 1] = 0.1
    with pytest.warns(NumericalWarning, match="1 features hardly vary"):
        PermutationTranslator(4, 4).fit(x, x)
    with pytest.raises(ValueError, match="must vary together"):
        PermutationTranslator(4, 4).fit(0 * x, x)


def test_repr_is_the_constructor_call():
    assert repr(PermutationTranslator(3, 4, signed=True)) == (
        "PermutationTranslator(3, 4, signed=True, pre='center', post=None)"
    )
