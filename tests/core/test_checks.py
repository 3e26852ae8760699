"""Checks at the boundary: what passes, and what the errors say."""

import re

import numpy as np
import pytest
import torch

import relreps
from relreps import metrics
from relreps._core import checks, draws


@pytest.mark.parametrize(
    "size", [3, np.int64(3), np.uint8(3), np.array(3), np.array([5, 3])[1]], ids=repr
)
def test_a_size_is_an_integer_of_any_type_and_comes_out_as_one_of_python(size):
    found = checks.check_size("k", size)
    assert type(found) is int
    assert found == 3


@pytest.mark.parametrize(
    "size", [True, np.True_, 3.0, np.float64(3), "3", None, torch.tensor(3), torch.tensor(True)]
)
def test_what_is_no_integer_is_no_size(size):
    with pytest.raises(TypeError, match=r"^`k` must be an int, got "):
        checks.check_size("k", size)


@pytest.mark.parametrize("number", [1, 0.5, np.float32(0.5), np.float64(0.5), np.int32(1)])
def test_numbers_of_any_type(number):
    checks.check_number("alpha", number, 0, 1)


@pytest.mark.parametrize("number", [True, "1", None, 1j, torch.tensor(1.0)])
def test_what_is_no_number(number):
    with pytest.raises(TypeError, match=r"^`alpha` must be a number, got "):
        checks.check_number("alpha", number, 0, 1)


def test_sizes_of_numpy_build_what_sizes_of_python_build():
    def built(kind):
        return [
            relreps.RelativeProjection(kind(4), kind(3)),
            relreps.SparseRelativeProjection(kind(4), kind(8), kind(3), chunk_size=kind(5)),
            relreps.StandardScale(kind(4)),
            relreps.ProcrustesTranslator(kind(4), kind(3)),
            relreps.InverseRelativeTranslator(
                kind(4), kind(3), kind(5), pruning=0.1, subspaces=kind(2)
            ),
            relreps.translate.ReducedRankTranslator(kind(4), kind(3), kind(2)),
            relreps.GeneralizedProcrustes([kind(4), kind(3)], kind(3)),
            relreps.EMAAnchors(kind(4), kind(3), 0.5),
            relreps.ConvexAnchors(kind(4), kind(3)),
            relreps.AnchorAttention(kind(4), kind(3)),
            relreps.Moments(kind(4), kind(3)),
            relreps.SpectralGapLoss(k=kind(4), components=kind(2)),
            relreps.anchors.ClusterAnchors(kind(4), kind(3), max_iterations=kind(9)),
            relreps.metrics.MutualKNN(kind(4)),
        ]

    for wide, plain in zip(built(np.int64), built(int), strict=True):
        assert str(wide) == str(plain)
        for name, value in vars(wide).items():
            assert not isinstance(value, np.generic), (type(wide).__name__, name)


def test_numbers_of_neighbours_of_numpy():
    x, y = torch.randn(20, 3), torch.randn(20, 3)
    for measure in (metrics.mutual_knn, metrics.cknna, metrics.recall_at_k, metrics.jaccard_at_k):
        assert measure(x, y, np.int64(4)) == measure(x, y, 4)
    assert torch.equal(relreps.death_times(x), relreps.death_times(x))


def test_finite_at_the_ends_of_the_type():
    top = torch.finfo(torch.float64).max
    checks.check_finite("x", torch.tensor([[top], [-top]], dtype=torch.float64))
    for bad in (torch.inf, -torch.inf, torch.nan):
        with pytest.raises(ValueError, match="in 1 of 2 rows"):
            checks.check_finite("x", torch.tensor([[0.0], [bad]]))


def test_labels_that_are_no_tensor_say_what_makes_one():
    x = torch.randn(6, 3)
    for labels, cure in (
        (np.arange(6), "torch.from_numpy(labels)"),
        ([0, 1] * 3, "torch.tensor(labels)"),
    ):
        with pytest.raises(TypeError, match=re.escape(cure)):
            relreps.prototypes(x, labels)


def test_paired_rows_of_two_devices():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"^`x` and `y` must be on one device, got cpu and meta"):
        checks.check_paired(x, x.to("meta"))


def test_draws_refuse_a_seed():
    for draw in (draws.shuffled, draws.uniform):
        with pytest.raises(TypeError, match=r"^`generator` must be a torch.Generator or None"):
            draw(3, 0)
    with pytest.raises(TypeError, match=r"^`generator` must be a torch.Generator or None"):
        draws.normal((3,), 0)
