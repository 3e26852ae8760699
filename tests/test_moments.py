"""Streaming moments: any chunking and any merging gives those of NumPy."""

import numpy as np
import pytest
import torch

from relreps import FeatureMoments, Moments
from relreps.moments import elementwise, outer, row_moments


def stream(x, y, sizes, weights=None):
    moments = Moments(x.shape[1], y.shape[1])
    parts = zip(x.split(sizes), y.split(sizes), strict=True)
    w = [None] * len(sizes) if weights is None else weights.split(sizes)
    for (a, b), c in zip(parts, w, strict=True):
        moments.update(a, b, c)
    return moments


@pytest.mark.parametrize("sizes", [[3000], [1, 2999], [0, 1500, 1500], [700] * 4 + [200]], ids=str)
def test_any_chunking(sizes):
    x, y = torch.randn(3000, 5).double() + 7, torch.randn(3000, 3).double()
    moments = stream(x, y, sizes)
    wanted = np.cov(np.hstack((x, y)).T, bias=True)
    assert moments.count == 3000
    np.testing.assert_allclose(moments.mean_x, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.cov_xx, wanted[:5, :5], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.cov_xy, wanted[:5, 5:], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.cov_yy, wanted[5:, 5:], rtol=1e-10, atol=1e-12)


def test_merge_is_update():
    x, y = torch.randn(50, 4).double(), torch.randn(50, 2).double()
    merged = stream(x[:20], y[:20], [20]).merge(stream(x[20:], y[20:], [30]))
    whole = stream(x, y, [50])
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value)


@pytest.mark.parametrize("product", [elementwise, outer])
def test_weights_repeat_rows(product):
    x = torch.randn(30, 3).double()
    times = torch.randint(0, 4, (30,))
    weighted = row_moments(x, product=product, weights=times.double())
    repeated = row_moments(x.repeat_interleave(times, 0), product=product)
    torch.testing.assert_close(weighted, repeated)


def test_a_row_of_no_weight_costs_no_precision():
    x = torch.randn(20, 3)
    far = torch.cat((x, torch.full((1, 3), 1e8)))
    weights = torch.cat((torch.ones(20), torch.zeros(1)))
    torch.testing.assert_close(row_moments(far, weights=weights).means, row_moments(x).means)


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_float32_far_from_the_origin(offset):
    x = torch.randn(5000, 3) + offset
    wanted = x.double().var(0, correction=0)
    got = FeatureMoments(3).update(x).variance
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(dtype):
    x = torch.randn(4000, 3).to(dtype)
    torch.testing.assert_close(
        FeatureMoments(3).update(x).variance, x.double().var(0, correction=0), rtol=1e-5, atol=0
    )


def test_rows_whose_squares_overflow():
    x = torch.randn(10, 2) * 1e30
    torch.testing.assert_close(
        FeatureMoments(2).update(x).variance, x.double().var(0, correction=0)
    )


def test_autocast_does_not_spoil_sums():
    x = torch.randn(50, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = Moments(4).update(x).cov_xx
    assert torch.equal(inside, Moments(4).update(x).cov_xx)


def test_gradients():
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: row_moments(x, product=outer).scatters, (x,))


def test_stays_float64_and_resets():
    moments = Moments(3).update(torch.randn(5, 3)).half()
    assert moments.cov_xx.dtype == torch.float64
    assert moments.to("meta").cov_xx.is_meta
    assert Moments(3).update(torch.randn(5, 3)).reset().count == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.update(torch.ones(2, 3)), ValueError, "takes paired rows"),
        (lambda m: m.update(torch.ones(2, 3), torch.ones(3, 2)), ValueError, "2 and 3 rows"),
        (lambda m: m.update(torch.ones(2, 4), torch.ones(2, 2)), ValueError, r"\(rows, 3\)"),
        (lambda m: m.update(torch.ones(2, 3), torch.full((2, 2), torch.nan)), ValueError, "`y` mu"),
        (lambda m: m.merge(Moments(3)), ValueError, "streams of equal sizes"),
        (
            lambda m: m.update(*[torch.ones(2, d) for d in (3, 2)], torch.ones(3)),
            ValueError,
            "weigh",
        ),
        (
            lambda m: m.update(*[torch.ones(2, d) for d in (3, 2)], -torch.ones(2)),
            ValueError,
            "non-n",
        ),
        (lambda m: Moments(3).update(torch.ones(2, 3), torch.ones(2, 3)), ValueError, "one set"),
    ],
)
def test_bad_input(call, error, message):
    moments = Moments(3, 2).update(torch.randn(5, 3), torch.randn(5, 2))
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    with pytest.raises(error, match=message):
        call(moments)
    assert all(torch.equal(moments.state_dict()[name], value) for name, value in before.items())
