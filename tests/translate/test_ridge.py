"""Least squares and its relatives: planted maps, outside oracles, streams, and bad pairs."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from torch.autograd import gradcheck

from relreps import (
    AffineTranslator,
    CCATranslator,
    LinearTranslator,
    LOrthoTranslator,
    Moments,
    NumericalWarning,
    ProcrustesTranslator,
    linear_map,
    procrustes,
)
from relreps.moments import FeatureMoments
from relreps.parity import SGDAffineTranslator
from relreps.translate import ProcrustesRidgeTranslator, ReducedRankTranslator, WhitenedTranslator

close = torch.testing.assert_close
WIDTHS = [(6, 6), (4, 7), (7, 4)]
#: All strengths of a penalty that are tried, if the least lies on the edge of the first grid.
RIDGES = [10 ** (step / 4) for step in range(-48, 25)]
each_width = pytest.mark.parametrize("widths", WIDTHS, ids=str)

#: Every translator that follows from moments, with what it needs beyond the widths.
STREAMING = {
    "procrustes": (ProcrustesTranslator, {"scale": "umeyama"}),
    "procrustes-standard": (ProcrustesTranslator, {"scale": "norm", "pre": "standard"}),
    "procrustes-unit": (ProcrustesTranslator, {"scale": "norm", "pre": "unit"}),
    "procrustes-none": (ProcrustesTranslator, {"pre": None}),
    "linear": (LinearTranslator, {}),
    "linear-unit": (LinearTranslator, {"ridge": 0.1, "pre": "unit"}),
    "affine": (AffineTranslator, {}),
    "affine-ridge": (AffineTranslator, {"ridge": 0.1, "pre": "standard"}),
    "affine-gcv": (AffineTranslator, {"ridge": "gcv"}),
    "procrustes-ridge": (ProcrustesRidgeTranslator, {}),
    "reduced-rank": (ReducedRankTranslator, {"max_rank": 2}),
    "l-ortho": (LOrthoTranslator, {"pre": "standard"}),
    "cca": (CCATranslator, {"max_rank": 3}),
    "whitened": (WhitenedTranslator, {}),
}
each_streaming = pytest.mark.parametrize("case", STREAMING)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def pairs(dx=6, dy=5, n=60, noise=1.0):
    """Source rows with correlated features, and targets that depend on them linearly."""
    x = normal(n, dx) @ normal(dx, dx) + 3
    return x, x @ normal(dx, dy) + 2 + noise * normal(n, dy)


def build(case, dx=6, dy=5):
    cls, options = STREAMING[case]
    return cls(dx, dy, **options).double()


centred_streaming = pytest.mark.parametrize(
    "case", [case for case in STREAMING if build(case).pre in ("center", "standard")]
)


def fitted(cls, x, y, *arguments, weights=None, **options):
    return cls(x.shape[1], y.shape[1], *arguments, **options).double().fit(x, y, weights)


def state(module):
    return {k: v for k, v in module.state_dict().items() if k != "rank"}


# linear_map


def test_linear_map_is_that_of_numpy():
    for n, dx in ((20, 5), (4, 7)):
        x, y = normal(n, dx), normal(n, 3)
        oracle = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
        close(linear_map(x, y), torch.from_numpy(oracle))


def test_linear_map_does_not_square_the_condition_number():
    x, m = normal(50, 4) * 10.0 ** torch.tensor([0, -3, -6, -9]), normal(4, 3)
    close(linear_map(x, x @ m), m, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_linear_map_of_duplicate_features_is_the_smallest(dtype):
    x, m = normal(20, 3).to(dtype), normal(3, 2).to(dtype)
    with pytest.warns(NumericalWarning, match=r"3 of 6 directions of `x` are more than rounding.*"):
        twice = linear_map(torch.cat((x, x), 1), x @ m)
    close(twice, torch.cat((m, m)) / 2)


def test_more_rows_do_not_fit_worse():
    """What is rounding does not grow with the number of rows: a line through many points."""
    n = 10_000
    x = torch.stack((torch.ones(n), torch.arange(n)), 1)
    m = torch.full((2, 1), 2020.0)
    for rows in (n, 2 * n):
        some = x.repeat(rows // n, 1)
        close(linear_map(some, some @ m), m, atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize("n", [100, 200_000])
@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_the_condition_of_many_rows_is_borne(n, condition):
    spread = torch.logspace(0, -float(torch.tensor(condition).log10()), 16)
    x = torch.randn(n, 16) * spread
    y = x @ torch.randn(16, 3) + 0.1 * torch.randn(n, 3)
    wanted = linear_map(x.double(), y.double())
    close(linear_map(x, y).double(), wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-4)


KINDS_OF_LEAST_SQUARES = {
    "linear": LinearTranslator,
    "affine": AffineTranslator,
    "affine-standard": lambda d, e: AffineTranslator(d, e, pre="standard"),
    "ridge": lambda d, e: AffineTranslator(d, e, ridge=1e-6),
    "gcv": lambda d, e: AffineTranslator(d, e, ridge="gcv"),
    "loo": lambda d, e: AffineTranslator(d, e, ridge="loo"),
    "procrustes-ridge": ProcrustesRidgeTranslator,
    "reduced-rank": lambda d, e: ReducedRankTranslator(d, e, 3),
    "whitened": WhitenedTranslator,
    "cca": CCATranslator,
    "l-ortho": LOrthoTranslator,
    "procrustes": ProcrustesTranslator,
}
each_least_squares = pytest.mark.parametrize(
    "make", KINDS_OF_LEAST_SQUARES.values(), ids=KINDS_OF_LEAST_SQUARES
)


@each_least_squares
@pytest.mark.parametrize("n", [200, 20_000])
def test_every_kind_gives_the_float64_value_of_badly_conditioned_rows(make, n):
    spread = torch.logspace(0, -3, 8)
    x = torch.randn(n, 8) @ torch.linalg.qr(torch.randn(8, 8)).Q * spread + 2
    y = x @ torch.randn(8, 5) + 0.1 * torch.randn(n, 5)
    wanted = make(8, 5).double().fit(x.double(), y.double())
    found = make(8, 5).fit(x, y)
    assert found.rank == wanted.rank
    close(found(x).double(), wanted(x.double()), atol=2e-3, rtol=2e-3)


@each_least_squares
@pytest.mark.parametrize("where", ["row", "feature", "both"])
def test_one_extreme_row_or_feature(make, where):
    """One row of 1e4 times the size, one feature of 1000 times: the float64 value in float32."""
    x = torch.randn(300, 6)
    y = x @ torch.randn(6, 4) + 0.1 * torch.randn(300, 4)
    if where != "feature":
        x[0], y[0] = 1e4 * x[0], 1e4 * y[0]
    if where != "row":
        x[:, 2] *= 1000
    single, double = make(6, 4), make(6, 4).double()
    single.fit(x, y)
    double.fit(x.double(), y.double())
    assert single.rank == double.rank
    wanted = double(x.double())[1:]
    close(single(x)[1:].double(), wanted, atol=1e-3 * float(wanted.abs().max()), rtol=1e-3)
    if hasattr(single, "penalty"):
        assert float(single.penalty) == pytest.approx(float(double.penalty))
    if hasattr(single, "partial_fit") and getattr(single, "ridge", 0) != "loo":
        stream = make(6, 4)
        for some in (slice(0, 100), slice(100, None)):
            stream.partial_fit(x[some], y[some])
        close(stream.solve().matrix, single.matrix, atol=1e-4, rtol=1e-4)


@each_least_squares
@pytest.mark.parametrize(("size_x", "size_y"), [(1e-30, 1.0), (1e30, 1e30), (1e-25, 1e-25)])
def test_fits_do_not_depend_on_sizes(make, size_x, size_y):
    x, y = torch.randn(100, 6), torch.randn(100, 4)
    wanted = make(6, 4).fit(x, y)(x)
    close(make(6, 4).fit(size_x * x, size_y * y)(size_x * x) / size_y, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("n", [20, 3])
def test_linear_map_does_not_depend_on_sizes(size, ridge, n):
    x, y = torch.randn(n, 5), torch.randn(n, 3)
    wanted = linear_map(x, y, ridge)
    close(
        linear_map(size * x, size * y, ridge), wanted, atol=2e-3 if size < 1e-38 else 1e-5, rtol=0
    )


def test_another_limit_of_what_is_rounding():
    x = normal(30, 3) * torch.tensor([1.0, 1e-2, 1e-4]).double()
    y = x @ normal(3, 2)
    with pytest.warns(NumericalWarning, match=r"2 of 3 .* below 0.001 of the largest"):
        cut = linear_map(x, y, rcond=1e-3)
    oracle = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=1e-3)[0]
    close(cut, torch.from_numpy(oracle))
    with pytest.raises(ValueError, match=r"`rcond` must be in \[0, 1\], got 2"):
        linear_map(x, y, rcond=2.0)
    close(
        linear_map(x.float(), y.float(), rcond=0.0).double() / 1e3,
        linear_map(x, y) / 1e3,
        atol=1e-3,
        rtol=0,
    )


@pytest.mark.parametrize("ridge", [0.1, 2])
def test_ridge_of_linear_map_is_that_of_scikit_learn(ridge):
    x, y = normal(20, 5), normal(20, 3)
    alpha = float(ridge * x.square().sum() / 5)
    oracle = Ridge(alpha, fit_intercept=False).fit(x.numpy(), y.numpy()).coef_.T
    close(linear_map(x, y, ridge), torch.from_numpy(oracle))
    close(linear_map(1000 * x, y, ridge), torch.from_numpy(oracle) / 1000)
    close(linear_map(x.repeat(2, 1), y.repeat(2, 1), ridge), torch.from_numpy(oracle))


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("tied", [False, True])
def test_linear_map_gradient(ridge, tied):
    x = torch.linalg.qr(normal(8, 4)).Q if tied else normal(8, 4)
    y = normal(8, 3)
    assert gradcheck(lambda x, y: linear_map(x, y, ridge), (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_linear_map_keeps_the_type(dtype):
    x, y = normal(40, 5), normal(40, 3)
    m = linear_map(x.to(dtype), y.to(dtype))
    assert m.dtype == dtype
    close(m.double(), linear_map(x, y), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x[1:], y), ValueError, "paired row by row, got 39 and 40"),
        (lambda x, y: (x, y, -1.0), ValueError, r"`ridge` must be in \[0, inf\], got -1"),
        (lambda x, y: (x, y, float("nan")), ValueError, r"`ridge` must be in"),
        (lambda x, y: (x, y, "gcv"), TypeError, "`ridge` must be a number, got str"),
        (lambda x, y: (x, y, float("inf")), ValueError, "`ridge` must be finite"),
        (lambda x, y: (x, y.log()), ValueError, "`y` must be finite"),
    ],
)
def test_bad_linear_map(change, error, message):
    with pytest.raises(error, match=message):
        linear_map(*change(normal(40, 3), normal(40, 2)))


# What is recovered


@each_width
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (AffineTranslator, {}),
        (AffineTranslator, {"pre": "standard"}),
        (CCATranslator, {}),
        (CCATranslator, {"pre": "standard"}),
        (WhitenedTranslator, {"ridge": 0.0}),
    ],
)
def test_a_planted_affine_map_is_recovered(widths, cls, options):
    x = normal(60, widths[0]) + 3
    y = x @ normal(*widths) + 5
    t = fitted(cls, x, y, **options)
    close(t(x), y, atol=1e-9, rtol=1e-9)
    assert int(t.rank) == min(widths)
    if widths[0] <= widths[1]:
        close(t.inverse(y), x, atol=1e-8, rtol=1e-8)
    else:
        close(t(t.inverse(y)), y, atol=1e-8, rtol=1e-8)


@each_width
def test_a_planted_linear_map_is_recovered_and_the_origin_stays(widths):
    x, m = normal(60, widths[0]) + 3, normal(*widths)
    t = fitted(LinearTranslator, x, x @ m)
    close(t.matrix, m, atol=1e-9, rtol=1e-9)
    assert (t(torch.zeros(2, widths[0]).double()) == 0).all()


def test_units_of_features_cost_no_digits():
    x, m = normal(60, 5), normal(5, 5)
    units = 10.0 ** torch.tensor([0, -3, 5, -8, 2])
    t = fitted(AffineTranslator, x * units, x @ m)
    close(t(x * units), x @ m, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_planted_low_rank_map_is_recovered(rank):
    x = normal(60, 6)
    y = x @ normal(6, rank) @ normal(rank, 5) + 1
    t = fitted(ReducedRankTranslator, x, y, rank)
    close(t(x), y, atol=1e-9, rtol=1e-9)
    assert int(t.rank) == rank
    with pytest.raises(ValueError, match=rf"no inverse: it carries {rank} of 5 directions \(its r"):
        t.inverse(y)


def test_reduced_rank_is_the_best_of_its_rank():
    x, y = pairs(noise=3.0)
    best = (fitted(ReducedRankTranslator, x, y, 2)(x) - y).square().sum()
    xc = x - x.mean(0)
    for _ in range(50):
        left = normal(6, 2)
        rival = left @ linear_map(xc @ left, y - y.mean(0))
        assert (xc @ rival - (y - y.mean(0))).square().sum() >= best
    full = fitted(AffineTranslator, x, y)
    close(fitted(ReducedRankTranslator, x, y, 5)(x), full(x))
    # As a truncated SVD of the fitted rows.
    u, s, vh = torch.linalg.svd(full(x) - y.mean(0), full_matrices=False)
    close(fitted(ReducedRankTranslator, x, y, 2)(x), (u[:, :2] * s[:2]) @ vh[:2] + y.mean(0))


# Oracles


@each_width
def test_affine_is_scikit_learns_linear_regression(widths):
    x, y = pairs(*widths)
    oracle = LinearRegression().fit(x.numpy(), y.numpy())
    close(fitted(AffineTranslator, x, y)(x), torch.from_numpy(oracle.predict(x.numpy())))
    close(fitted(AffineTranslator, x, y, pre="standard")(x), fitted(AffineTranslator, x, y)(x))


@pytest.mark.parametrize("ridge", [1e-3, 0.3, 10])
@pytest.mark.parametrize("n", [60, 5])
def test_ridge_is_that_of_scikit_learn(ridge, n):
    x, y = pairs(n=n)
    rest = x - x.mean(0)
    oracle = Ridge(float(ridge * rest.square().sum() / 6)).fit(x.numpy(), y.numpy())
    t = fitted(AffineTranslator, x, y, ridge=ridge)
    close(t(x), torch.from_numpy(oracle.predict(x.numpy())))
    oracle = Ridge(float(ridge * x.square().sum() / 6), fit_intercept=False)
    close(
        fitted(LinearTranslator, x, y, ridge=ridge)(x),
        torch.from_numpy(oracle.fit(x.numpy(), y.numpy()).predict(x.numpy())),
    )


@pytest.mark.parametrize("n", [60, 12, 5])
@pytest.mark.parametrize("noise", [0.1, 5.0, 50.0])
def test_leave_one_out_is_scikit_learns(n, noise):
    x, y = pairs(n=n, noise=noise)
    level = float((x - x.mean(0)).square().sum() / 6)
    oracle = RidgeCV([r * level for r in RIDGES]).fit(x.numpy(), y.numpy())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        t = fitted(AffineTranslator, x, y, ridge="loo")
    assert float(t.penalty) == pytest.approx(oracle.alpha_ / level)
    close(t(x), torch.from_numpy(oracle.predict(x.numpy())))
    strongest = oracle.alpha_ / level > 0.9 * RIDGES[-1]
    assert [w.category for w in said] == [NumericalWarning] * strongest


def brute_force(x, y, ridge, pre):
    """Sum of squared errors of pairs predicted from the others, at the penalty of all of them."""
    mean = x.mean(0) if pre else 0
    penalty = ridge * (x - mean).square().sum() / x.shape[1]
    total = 0.0
    for i in range(len(x)):
        rest = torch.arange(len(x)) != i
        mx, my = (side[rest].mean(0) if pre else 0 for side in (x, y))
        a, b = x[rest] - mx, y[rest] - my
        m = torch.linalg.solve(a.mT @ a + penalty * torch.eye(x.shape[1]).double(), a.mT @ b)
        total += ((x[i] - mx) @ m + my - y[i]).square().sum()
    return total


@pytest.mark.parametrize("cls", [LinearTranslator, AffineTranslator])
@pytest.mark.parametrize("n", [20, 5])
def test_leave_one_out_is_exact(cls, n):
    x, y = pairs(n=n, noise=5.0)
    scores = [brute_force(x, y, ridge, cls is AffineTranslator) for ridge in RIDGES]
    t = fitted(cls, x, y, ridge="loo")
    assert float(t.penalty) == pytest.approx(RIDGES[int(torch.stack(scores).argmin())])


@pytest.mark.parametrize(("n", "pre"), [(20, "center"), (20, "standard"), (5, "center")])
def test_gcv_is_its_formula(n, pre):
    x, y = pairs(n=n, noise=5.0)
    a, b = x - x.mean(0), y - y.mean(0)
    if pre == "standard":
        a = a / a.std(0, correction=0)
    eye, level = torch.eye(n).double(), a.square().sum() / 6
    scores = []
    for ridge in RIDGES:
        penalised = a.mT @ a + ridge * level * torch.eye(6).double()
        hat = a @ torch.linalg.solve(penalised, a.mT) + 1 / n
        scores.append(((eye - hat) @ b).square().sum() / (n - hat.trace()) ** 2)
    t = fitted(AffineTranslator, x, y, ridge="gcv", pre=pre)
    assert float(t.penalty) == pytest.approx(RIDGES[int(torch.stack(scores).argmin())])


def few_of_a_wide_space(n=60, d=100, copies=(), noise=0.0, rest=400):
    """Fewer pairs than features, the first of them repeated; and other pairs to measure on."""
    decay = torch.arange(1, d + 1).double() ** -0.7
    x = normal(n + rest, d) * decay
    y = x @ torch.linalg.qr(normal(d, d)).Q + 0.1 * normal(n + rest, d)
    test = x[n:], y[n:]
    x, y = x[:n], y[:n]
    again = torch.tensor(copies, dtype=torch.long)
    near_x, near_y = (s[again] + noise * s.std() * normal(len(copies), d) for s in (x, y))
    return torch.cat((x, near_x)), torch.cat((y, near_y)), test


def error(t, test):
    return float((t(test[0]) - test[1]).square().sum() / test[1].square().sum())


REPEATS = {
    "one": ([0], 0.0),
    "one-nearly": ([0], 0.01),
    "one-thrice": ([0, 0, 0], 0.0),
    "a-tenth": (range(6), 0.0),
    "a-tenth-nearly": (range(6), 0.01),
    "half": (range(30), 0.0),
    "all": (range(60), 0.0),
}
each_repeat = pytest.mark.parametrize(("copies", "noise"), REPEATS.values(), ids=REPEATS)


@pytest.mark.parametrize("ridge", ["gcv", "loo"])
@pytest.mark.parametrize("pre", ["center", "standard"])
@each_repeat
def test_repeated_pairs_do_not_choose_the_ridge(ridge, pre, copies, noise):
    """A copy is fitted by its twin at any penalty: it says nothing of new rows."""
    x, y, test = few_of_a_wide_space(copies=list(copies), noise=noise)
    t = fitted(AffineTranslator, x, y, ridge=ridge, pre=pre)
    best = min(
        error(fitted(AffineTranslator, x, y, ridge=r, pre=pre), test) for r in RIDGES[20:60:2]
    )
    # Near copies of many pairs are told from the others less surely.
    assert error(t, test) < (1.25 if noise else 1.1) * best
    if ridge == "gcv":  # the same in every route
        stream = AffineTranslator(100, 100, ridge="gcv", pre=pre).double()
        for some in (slice(0, 20), slice(20, None)):
            stream.partial_fit(x[some], y[some])
        close(stream.solve()(x), t(x))


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("power", [0.0, 0.7])
def test_fewer_pairs_than_features_without_noise_need_hardly_a_ridge(n, power):
    """What no copy has caused is left as it is chosen."""
    x = normal(n + 200, 100) * torch.arange(1, 101).double() ** -power
    y = x @ torch.linalg.qr(normal(100, 100)).Q
    t, least = (fitted(AffineTranslator, x[:n], y[:n], ridge=ridge) for ridge in ("gcv", 1e-9))
    test = x[n:], y[n:]
    assert error(t, test) < 1.01 * error(least, test)


@pytest.mark.parametrize("ridge", ["gcv", "loo"])
def test_repeats_in_float32_and_with_weights(ridge):
    x, y, test = few_of_a_wide_space(copies=[0, 1])
    wanted = fitted(AffineTranslator, x, y, ridge=ridge)
    single = AffineTranslator(100, 100, ridge=ridge).fit(x.float(), y.float())
    assert float(single.penalty) == pytest.approx(float(wanted.penalty))
    weights = torch.ones(62).double()
    weights[:2], weights[60:] = 1.5, 0.5
    weighted = fitted(AffineTranslator, x, y, weights=weights, ridge=ridge)
    assert error(weighted, test) < 1.05 * error(wanted, test)


def test_leaving_out_equal_rows_together_is_exact():
    """Brute force: all copies of a row are left out at once."""
    x, y = pairs(n=12, noise=5.0)
    x = torch.cat((x, x[:4], x[:2]))
    y = torch.cat((y, y[:6] + normal(6, 5)))
    of = torch.tensor([*range(12), *range(4), *range(2)])
    level = (x - x.mean(0)).square().sum() / 6
    scores = []
    for ridge in RIDGES:
        total = 0.0
        for i in range(12):
            rest = of != i
            a, b = x[rest] - x[rest].mean(0), y[rest] - y[rest].mean(0)
            m = torch.linalg.solve(a.mT @ a + ridge * level * torch.eye(6).double(), a.mT @ b)
            moved = (x[~rest] - x[rest].mean(0)) @ m + y[rest].mean(0)
            total += (moved - y[~rest]).square().sum()
        scores.append(total)
    t = fitted(AffineTranslator, x, y, ridge="loo")
    assert float(t.penalty) == pytest.approx(RIDGES[int(torch.stack(scores).argmin())])


@pytest.mark.parametrize(("n", "rank"), [(200, 5), (33, 30), (60, 30)])
def test_an_exact_map_has_hardly_a_ridge(n, rank):
    """Pairs that are all fitted need not be copies: here an exact map fits them."""
    x = normal(n, rank) @ normal(rank, 30)
    y = x @ normal(30, 4)
    t = fitted(AffineTranslator, x, y, ridge="gcv")
    close(t(x), y, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("ridge", ["gcv", "loo"])
def test_unrelated_pairs_are_said_to_be(ridge):
    torch.manual_seed(1)
    x, y = normal(40, 3), normal(40, 3)
    y = (
        y
        - torch.cat((torch.ones(40, 1).double(), x), 1)
        @ torch.linalg.lstsq(torch.cat((torch.ones(40, 1).double(), x), 1), y).solution
    )
    y = y + 1e-3 * x
    with pytest.warns(NumericalWarning, match="the strongest ridge.*serves best"):
        t = fitted(AffineTranslator, x, y, ridge=ridge)
    close(t(x), y.mean(0).expand_as(y), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ridge", ["gcv", "loo"])
@pytest.mark.parametrize(("n", "share"), [(35, 0.5), (41, 0.1), (44, 0.3), (60, 0.7)])
def test_a_chosen_ridge_does_not_collapse_where_least_squares_does(ridge, n, share):
    """About as many pairs as features, decaying spectra, noise: on new rows."""
    decay = torch.arange(1, 41).double() ** -1
    x = normal(n + 500, 40) * decay
    y = x @ torch.linalg.qr(normal(40, 40)).Q + 0.03 * normal(n + 500, 40)
    t = fitted(AffineTranslator, x[:n], y[:n], ridge=ridge)
    error = (t(x[n:]) - y[n:]).square().sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        plain = (fitted(AffineTranslator, x[:n], y[:n])(x[n:]) - y[n:]).square().sum()
    assert error < share * plain
    assert error < 0.25 * (y[n:] - y[n:].mean(0)).square().sum()


def test_the_limits_of_the_ridge():
    x, y = pairs()
    plain, tiny, huge = (
        fitted(AffineTranslator, x, y, ridge=ridge) for ridge in (0.0, 1e-12, 1e12)
    )
    close(tiny(x), plain(x))
    close(huge(x), y.mean(0).expand_as(y), atol=1e-9, rtol=1e-9)
    prior = fitted(ProcrustesTranslator, x, y, scale="umeyama")
    close(fitted(ProcrustesRidgeTranslator, x, y, ridge=1e12)(x), prior(x))
    close(fitted(ProcrustesRidgeTranslator, x, y, ridge=0.0)(x), plain(x))


def test_towards_procrustes_is_at_least_as_good_as_both_ends():
    """A rotation with a little of something else, from about as many pairs as features."""
    n, d = 30, 20
    x = normal(n + 1000, d)
    y = x @ (torch.linalg.qr(normal(d, d)).Q + 0.1 * normal(d, d)) + 0.3 * normal(n + 1000, d)

    def error(cls, **options):
        return (fitted(cls, x[:n], y[:n], **options)(x[n:]) - y[n:]).square().mean()

    between = error(ProcrustesRidgeTranslator)
    assert between < error(AffineTranslator)
    assert between < error(AffineTranslator, ridge="loo")
    assert between < 1.05 * error(ProcrustesTranslator)


def test_l_ortho_is_the_polar_factor_of_least_squares():
    x, y = pairs(5, 5)
    a, b = x - x.mean(0), y - y.mean(0)
    close(
        fitted(LOrthoTranslator, x, y).rotation,
        procrustes(torch.eye(5).double(), linear_map(a, b)),
    )
    r = torch.linalg.qr(normal(5, 5)).Q
    close(fitted(LOrthoTranslator, x, x @ r + 1)(x), x @ r + 1)


# Canonical correlations


def test_cca_correlations_are_those_of_scikit_learn():
    x, y = pairs()
    oracle = CCA(5, max_iter=10000, tol=1e-12).fit(x.numpy(), y.numpy())
    a, b = oracle.transform(x.numpy(), y.numpy())
    wanted = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(5)]
    close(fitted(CCATranslator, x, y).correlations, torch.tensor(wanted))


def test_cca_correlations_do_not_depend_on_the_bases():
    x, y = pairs()
    t, moved = (
        fitted(CCATranslator, x, y),
        fitted(CCATranslator, x @ normal(6, 6), y @ normal(5, 5)),
    )
    close(t.correlations, moved.correlations)


def test_cca_at_full_rank_is_least_squares():
    x, y = pairs()
    close(fitted(CCATranslator, x, y)(x), fitted(AffineTranslator, x, y)(x))
    close(
        fitted(CCATranslator, x, y, ridge=0.1)(x),
        fitted(AffineTranslator, x, y, ridge=0.1)(x),
    )


def test_cca_of_rank_r_regresses_on_the_first_canonical_variates():
    x, y = pairs()
    oracle = CCA(2, max_iter=100_000, tol=1e-20).fit(x.numpy(), y.numpy())
    variates = torch.from_numpy(oracle.transform(x.numpy()))
    wanted = LinearRegression().fit(variates.numpy(), y.numpy()).predict(variates.numpy())
    t = fitted(CCATranslator, x, y, max_rank=2)
    close(t(x), torch.from_numpy(wanted), atol=1e-5, rtol=1e-5)
    assert int(t.rank) == 2


def test_whitened_without_weights_is_an_orthogonal_map_of_whitened_rows():
    x, y = pairs(5, 5)

    def white(side):
        rest = side - side.mean(0)
        return torch.linalg.svd(rest, full_matrices=False)

    (ux, *_), (uy, s, vh) = white(x), white(y)
    wanted = ux @ procrustes(ux, uy) @ (s[:, None] * vh) + y.mean(0)
    close(fitted(WhitenedTranslator, x, y, reweight=0.0, ridge=0.0)(x), wanted)


def test_whitened_weighs_directions_by_the_root_of_their_correlation():
    x, y = pairs(5, 5)
    (ux, _, _), (uy, s, vh) = (
        torch.linalg.svd(side - side.mean(0), full_matrices=False) for side in (x, y)
    )
    left, rho, right = torch.linalg.svd(ux.mT @ uy)
    wanted = ux @ (left * rho.sqrt()) @ right @ (s[:, None] * vh) + y.mean(0)
    close(fitted(WhitenedTranslator, x, y, ridge=0.0)(x), wanted)


def test_whitened_does_not_see_the_features_of_a_space():
    """Invertible maps of either space move the result along, which Procrustes does not do."""
    x, y = pairs()
    a, b = normal(6, 6), normal(5, 5)
    t = fitted(WhitenedTranslator, x, y, ridge=0.0)
    close(fitted(WhitenedTranslator, x @ a, y @ b, ridge=0.0)(x @ a), t(x) @ b)


@pytest.mark.parametrize("cls", [CCATranslator, WhitenedTranslator])
def test_too_few_pairs_for_correlations(cls):
    x, y = pairs(n=7)
    with pytest.raises(ValueError, match=rf"{cls.__name__} needs at least 8 pairs for 6 and 5 fe"):
        fitted(cls, x, y, ridge=0.0)
    assert fitted(cls, x, y, ridge=0.1)(x).isfinite().all()


# Few pairs, ugly pairs


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (LinearTranslator, {}),
        (AffineTranslator, {}),
        (AffineTranslator, {"ridge": "gcv"}),
        (AffineTranslator, {"ridge": "loo"}),
        (ProcrustesRidgeTranslator, {}),
        (ReducedRankTranslator, {"max_rank": 3}),
        (LOrthoTranslator, {}),
        (CCATranslator, {"ridge": 0.01}),
        (WhitenedTranslator, {}),
        (SGDAffineTranslator, {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_five_pairs_in_forty_dimensions_are_finite_and_bounded(cls, options, dtype):
    x, y = torch.randn(5, 40, dtype=dtype), torch.randn(5, 40, dtype=dtype) + 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        t = cls(40, 40, **options).to(dtype).fit(x, y)
    new = torch.randn(200, 40, dtype=dtype)
    assert t(new).abs().max() < 10 * y.abs().max()


def test_rank_is_reported_and_warned_about():
    x, y = normal(5, 40), normal(5, 3)
    with pytest.warns(NumericalWarning, match="5 pairs determine 4 of 40 directions of `x`") as w:
        t = fitted(AffineTranslator, x, y)
    assert w[0].filename == __file__
    assert int(t.rank) == 3
    close(t(x), y)  # as many directions as pairs: met exactly, by the smallest matrix
    wanted = np.linalg.lstsq((x - x.mean(0)).numpy(), (y - y.mean(0)).numpy(), rcond=None)[0]
    close(t.matrix, torch.from_numpy(wanted))


def test_an_inverse_that_does_not_exist_names_the_rank():
    x, y = normal(5, 10), normal(5, 10)
    t = fitted(AffineTranslator, x, y, ridge=0.1)
    with pytest.raises(
        ValueError, match=r"AffineTranslator has no inverse: it carries 4 of 10 dir"
    ):
        t.inverse(y)
    fresh = AffineTranslator(10, 10, ridge=0.1).double()
    fresh.load_state_dict(t.state_dict())
    with pytest.raises(ValueError, match="no inverse"):
        fresh.inverse(y)
    fresh.load_state_dict(fitted(AffineTranslator, normal(50, 10), normal(50, 10)).state_dict())
    assert fresh.inverse(y).isfinite().all()


@each_width
def test_a_loaded_map_has_the_inverse_of_the_fitted_one(widths):
    x, y = normal(50, widths[0]), normal(50, widths[1])
    kept = fitted(LinearTranslator, x, y)
    fresh = LinearTranslator(*widths).double()
    fresh.load_state_dict(kept.state_dict())
    close(fresh.inverse(y), kept.inverse(y))


@centred_streaming
def test_float32_far_from_the_origin_fits_as_well_as_centred(case):
    x, y = pairs(noise=0.3)
    # Rows that float32 holds exactly at both places, so that the fits see the same.
    x, y = ((side - side.mean(0)).mul(64).round().div(64).float() for side in (x, y))
    far, near = (build(case).float() for _ in range(2))
    far.fit(x + 1000, y - 1000)
    near.fit(x, y)
    close(far(x + 1000) + 1000, near(x), atol=1e-3, rtol=0)
    close(far.matrix, near.matrix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sides", [(384, 768), (768, 384)], ids=str)
def test_there_and_back_between_real_widths(sides):
    x, r = normal(1000, 384), torch.linalg.qr(normal(768, 384)).Q.mT
    y = x @ r + 3
    x, y = (x, y) if sides == (384, 768) else (y, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)  # 768 features of which 384 vary
        t = fitted(AffineTranslator, x, y)
    close(t(x), y, atol=1e-9, rtol=1e-9)
    close(t(t.inverse(y)), y, atol=1e-8, rtol=1e-8)
    close(fitted(AffineTranslator, y, x, ridge=1e-6)(y).norm(), x.norm(), atol=0, rtol=1e-4)


def test_constant_features_are_ignored():
    x, y = pairs()
    x[:, 2], y[:, 1] = 0.1, 7.0
    with pytest.warns(NumericalWarning, match="5 of 6 directions"):
        t = fitted(AffineTranslator, x, y)
    close(t(x + 100 * torch.eye(6)[2].double()), t(x))
    close(t(x)[:, 1], torch.full((60,), 7.0).double())


# Weights


@each_streaming
def test_integer_weights_are_repeated_pairs(case):
    x, y = pairs()
    times = torch.randint(0, 4, (len(x),))
    t = build(case).fit(x, y, times.double())
    repeated = build(case).fit(x.repeat_interleave(times, 0), y.repeat_interleave(times, 0))
    if getattr(t, "ridge", None) != "gcv":  # copies would make it believe in more pairs
        close(state(t), state(repeated), atol=1e-10, rtol=1e-9)


@each_streaming
@pytest.mark.parametrize("size", [1e-3, 1e4])
def test_only_the_ratios_of_weights_matter(case, size):
    x, y = pairs(n=20, noise=8.0)
    weights = torch.rand(20).double()
    scaled = build(case).fit(x, y, size * weights)
    close(state(scaled), state(build(case).fit(x, y, weights)), atol=1e-9, rtol=1e-9)
    close(
        state(build(case).fit(x, y, torch.full((20,), size).double())), state(build(case).fit(x, y))
    )


@each_streaming
def test_chunks_that_do_not_count_change_nothing(case):
    x, y = pairs()
    t = build(case).partial_fit(x - 5, y, torch.zeros(60).double())
    with pytest.raises(RuntimeError, match="has seen no pairs"):
        t.solve()
    t.partial_fit(x, y).partial_fit(x[:0], y[:0], x[:0, 0]).partial_fit(x + 5, y, 0 * x[:, 0])
    close(state(t.solve()), state(build(case).fit(x, y)))
    with pytest.raises(ValueError, match="at least one positive"):
        t.fit(x, y, 0 * x[:, 0])


def test_leave_one_out_with_weights_is_the_minimum_of_the_weighted_error():
    x, y = pairs(n=15, noise=8.0)
    weights = torch.rand(15).double()
    mean = (weights[:, None] * x).sum(0) / weights.sum()
    level = (weights[:, None] * (x - mean) ** 2).sum() / 6
    scores = []
    for ridge in RIDGES:
        total = 0.0
        for i in range(15):
            w = torch.where(torch.arange(15) == i, 0, weights)
            mx, my = ((w[:, None] * side).sum(0) / w.sum() for side in (x, y))
            a, b = (x - mx) * w[:, None].sqrt(), (y - my) * w[:, None].sqrt()
            eye = torch.eye(6).double()
            m = torch.linalg.solve(a.mT @ a + ridge * level * eye, a.mT @ b)
            total += weights[i] * ((x[i] - mx) @ m + my - y[i]).square().sum()
        scores.append(total)
    t = fitted(AffineTranslator, x, y, ridge="loo", weights=weights)
    assert float(t.penalty) == pytest.approx(RIDGES[int(torch.stack(scores).argmin())])


# Streams


@each_streaming
@pytest.mark.parametrize("sizes", [[60], [1, 59], [0, 20, 0, 40], [7] * 8 + [4]], ids=str)
def test_any_chunking_is_one_fit(case, sizes):
    x, y = pairs()
    x, y = x + 100, y - 50
    whole, parts = build(case).fit(x, y), build(case)
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        parts.partial_fit(a, b)
    parts.solve()
    close(state(parts), state(whole), atol=1e-10, rtol=1e-10)
    assert parts.rank == whole.rank


@each_streaming
def test_a_fit_goes_on(case):
    x, y = pairs()
    t = build(case).fit(x[:40], y[:40])
    before = t(x)
    t.partial_fit(x[40:], y[40:])
    close(t(x), before, atol=0, rtol=0)  # the map changes when it is solved for
    close(state(t.solve()), state(build(case).fit(x, y)), atol=1e-10, rtol=1e-10)
    t.fit(x[:30], y[:30])
    close(t(x), build(case).fit(x[:30], y[:30])(x), atol=0, rtol=0)


def test_sums_are_not_in_a_checkpoint():
    x, y = pairs()
    t = build("affine").fit(x, y)
    assert not [name for name in t.state_dict() if "seen" in name or "scatter" in name]
    fresh = build("affine")
    fresh.load_state_dict(t.state_dict())
    with pytest.raises(RuntimeError, match=r"a map without the sums behind it.*Call `fit`"):
        fresh.partial_fit(x, y)
    close(fresh.fit(x, y)(x), t(x))


@pytest.mark.parametrize("case", [c for c in STREAMING if build(c).pre != "unit"])
def test_a_stream_is_resumed_from_moments(case):
    """They are a module with a state: kept, loaded, added to, taken away from."""
    x, y = pairs()
    kept = Moments(6, 5, exact=True).update(x[:30], y[:30])
    loaded = Moments(6, 5, exact=True)
    loaded.load_state_dict(kept.state_dict())
    t = build(case).solve(loaded.update(x[30:], y[30:]))
    close(state(t), state(build(case).fit(x, y)), atol=1e-10, rtol=1e-10)
    t.solve(loaded.subtract(kept))
    close(state(t), state(build(case).fit(x[30:], y[30:])), atol=1e-9, rtol=1e-9)
    loaded.reset()
    close(t.solve()(x), build(case).fit(x[30:], y[30:])(x), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [c for c in STREAMING if build(c).pre != "unit"])
def test_moments_remember_rounding_and_weights(case, dtype):
    """What rounding leaves of a direction is ignored as in `fit`; a scale of weights is no size."""
    x, y = (side.to(dtype) for side in pairs())
    x[:, 5] = x[:, :5].sum(1)
    weights = 0.01 * torch.rand(60).to(dtype) + 0.001
    moments = Moments(6, 5, exact=True).update(x[:20], y[:20], weights[:20])
    moments.merge(Moments(6, 5, exact=True).update(x[20:], y[20:], weights[20:]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        solved, t = build(case).solve(moments), build(case).fit(x, y, weights)
    assert solved.rank == t.rank
    assert t.rank == 5 or "max_rank" in STREAMING[case][1]
    close(state(solved), state(t), atol=1e-8, rtol=1e-8)


def test_bad_moments():
    x, y = pairs()
    t = build("affine")
    others = Moments(6, 5), Moments(6, exact=True), Moments(5, 6, exact=True), FeatureMoments(6)
    for moments in others:
        with pytest.raises(ValueError, match=r"`moments` must be Moments\(6, 5, exact=True\), got"):
            t.solve(moments)
    with pytest.raises(RuntimeError, match="has seen no pairs"):
        t.solve(Moments(6, 5, exact=True))
    with pytest.raises(ValueError, match="`pre='unit'` needs"):
        build("linear-unit").solve(Moments(6, 5, exact=True).update(x, y))


@each_streaming
def test_solving_too_early(case):
    name = STREAMING[case][0].__name__
    x, y = pairs()
    t = build(case)
    with pytest.raises(RuntimeError, match=f"{name} has seen no pairs to solve for"):
        t.solve()
    with pytest.raises(RuntimeError, match=f"{name} has seen no pairs to solve for"):
        t.partial_fit(x[:0], y[:0]).solve()
    t.partial_fit(x, y)
    with pytest.raises(RuntimeError, match=r"no state yet.*`partial_fit\(x, y\)` and then `solve"):
        t(x)


@centred_streaming
def test_one_pair_is_too_few(case):
    x, y = pairs()
    t = build(case).partial_fit(x[:1], y[:1])
    name = STREAMING[case][0].__name__
    with pytest.raises(ValueError, match=f"{name} cannot be fitted.*rank 0.*at least two pairs"):
        t.solve()
    assert not t.fitted
    close(t.partial_fit(x[1:], y[1:]).solve()(x), build(case).fit(x, y)(x))


@each_streaming
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, 1:], y), r"`x` must have shape \(rows, 6\), got \(60, 5\)"),
        (lambda x, y: (x, y[:, 1:]), r"`y` must have shape \(rows, 5\), got \(60, 4\)"),
        (lambda x, y: (x[1:], y), "paired row by row, got 59 and 60"),
        (lambda x, y: (x / 0, y), "`x` must be finite"),
        (lambda x, y: (x, y.log()), "`y` must be finite"),
        (lambda x, y: (x, y, -x[:, 0].abs()), "`weights` must be non-negative"),
    ],
)
def test_a_bad_chunk_changes_nothing(case, change, message):
    x, y = pairs()
    t = build(case).partial_fit(x, y)
    for method in (t.partial_fit, t.fit):
        with pytest.raises(ValueError, match=message):
            method(*change(x - 9, y + 9))
    close(t.solve()(x), build(case).fit(x, y)(x))


@centred_streaming
@pytest.mark.parametrize("constant", ["x", "y"])
def test_constant_data_is_refused(case, constant):
    x, y = pairs()
    x, y = (x[:1].expand_as(x), y) if constant == "x" else (x, y[:1].expand_as(y))
    t = build(case)
    for kind in (torch.float64, torch.float32):
        with pytest.raises(ValueError, match="rank 0"):
            t.fit(x.to(kind), y.to(kind))
    assert not t.fitted


def test_leave_one_out_refuses_a_stream():
    x, y = pairs()
    t = AffineTranslator(6, 5, ridge="loo").double()
    with pytest.raises(ValueError, match=r"`ridge='loo'` leaves out one pair at a time.*'gcv'"):
        t.partial_fit(x, y)
    t.fit(x, y)
    with pytest.raises(ValueError, match="`ridge='loo'` leaves out"):
        t.solve()


@each_streaming
def test_blocks_of_unit_rows_and_autocast_change_nothing(case, monkeypatch):
    x, y = (side.float() for side in pairs())
    whole = build(case).float().fit(x, y)
    for name in ("_MOST", "_LEAST"):
        monkeypatch.setattr(f"relreps._core.blocks.{name}", 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        t = build(case).float().fit(x, y)
        inside = t(x)
    close(state(t), state(whole))
    close(inside, t(x), atol=0, rtol=0)


@each_streaming
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_rows_fit_as_the_same_rows_in_float32(case, dtype):
    x, y = (side.to(dtype) for side in pairs())
    close(state(build(case).fit(x, y)), state(build(case).fit(x.float(), y.float())))


# SGD


def test_many_steps_of_sgd_reach_least_squares():
    x = normal(60, 4)
    y = x @ normal(4, 3) + 2
    exact = fitted(AffineTranslator, x, y)
    near = fitted(SGDAffineTranslator, x, y, max_iterations=3000, lr=1e-2)
    close(near(x), exact(x), atol=1e-5, rtol=1e-5)
    few = fitted(SGDAffineTranslator, x, y)
    assert (few(x) - y).norm() > 0.1 * (y - y.mean(0)).norm()  # as published: stopped early


def test_sgd_is_repeatable_and_weighted():
    x, y = pairs()
    times = torch.randint(1, 3, (60,))

    def fit(x, y, w=None):
        generator = torch.Generator().manual_seed(3)
        return (
            SGDAffineTranslator(6, 5, max_iterations=50).double().fit(x, y, w, generator=generator)
        )

    close(fit(x, y)(x), fit(x, y)(x), atol=0, rtol=0)
    repeated = fit(x.repeat_interleave(times, 0), y.repeat_interleave(times, 0))
    close(fit(x, y, times.double())(x), repeated(x))


@pytest.mark.parametrize("constant", ["x", "y"])
def test_sgd_refuses_constant_data(constant):
    x, y = pairs()
    x, y = (x[:1].expand_as(x), y) if constant == "x" else (x, y[:1].expand_as(y))
    with pytest.raises(ValueError, match=r"SGDAffineTranslator cannot be fitted.*rank 0"):
        fitted(SGDAffineTranslator, x, y)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_sgd_works_where_gradients_are_off(mode):
    x, y = pairs()

    def fit():
        generator = torch.Generator().manual_seed(3)
        return (
            SGDAffineTranslator(6, 5, max_iterations=3)
            .double()
            .fit(1 * x, 1 * y, generator=generator)
        )

    with mode():
        t = fit()
        assert not t.matrix.requires_grad
        inside = t.matrix.clone()
    close(inside, fit().matrix, atol=0, rtol=0)


# Constructors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: AffineTranslator(3, 4, ridge=-1),
            ValueError,
            r"`ridge` must be in \[0, inf\], got -1",
        ),
        (lambda: AffineTranslator(3, 4, ridge=float("inf")), ValueError, "`ridge` must be finite"),
        (lambda: AffineTranslator(3, 4, ridge="gvc"), ValueError, "`ridge` must be .*mean 'gcv'"),
        (
            lambda: AffineTranslator(3, 4, ridge=None),
            TypeError,
            "`ridge` must be a number, got NoneTy",
        ),
        (lambda: AffineTranslator(3, 4, pre=None), ValueError, "`pre` must be one of 'center'"),
        (
            lambda: LinearTranslator(3, 4, pre="center"),
            ValueError,
            "`pre` must be one of 'unit', None",
        ),
        (
            lambda: ReducedRankTranslator(3, 4, 0),
            ValueError,
            "`max_rank` must be at least 1, got 0",
        ),
        (
            lambda: ReducedRankTranslator(3, 4, 4),
            ValueError,
            r"`max_rank` must be at most .* = 3, got 4",
        ),
        (lambda: CCATranslator(3, 4, max_rank=4), ValueError, "`max_rank` must be at most"),
        (
            lambda: WhitenedTranslator(3, 4, reweight=2.0),
            ValueError,
            r"`reweight` must be in \[0, 1\]",
        ),
        (
            lambda: SGDAffineTranslator(3, 4, max_iterations=0),
            ValueError,
            "`max_iterations` must be at least 1",
        ),
        (lambda: SGDAffineTranslator(3, 4, lr=0.0), ValueError, "`lr` must be positive"),
        (
            lambda: SGDAffineTranslator(3, 4).fit(*pairs(), generator=1),
            TypeError,
            "`generator` must be a torch",
        ),
        (lambda: LOrthoTranslator(3, 4, allow_reflection=False), ValueError, "equal widths"),
    ],
)
def test_bad_constructor(make, error, message):
    with pytest.raises(error, match=message):
        make()


@each_streaming
def test_repr_is_the_constructor_call(case):
    cls, options = STREAMING[case]
    t = cls(6, 5, **options)
    assert repr(eval(repr(t))) == repr(t)


@pytest.mark.parametrize("make", [AffineTranslator, LinearTranslator, LOrthoTranslator])
def test_a_feature_that_is_nothing_but_rounding_stays_out_of_the_map(make):
    x, y = torch.randn(200, 6), torch.randn(200, 6)
    x[:, 0] *= 1e-33  # as three coordinates of a sentence encoder are
    with pytest.warns(NumericalWarning, match="determine 5 of 6"):
        translator = make(6, 6).fit(x, y)
    assert translator.matrix.abs().max() < 10
    assert translator.rank == 5
