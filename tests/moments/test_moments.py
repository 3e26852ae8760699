"""Streaming moments: any chunking and any merging gives those of NumPy."""

import numpy as np
import pytest
import torch

from relreps import Moments
from relreps.moments import FeatureMoments, elementwise, outer, row_moments
from tests._data import sums


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


def same(a, b, tolerance=1e-10):
    close = torch.testing.assert_close
    close(a.state_dict(), b.state_dict(), atol=tolerance, rtol=tolerance)


def test_subtract_undoes_merge():
    x, y = torch.randn(50, 4).double() + 10, torch.randn(50, 2).double()
    first, rest = stream(x[:20], y[:20], [20]), stream(x[20:], y[20:], [30])
    same(stream(x, y, [50]).subtract(first), rest)
    same(
        FeatureMoments(4).update(x).subtract(FeatureMoments(4).update(x[7:])),
        FeatureMoments(4).update(x[:7]),
    )


def test_subtract_leaves_one_out():
    x, weights = torch.randn(10, 3).double(), torch.rand(10).double()
    for i in range(10):
        whole, one = Moments(3).update(x, weights=weights), Moments(3)
        others = torch.arange(10) != i
        same(
            whole.subtract(one.update(x[i : i + 1], weights=weights[i : i + 1])),
            Moments(3).update(x[others], weights=weights[others]),
        )


def test_subtract_everything_leaves_nothing():
    x, weights = torch.randn(10, 3), torch.rand(10)
    moments = Moments(3)
    for row, w in zip(x.split(1), weights.split(1), strict=True):
        moments.update(row, weights=w)
    same(moments.subtract(Moments(3).update(x, weights=weights.double())), Moments(3), 0)


def test_subtract_refuses_more_than_there_is():
    moments = Moments(3).update(torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"`other` must have seen a part .* weight of 6 .* from 5"):
        moments.subtract(Moments(3).update(torch.randn(6, 3)))


def test_decay_weighs_old_rows_less():
    parts = torch.randn(4, 10, 3).double() + torch.arange(4)[:, None, None]
    moments = Moments(3)
    for part in parts:
        moments.decay(0.5).update(part)
    weights = (0.5 ** torch.arange(3, -1, -1).double()).repeat_interleave(10)
    same(moments, Moments(3).update(parts.reshape(40, 3), weights=weights))
    same(moments.decay(0.0), Moments(3), 0)


@pytest.mark.parametrize("factor", [-0.1, 1.1, float("nan")])
def test_bad_decay(factor):
    with pytest.raises(ValueError, match=r"`factor` must be in \[0, 1\]"):
        Moments(3).decay(factor)


