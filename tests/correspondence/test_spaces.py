"""Two spaces as the methods see them: whitened without a choice, drawn with the seeds."""

import pytest
import torch

from relreps import PerformanceWarning
from relreps.correspondence import spaces
from tests._data import normal, orthogonal

CPU = torch.device("cpu")
close = torch.testing.assert_close


def test_soft_whitening_is_its_formula():
    x = normal(50, 4) * torch.tensor([3.0, 1.0, 0.5, 0.1]) + 2
    rest = x - x.mean(0)
    values, vectors = torch.linalg.eigh(rest.mT @ rest / 50)
    weights = values / values.sum()
    ridge = 2 * (weights * values).sum()
    white = rest @ vectors @ (values + ridge).rsqrt().diag() @ vectors.mT
    close(spaces.softly_whitened("x", x), torch.nn.functional.normalize(white))


@pytest.mark.parametrize("make", [spaces.softly_whitened, spaces.centered_directions])
def test_nothing_depends_on_place_unit_or_empty_dimensions(make):
    x, turn = normal(50, 4), orthogonal(4, 7)
    close(make("x", 1e-200 * (x @ turn + 7)), make("x", x) @ turn)


@pytest.mark.parametrize("make", [spaces.softly_whitened, spaces.centered_directions])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_rows_that_are_all_equal_are_refused(make, dtype):
    with pytest.raises(ValueError, match="`y` must vary, got rows that are all equal"):
        make("y", torch.full((20, 3), 0.1, dtype=dtype))


def test_a_draw_keeps_the_seeds_first_and_the_others_in_order():
    seeds = torch.tensor([7, 3]), torch.tensor([0, 9])
    with pytest.warns(PerformanceWarning, match="`x` has 40 rows, of which 12 drawn at random"):
        i, j = spaces.drawn(normal(40, 2), normal(12, 2), seeds, 12, 5, None)
    assert i[:2].tolist() == [7, 3]
    assert (i[2:].diff() > 0).all()
    assert len(i.unique()) == 12
    assert j.tolist() == [0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]


def test_without_seeds_there_are_none():
    none = spaces.no_seeds(CPU)
    i, j = spaces.drawn(normal(5, 2), normal(4, 2), none, 10, 3, None)
    assert i.tolist() == list(range(5))
    assert j.tolist() == list(range(4))
