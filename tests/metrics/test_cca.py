"""Canonical correlations against scikit-learn, and against the definitions by whitening."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from relreps import NumericalWarning
from relreps.metrics import mean_cca, pwcca, regression_r2, shape_distance, svcca
from tests._data import orthogonal

N = 200
close = torch.testing.assert_close

MEASURES = {"mean_cca": mean_cca, "svcca": svcca, "pwcca": pwcca}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)

WIDTHS = [(3, 6), (5, 5), (7, 4), (1, 4), (4, 1)]
each_width = pytest.mark.parametrize("widths", WIDTHS, ids=str)


def spaces(d=5, e=5, n=N):
    shared = torch.randn(n, 3, dtype=torch.float64)
    x, y = (
        shared @ torch.randn(3, width, dtype=torch.float64)
        + torch.rand(width, dtype=torch.float64) * torch.randn(n, width, dtype=torch.float64)
        for width in (d, e)
    )
    return x * torch.logspace(-1, 1, d).double() + 3, y - 5


def root(m):
    values, vectors = np.linalg.eigh(m)
    return vectors / np.sqrt(values) @ vectors.T


def by_whitening(x, y):
    """Correlations, and the canonical variates of x, by inverse roots of covariances."""
    x, y = (side.numpy() - side.numpy().mean(0) for side in (x, y))
    white = root(x.T @ x)
    u, rho, _ = np.linalg.svd(white @ x.T @ y @ root(y.T @ y), full_matrices=False)
    return rho, x @ white @ u, x


@each_width
def test_mean_cca_is_the_definition_and_that_of_scikit_learn(widths):
    x, y = spaces(*widths)
    rho, *_ = by_whitening(x, y)
    assert float(mean_cca(x, y)) == pytest.approx(rho.mean(), abs=1e-10)
    model = CCA(n_components=min(widths), max_iter=100_000, tol=1e-14)
    a, b = model.fit_transform(x.numpy(), y.numpy())
    found = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(min(widths))]
    assert float(mean_cca(x, y)) == pytest.approx(np.mean(found), abs=1e-5)


@each_width
def test_pwcca_is_the_definition_for_any_widths(widths):
    """The code of the paper's authors (google/svcca) is not, and others copied it.

    It forms the variates without the inverse root of the covariance, so that its weights are not
    those of the paper, and where the first space keeps more features than the second it masks the
    activations of the first by what was kept of the second: an index error for unequal widths.
    """
    x, y = spaces(*widths)
    rho, variates, rows = by_whitening(x, y)
    weights = np.abs(variates.T @ rows).sum(1)
    assert float(pwcca(x, y)) == pytest.approx(weights @ rho / weights.sum(), abs=1e-10)


def test_pwcca_with_the_released_weights_would_be_another_number():
    x, y = spaces(4, 6)
    rho, _, rows = by_whitening(x, y)
    white = root(rows.T @ rows)
    b = y.numpy() - y.numpy().mean(0)
    u, _, _ = np.linalg.svd(white @ rows.T @ b @ root(b.T @ b), full_matrices=False)
    released = np.linalg.qr(rows @ u)[0]
    weights = np.abs(released.T @ rows).sum(1)
    assert abs(float(pwcca(x, y)) - weights @ rho / weights.sum()) > 1e-3


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
def test_svcca_keeps_components_by_their_variance(variance):
    """By squared singular values, the fewest that reach the share, at least one."""
    x, y = spaces(6, 4)

    def components(z):
        u, s, _ = np.linalg.svd(z.numpy() - z.numpy().mean(0), full_matrices=False)
        share = np.cumsum(s**2) / (s**2).sum()
        return u[:, : int(np.argmax(share >= variance - 1e-12)) + 1]

    rho = np.linalg.svd(components(x).T @ components(y), compute_uv=False)
    assert float(svcca(x, y, variance)) == pytest.approx(rho.mean(), abs=1e-10)


def test_svcca_of_no_variance_keeps_one_component():
    x, y = spaces()
    assert 0 < svcca(x, y, 0.0) <= 1


def test_svcca_of_all_variance_is_mean_cca():
    x, y = spaces()
    close(svcca(x, y, 1.0), mean_cca(x, y))


@each_measure
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_that_repeat_others_change_nothing(measure, dtype):
    """A rank below the width, of which float32 leaves a trace, is seen."""
    x, y = (side.to(dtype) for side in spaces())
    more = torch.cat((y, y @ torch.randn(5, 3).to(dtype), torch.ones(N, 1, dtype=dtype)), 1)
    if measure is svcca:  # which looks at variance, and repeated columns have more of it
        more = torch.cat((y, torch.zeros(N, 3, dtype=dtype)), 1)
    close(measure(x, more), measure(x, y), atol=1e-5, rtol=0)


@pytest.mark.parametrize("measure", [mean_cca, pwcca])  # svcca goes by variance, which has units
@pytest.mark.parametrize("column", [0, 3])
def test_units_of_the_features_decide_no_rank(measure, column):
    x, y = spaces()
    stretched = x.clone()
    stretched[:, column] *= 1e6
    got = measure(stretched.float(), y.float())
    close(got.double(), measure(stretched, y), atol=1e-5, rtol=0)


def by_shape(x, y):
    return shape_distance(x, y, alpha=0)


RANKED = {
    "mean_cca": mean_cca,
    "pwcca": lambda x, y: pwcca(y, x),  # which an invertible map of its second space alone leaves
    "regression_r2": regression_r2,
    "shape_distance": by_shape,
}
each_ranked = pytest.mark.parametrize("measure", RANKED.values(), ids=RANKED)


@each_ranked
def test_many_rows_cost_no_direction(measure):
    """A map of condition 1000 is invertible in float32, however many rows there are."""
    x = torch.randn(20_000, 16, dtype=torch.float64)
    y = x @ torch.randn(16, 16, dtype=torch.float64) + 3 * torch.randn(20_000, 16).double()
    spread = torch.logspace(0, -3, 16, dtype=torch.float64)
    stretch = (orthogonal(16) * spread) @ orthogonal(16)
    wanted = measure(x, y)
    close(measure(x @ stretch, y), wanted)
    close(measure((x @ stretch).float(), y.float()).double(), wanted, atol=1e-6, rtol=0)


@each_ranked
@pytest.mark.parametrize("mean", [0, 1e2, 1e4, 1e6])
def test_a_mean_makes_no_directions_of_rounding(measure, mean):
    """Columns that repeat others, rounded about a mean far larger than what they do."""
    x = torch.randn(N, 8, dtype=torch.float64)
    y = x[:, :4] + torch.randn(N, 4, dtype=torch.float64)
    more = torch.cat((x, x @ torch.randn(8, 3, dtype=torch.float64)), 1) + mean
    close(measure(more.float(), y.float()).double(), measure(x, y), atol=2e-3, rtol=0)


def test_rcond_drops_weak_directions():
    x, y = spaces()
    noisy = torch.cat((x, 1e-6 * torch.randn(N, 2, dtype=torch.float64)), 1)
    assert (mean_cca(noisy, y) - mean_cca(x, y)).abs() > 1e-2
    close(mean_cca(noisy, y, rcond=1e-4), mean_cca(x, y), atol=1e-6, rtol=0)


@each_measure
def test_too_few_rows_warn(measure):
    x, y = torch.randn(2, 10, 40)
    with pytest.warns(NumericalWarning, match="10 rows for 9 and 9.*9 canonical correlations are"):
        assert float(measure(x, y, **({"variance": 1.0} if measure is svcca else {}))) == (
            pytest.approx(1)
        )


def test_some_correlations_are_one_by_counting():
    x, y = torch.randn(12, 7), torch.randn(12, 6)
    with pytest.warns(NumericalWarning, match="12 rows for 7 and 6 directions: 2 canonical"):
        assert mean_cca(x, y) < 1


def test_enough_rows_do_not_warn():
    x, y = torch.randn(14, 7), torch.randn(14, 6)
    assert mean_cca(x, y) < 1


@each_measure
def test_no_gradient_and_no_value_above_one(measure):
    x, _ = spaces()
    value = measure(x.requires_grad_(), x @ torch.randn(5, 5).double())
    assert not value.requires_grad
    assert value <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: svcca(x, y, 1.5), r"`variance` must be in \[0, 1\], got 1.5"),
        (lambda x, y: mean_cca(x, y, rcond=-1.0), r"`rcond` must be in \[0, 1\], got -1.0"),
        (lambda x, y: mean_cca(x[:1], y[:1]), "at least 2 rows"),
        (lambda x, y: pwcca(x[:, :0], y), "`x` must have at least one feature"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*spaces())


BY_DIRECTION = {
    "mean_cca": mean_cca,
    "pwcca": pwcca,
    "regression_r2": regression_r2,
    "shape_distance": partial(shape_distance, alpha=0),
}
each_by_direction = pytest.mark.parametrize(
    "measure", BY_DIRECTION.values(), ids=list(BY_DIRECTION)
)


def stretched(rows, smallest):
    """Rows under a map whose singular values go down to this, and others that depend on them."""
    x = torch.randn(rows, 16, dtype=torch.float64)
    y = x @ torch.randn(16, 16, dtype=torch.float64) + torch.randn(rows, 16, dtype=torch.float64)
    scales = torch.logspace(0, np.log10(smallest), 16, dtype=torch.float64)
    return (x @ orthogonal(16) * scales @ orthogonal(16)), y


@each_by_direction
@pytest.mark.parametrize("rows", [200, 20_000])
def test_more_rows_do_not_cost_directions(measure, rows):
    x, y = stretched(rows, 1e-3)
    for a, b in ((x, y), (y, x)):
        close(measure(a.float(), b.float()), measure(a, b).float(), atol=1e-5, rtol=0)


@each_by_direction
def test_directions_that_may_be_no_rounding_are_not_dropped_in_silence(measure):
    x, y = stretched(500, 1e-6)
    with pytest.warns(NumericalWarning, match="of 16 directions of `x` are so small.*`rcond`"):
        measure(x.float(), y.float())
    close(measure(x.float(), y.float(), rcond=1e-8), measure(x, y).float(), atol=1e-2, rtol=0)
    close(measure(x, y, rcond=1e-9), measure(x, y))


@each_by_direction
def test_rcond_is_a_share(measure):
    with pytest.raises(ValueError, match=r"`rcond` must be in \[0, 1\], got 2"):
        measure(*spaces(), rcond=2)