def test_exact_products_of_float32_are_those_of_float64():
    x, y = torch.randn(5000, 4) + 30, torch.randn(5000, 3)
    several = {"pairs": ((0, 0), (0, 1)), "product": (elementwise, outer)}
    exact = row_moments(x, y, **several, exact=True)
    torch.testing.assert_close(
        sums(exact), sums(row_moments(x.double(), y.double(), **several)), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("product", [elementwise, outer])
def test_weights_repeat_rows(product):
    x = torch.randn(30, 3).double()
    times = torch.randint(0, 4, (30,))
    weighted = row_moments(x, product=product, weights=times.double())
    repeated = row_moments(x.repeat_interleave(times, 0), product=product)
    torch.testing.assert_close(sums(weighted)[:3], sums(repeated)[:3])
    assert weighted.squares == times.square().sum()


def test_rows_and_weights_of_different_types():
    x, y, weights = torch.randn(30, 3), torch.randn(30, 2).double(), torch.rand(30).double()
    wanted, got = Moments(3, 2).update(x.double(), y, weights), Moments(3, 2).update(x, y, weights)
    torch.testing.assert_close(sums(got.state()), sums(wanted.state()), atol=1e-10, rtol=1e-10)
    wanted, got = (Moments(3).update(side, weights=weights) for side in (x.double(), x))
    torch.testing.assert_close(sums(got.state()), sums(wanted.state()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_chunks_that_do_not_count(exact):
    """Without rows, or with rows that are all masked: they change nothing."""
    x, y = torch.randn(9, 3), torch.randn(9, 2)
    moments = Moments(3, 2, exact=exact).update(x, y, torch.zeros(9))
    same(moments, Moments(3, 2), 0)
    moments.update(x, y, torch.ones(9)).update(x[:0], y[:0], torch.ones(0))
    same(moments.update(x + 1e6, y, torch.zeros(9)), Moments(3, 2, exact=exact).update(x, y), 0)


def test_exact_streams_take_exact_ones_only():
    exact = Moments(3, exact=True)
    for call in (exact.merge, exact.subtract):
        with pytest.raises(
            ValueError, match=r"`other` must be a .*exact=True.*equal sizes and one"
        ):
            call(Moments(3).update(torch.randn(5, 3)))


def test_rows_of_all_processes_are_not_added_up_again(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        whole = Moments(3).update(torch.randn(5, 3)).all_reduce()
        later = Moments(3).update(torch.randn(5, 3)).merge(whole)
        loaded = Moments(3)
        loaded.load_state_dict(whole.state_dict())
        for stream in (whole, whole.update(torch.randn(5, 3)), later, loaded):
            with pytest.raises(RuntimeError, match=r"rows of all processes already.*`merge` it"):
                stream.all_reduce()
        assert whole.reset().update(torch.randn(5, 3)).all_reduce().count == 5
    finally:
        torch.distributed.destroy_process_group()


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


@pytest.mark.parametrize("mean", [1e6, 1e4])
@pytest.mark.parametrize("product", [elementwise, outer])
def test_rows_far_from_the_origin_in_float32(mean, product):
    """A mean that float32 rounds to 0.06: what it misses is taken out of the products again."""
    x = (torch.randn(5000, 3, dtype=torch.float64) + mean).float()
    found = row_moments(x, product=product).scatters[0]
    rest = x.double() - x.double().mean(0)
    torch.testing.assert_close(found, product(rest, rest), rtol=2e-5, atol=2e-3)


def test_adding_and_taking_away_is_that_of_the_rows():
    x, y = torch.randn(40, 3).double() + 5, torch.randn(40, 2).double()
    options = {"pairs": ((0, 0), (0, 1)), "product": (elementwise, outer)}
    parts = (slice(0, 15), slice(15, 40), slice(0, 40))
    a, b, both = (row_moments(x[rows], y[rows], **options) for rows in parts)
    torch.testing.assert_close(sums(a + b), sums(both))
    torch.testing.assert_close(sums(both - b), sums(a))
    torch.testing.assert_close(sums(a * 0.5 + a * 0.5)[:3], sums(a)[:3])
    assert a.effective_rows == pytest.approx(15)
    mixed = row_moments(x, product=elementwise) + row_moments(x.float(), product=elementwise)
    assert mixed.eps == torch.finfo(torch.float32).eps


def test_mapped_moments_are_those_of_mapped_rows():
    x, y = torch.randn(40, 3).double() + 5, torch.randn(40, 2).double()
    shift, factor, matrix = (torch.rand(*s).double() for s in ((3,), (3,), (2, 4)))
    options = {"pairs": ((0, 0), (0, 1), (1, 1)), "product": outer}
    moments = row_moments(x, y, **options)
    wanted = row_moments((x - shift) * factor, y @ matrix, **options)
    torch.testing.assert_close(sums(moments.mapped((shift, factor), (None, matrix))), sums(wanted))
    about = moments.about_zero()
    torch.testing.assert_close(about.xy, x.mT @ y)
    assert not about.means[0].any()
    torch.testing.assert_close(sums(moments.of(1)), sums(row_moments(y, product=outer)))
