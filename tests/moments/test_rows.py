"""Moments of rows of any size, against those of the same rows brought near to 1."""

from functools import partial

import pytest
import torch

from relreps.moments import FeatureMoments, Moments, elementwise, finite_moments, outer, row_moments
from relreps.moments.rows import moments_in_units, moments_of_any_size

SIZES = [
    *((torch.float32, size) for size in (1e-35, 1e-25, 1e-22, 1e-19, 1e19, 1e25, 1e37)),
    *((torch.float64, size) for size in (1e-300, 1e-160, 1e160, 1e300)),
]
SQUARABLE = [(dtype, size) for dtype, size in SIZES if dtype == torch.float32]


def rows(dtype, size):
    """Rows of a size, and the same rows near to 1: in between lies a power of two."""
    unit = torch.tensor(size, dtype=torch.float64).log2().floor().exp2()
    near = torch.randn(50, 3).to(dtype).double() + 1
    return (near * unit).to(dtype), near.to(dtype), unit


@pytest.mark.parametrize(("dtype", "size"), SQUARABLE, ids=str)
@pytest.mark.parametrize("make", [FeatureMoments, Moments, partial(Moments, exact=True)])
def test_streams_of_any_size(make, dtype, size):
    x, near, unit = rows(dtype, size)
    stream = make(3)
    for part in x.split([20, 30]):
        stream.update(part)
    wanted = near.double().T.cov(correction=0)
    found = stream.variance if isinstance(stream, FeatureMoments) else stream.cov_xx
    wanted = wanted.diagonal() if found.dim() == 1 else wanted
    torch.testing.assert_close(found / unit / unit, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stream.mean_x / unit, near.double().mean(0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("dtype", "size"), SIZES, ids=str)
@pytest.mark.parametrize("product", [elementwise, outer])
def test_moments_in_units(product, dtype, size):
    x, near, unit = rows(dtype, size)
    take = partial(row_moments, product=product, exact=True)
    wanted = take(near)
    parts = [moments_of_any_size(take, part) for part in (x[:0], x[:20], x[20:])]
    for found in (moments_in_units(take, x), parts[0] + parts[1] + parts[2]):
        assert found.eps == wanted.eps
        torch.testing.assert_close(found.means[0] / unit, wanted.means[0])
        torch.testing.assert_close(found.deviations() / unit, wanted.deviations())
        own = found.within((unit.expand(3),)).scatters[0]
        torch.testing.assert_close(own, wanted.scatters[0])
    if dtype == torch.float32:
        torch.testing.assert_close(found.xx / unit / unit, wanted.xx)


def test_units_of_several_sizes_add_up():
    """Each feature in its own unit, and whichever part comes first."""
    near = torch.randn(60, 4, dtype=torch.float64)
    features = torch.tensor([2.0**-900, 2.0**-500, 1.0, 2.0**600], dtype=torch.float64)
    take = partial(row_moments, product=outer)
    wanted = take(near)
    for order in ((0, 1, 2), (2, 0, 1)):
        parts = [near[:20], near[20:40], near[40:]]
        found = [moments_of_any_size(take, parts[i] * features) for i in order]
        whole = found[0] + found[1] + found[2]
        torch.testing.assert_close(whole.deviations() / features, wanted.deviations())
        torch.testing.assert_close(whole.within((features,)).scatters[0], wanted.scatters[0])
    first, rest = moments_of_any_size(take, near * 2.0**-900), moments_of_any_size(take, near)
    torch.testing.assert_close((first + rest).deviations(), (rest + first).deviations())
    torch.testing.assert_close(
        (rest + first).deviations(), torch.cat((near, 0 * near)).std(0, correction=0)
    )


def test_rows_that_are_taken_again_keep_their_rounding():
    """A column of equal float32 numbers with rounding on it is constant at any size."""
    x = torch.randn(50, 2) * 1e25
    x[:, 1] = 1e25 * (1 + torch.finfo(torch.float32).eps * torch.randint(0, 2, (50,)))
    for found in (finite_moments(row_moments, x), moments_of_any_size(row_moments, x)):
        assert found.eps == torch.finfo(torch.float32).eps
        assert found.deviations()[1] == 0


def test_zeros_are_no_squares_that_were_lost():
    """A unit that never fires is no reason to take the products again."""
    calls = []

    def take(x):
        calls.append(x.dtype)
        return row_moments(x)

    x = torch.randn(50, 3)
    x[:, 1] = 0
    finite_moments(take, x)
    assert calls == [torch.float32]
    x[0, 1] = 1e-30
    finite_moments(take, x)
    assert calls == [torch.float32, torch.float32, torch.float64]


@pytest.mark.parametrize("size", [1e-50, 1e-40, 1e40])
def test_weights_of_any_size(size):
    x, weights = torch.randn(30, 3), torch.rand(30, dtype=torch.float64)
    wanted, found = (Moments(3).update(x, weights=w) for w in (weights, weights * size))
    torch.testing.assert_close(found.cov_xx, wanted.cov_xx)
    torch.testing.assert_close(found.count, wanted.count * size)
    assert found.state().effective_rows == pytest.approx(wanted.state().effective_rows)
