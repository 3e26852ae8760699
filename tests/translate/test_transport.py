"""Transport as a translator: rows without partners are matched, and failures are told."""

import warnings

import pytest
import torch

from relreps import NumericalWarning, PerformanceWarning, ProcrustesTranslator, TransportTranslator
from tests._data import normal, orthogonal, seeded

close = torch.testing.assert_close


def shuffled(n=150, dx=8, dy=8, seeds=8, noise=0.05, drop=0):
    """Rows in two orders, the seeds first, and for each row of y that of x."""
    x = normal(n, dx) + 2
    y = 3 * ((x - 2) @ orthogonal(dx, dy) + noise * normal(n, dy)) - 1
    truth = torch.cat((torch.arange(seeds), seeds + torch.randperm(n - seeds)))[: n - drop]
    return x, y[truth], truth, (torch.arange(seeds), torch.arange(seeds))


def right(t, x, y, truth):
    return float((torch.cdist(t(x)[truth], y).argmin(1) == torch.arange(len(y))).double().mean())


def fitted(x, y, seeds=None, **options):
    t = TransportTranslator(x.shape[1], y.shape[1], scale="norm", **options).double()
    return t.fit(x, y, seeds, generator=seeded())


@pytest.mark.parametrize(("dx", "dy"), [(8, 8), (8, 11)], ids=str)
def test_a_shuffled_space_is_found_from_a_few_seeds(dx, dy):
    x, y, truth, seeds = shuffled(dx=dx, dy=dy, seeds=12)
    t = fitted(x, y, seeds)
    assert right(t, x, y, truth) > 0.98
    assert t.agreement > 0.9
    assert t.num_pairs > 140
    assert t.marginal_error < 1e-2
    assert t.objective < 0.05
    from_seeds = ProcrustesTranslator(dx, dy, scale="norm").double().fit(x[:12], y[:12])
    assert (t(x)[truth] - y).norm() < (from_seeds(x)[truth] - y).norm()


@pytest.mark.parametrize("swap", [False, True])
def test_numbers_of_rows_may_differ(swap):
    x, y, truth, seeds = shuffled(drop=50)
    if swap:
        x, y, truth = y, x, truth.argsort()[:100]
        t = fitted(x, y, seeds)
        assert t.num_pairs > 90
    else:
        t = fitted(x, y, seeds)
        assert right(t, x, y, truth) > 0.95


def test_a_noiseless_map_is_recovered_exactly():
    x, y, truth, seeds = shuffled(noise=0)
    t = fitted(x, y, seeds)
    close(t(x)[truth], y, atol=1e-9, rtol=0)
    close(t.inverse(t(x)), x)


def test_clusters_alone_are_enough_and_the_generator_decides():
    centers = normal(8, 6)
    x = centers[torch.arange(120) % 8] + 0.3 * normal(120, 6)
    truth = torch.randperm(120)
    y = (x @ orthogonal(6, 6))[truth] + 5
    t = fitted(x, y, num_clusters=8)
    assert right(t, x, y, truth) == 1
    assert t.agreement == 1
    close(fitted(x, y, num_clusters=8).state_dict(), t.state_dict())


@pytest.mark.parametrize("seeds", [4, 0])
def test_a_failure_is_told(seeds):
    x, y = normal(120, 24), normal(120, 24)
    known = (torch.arange(seeds),) * 2 if seeds else None
    with pytest.warns(NumericalWarning, match="probably wrong"):
        t = fitted(x, y, known, num_clusters=5)
    assert t.agreement < 0.5


def test_rotations_translations_and_scales_of_either_space_change_nothing():
    x, y, _, seeds = shuffled()
    t = fitted(x, y, seeds)
    q = orthogonal(8, 8)
    moved = fitted(1e-3 * x @ q + 7, y, seeds)
    close(moved(1e-3 * x @ q + 7), t(x), atol=1e-8, rtol=0)


def test_many_rows_are_represented_by_a_draw():
    x, y, truth, seeds = shuffled()
    with pytest.warns(PerformanceWarning, match="100 drawn at random"):
        t = fitted(x, y, seeds, max_samples=100)
    assert t.num_pairs <= 100
    i, j, _ = t.pairs  # of all rows, not of those drawn, of which two thirds have their partners
    assert float((truth[j] == i).double().mean()) > 0.6
    assert i.max() >= 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerformanceWarning)
        close(fitted(x, y, seeds, max_samples=100)(x), t(x))


BAD = {
    "seeds": (lambda x, y, s: (x, y, 5), TypeError, "`seeds` must be a pair"),
    "repeated": (lambda x, y, s: (x, y, (s[0], s[1] * 0)), ValueError, r"`seeds\[1\]` must name"),
    "nan": (lambda x, y, s: (x.log(), y, s), ValueError, "`x` must be finite"),
    "constant": (lambda x, y, s: (x, 0 * y + 1, s), ValueError, "`y` must vary"),
    "clusters": (lambda x, y, s: (x[:9], y, None), ValueError, "`num_clusters` must be at most"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_a_failed_fit_leaves_the_module_as_it_was(change, error, message):
    x, y, _, seeds = shuffled(40)
    t = fitted(x, y, seeds)
    before = {name: tensor.clone() for name, tensor in t.state_dict().items()}
    with pytest.raises(error, match=message):
        t.fit(*change(x - 3, y + 1, seeds))
    close(t.state_dict(), before, atol=0, rtol=0)


def test_bad_constructor_and_repr():
    with pytest.raises(ValueError, match="`epsilon` must be positive"):
        TransportTranslator(3, 3, epsilon=0.0)
    with pytest.raises(ValueError, match="`scale` must be one of"):
        TransportTranslator(3, 3, scale="size")
    assert (
        "3, 4, epsilon=0.02, num_clusters=20, max_samples=2000, scale='norm', pre='center'"
        in repr(TransportTranslator(3, 4))
    )


def test_rows_that_are_no_tensors_are_refused():
    with pytest.raises(TypeError, match=r"`x` must be a torch.Tensor, got list"):
        TransportTranslator(1, 1).fit([1], [2])
