"""RSA and distance correlation against SciPy; regression against scikit-learn."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist, squareform
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

import relreps
from relreps import NumericalWarning
from relreps._core import blocks
from relreps.metrics import distance_correlation, regression_r2, rsa
from tests._data import Largest, orthogonal, related

close = torch.testing.assert_close
each_rdm = pytest.mark.parametrize("rdm", ["euclidean", "cosine", "correlation"])
each_comparison = pytest.mark.parametrize("compare", ["spearman", "pearson", "cosine"])


def spaces(n=50, d=5, e=7):
    x, y = related(n, d, e)
    return x + 1, y


def tied_spaces(n=40):
    """Corners of a cube, many times: most distances tie, and many are zero."""
    return tuple(torch.randint(0, 2, (n, 4)).double() for _ in range(2))


def rows_at_once(monkeypatch, distances):
    """As many rows of a table at once as have so many distances."""
    monkeypatch.setattr(blocks, "rows_of_table", lambda columns, _: max(1, distances // columns))


def compared(a, b, compare):
    if compare == "spearman":
        return stats.spearmanr(a, b).statistic
    if compare == "pearson":
        return stats.pearsonr(a, b).statistic
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@each_rdm
@each_comparison
@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_rsa_is_that_of_scipy(rdm, compare, block, monkeypatch):
    rows_at_once(monkeypatch, block)
    x, y = spaces()
    wanted = compared(pdist(x.numpy(), rdm), pdist(y.numpy(), rdm), compare)
    assert float(rsa(x, y, rdm, compare)) == pytest.approx(wanted, abs=1e-12)
    assert float(rsa(x.float(), y.float(), rdm, compare)) == pytest.approx(wanted, abs=1e-4)


@each_comparison
def test_rsa_where_distances_tie(compare):
    x, y = tied_spaces()
    wanted = compared(pdist(x.numpy()), pdist(y.numpy()), compare)
    assert float(rsa(x, y, compare=compare)) == pytest.approx(wanted, abs=1e-12)
    assert float(rsa(x.float(), y.float(), compare=compare)) == pytest.approx(wanted, abs=1e-6)


@each_comparison
@pytest.mark.parametrize("block", [300, 1 << 20])
def test_distances_may_be_a_function(compare, block, monkeypatch):
    rows_at_once(monkeypatch, block)
    x, y = spaces()
    wanted = compared(pdist(x.numpy(), "cityblock"), pdist(y.numpy(), "cityblock"), compare)
    assert float(rsa(x, y, relreps.similarity.l1, compare)) == pytest.approx(wanted, abs=1e-10)


@each_rdm
def test_a_comparison_may_be_a_function(rdm):
    x, y = spaces()

    def kendall(a, b):
        assert a.shape == b.shape == (50 * 49 // 2,)
        return torch.tensor(stats.kendalltau(a, b).statistic)

    wanted = stats.kendalltau(pdist(x.numpy(), rdm), pdist(y.numpy(), rdm)).statistic
    assert float(rsa(x, y, rdm, kendall)) == pytest.approx(wanted, abs=1e-6)


def test_functions_of_the_user_are_differentiated():
    x, y = spaces(9, 3, 4)
    inputs = x.requires_grad_(), y.requires_grad_()

    def squares(a, b):
        return (a[:, None] - b).square().sum(-1)

    def difference(a, b):
        return (a / a.sum() - b / b.sum()).square().sum()

    assert torch.autograd.gradcheck(lambda a, b: rsa(a, b, squares, difference), inputs)


def test_rsa_far_from_the_origin_in_float32():
    x, y = (side.float() for side in spaces())
    far = (x + 1e4) - 1e4
    assert float(rsa(x + 1e4, y, compare="pearson")) == pytest.approx(
        float(rsa(far, y, compare="pearson")), abs=1e-6
    )


@each_rdm
@pytest.mark.parametrize("compare", ["pearson", "cosine"])
def test_rsa_gradients(rdm, compare):
    x, y = spaces(9, 3, 4)
    inputs = x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: rsa(a, b, rdm, compare), inputs)


def distance_correlation_by_sums(x, y):
    """Szekely and Rizzo's U-centred distances, entry by entry."""

    def centred(z):
        a = squareform(pdist(z.numpy()))
        n = len(a)
        rows = a.sum(0) / (n - 2)
        a = a - rows - rows[:, None] + a.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(a, 0)
        return a

    a, b = centred(x), centred(y)
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


@pytest.mark.parametrize("make", [spaces, tied_spaces])
@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_distance_correlation_is_the_definition(make, block, monkeypatch):
    rows_at_once(monkeypatch, block)
    x, y = make()
    wanted = distance_correlation_by_sums(x, y)
    assert float(distance_correlation(x, y)) == pytest.approx(wanted, abs=1e-12)
    assert float(distance_correlation(x.float(), y.float())) == pytest.approx(wanted, abs=1e-5)


def test_distance_correlation_sees_what_a_correlation_does_not():
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    assert distance_correlation(x, x**2) > 0.2
    draws = [distance_correlation(*torch.randn(2, 64, 128)) for _ in range(20)]
    assert abs(float(torch.stack(draws).mean())) < 0.02


def test_distance_correlation_gradients_at_copies():
    x, y = spaces(8, 3, 4)
    x[1] = x[0]
    for gradient in torch.autograd.grad(
        distance_correlation(x.requires_grad_(), y.requires_grad_()), (x, y)
    ):
        assert gradient.isfinite().all()
    inputs = [side.detach()[1:].requires_grad_() for side in (x, y)]
    assert torch.autograd.gradcheck(distance_correlation, inputs)


@pytest.mark.parametrize(
    "measure", [lambda x, y: rsa(x, y, compare="pearson"), distance_correlation]
)
def test_memory_for_some_rows_of_distances(measure, monkeypatch):
    rows_at_once(monkeypatch, 10_000)
    x, y = spaces(1000, 3, 3)
    with Largest() as largest, torch.no_grad():
        measure(x, y)
    assert largest.size <= 2 * 10_000


@pytest.mark.parametrize(("d", "e"), [(5, 7), (7, 2), (1, 1)])
def test_regression_is_that_of_scikit_learn(d, e):
    x, y = spaces(50, d, e)
    model = LinearRegression().fit(x.numpy(), y.numpy())
    wanted = r2_score(y.numpy(), model.predict(x.numpy()), multioutput="variance_weighted")
    assert float(regression_r2(x, y)) == pytest.approx(wanted, abs=1e-12)
    assert float(regression_r2(x.float() + 100, y.float())) == pytest.approx(wanted, abs=1e-5)


def test_regression_with_columns_that_repeat():
    x, y = spaces()
    more = torch.cat((x, x @ torch.randn(5, 3).double(), torch.ones(50, 1).double()), 1)
    close(regression_r2(more, y), regression_r2(x, y))
    close(regression_r2(more.float(), y.float()), regression_r2(x, y).float(), atol=1e-5, rtol=0)


def test_regression_does_not_depend_on_the_units_of_the_features():
    x, y = spaces()
    wanted = float(regression_r2(x, y))
    for scale in (1e-6, 1e6):
        stretched = x.float()
        stretched[:, 0] *= scale
        assert float(regression_r2(stretched, y.float())) == pytest.approx(wanted, abs=1e-5)


def test_regression_gradients():
    x, y = spaces(12, 3, 4)
    assert torch.autograd.gradcheck(regression_r2, (x.requires_grad_(), y.requires_grad_()))
    (gradient,) = torch.autograd.grad(regression_r2(x, y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="regression_r2 has no second derivative"):
        gradient.square().sum().backward()


def test_too_few_rows_explain_anything():
    with pytest.warns(NumericalWarning, match="9 independent directions in 10 rows"):
        assert float(regression_r2(torch.randn(10, 30), torch.randn(10, 4))) == pytest.approx(1)


def test_equal_distances_have_no_correlation():
    """Every two corners of a simplex are equally far apart."""
    for _ in range(3):
        turned = torch.eye(6).double() @ orthogonal(6)
        for simplex in (torch.eye(6), turned, turned.float()):
            for pair in ((simplex, torch.randn(6, 3)), (torch.randn(6, 3), simplex)):
                for measure in (rsa, partial(rsa, compare="pearson"), distance_correlation):
                    with pytest.warns(NumericalWarning, match="its distances are all equal"):
                        assert measure(*pair).isnan()
            with pytest.warns(NumericalWarning, match=r"of `[xy]`, its distances") as caught:
                assert distance_correlation(simplex, simplex).isnan()
            assert len(caught) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: rsa(x, y, "euclid"), "`rdm` must be one of .*Did you mean 'euclidean'"),
        (lambda x, y: rsa(x, y, compare="kendall"), "`compare` must be one of 'spearman'"),
        (lambda x, y: rsa(x, y, lambda a, b: a), r"`rdm` must give .* \(50, 50\) for 50 and 50"),
        (lambda x, y: rsa(x, y, compare=lambda a, b: a), r"`compare` must give a scalar tensor .*"),
        (lambda x, y: rsa(x, y, compare=lambda a, b: 1.0), "got a float of shape"),
        (lambda x, y: rsa(x[:2], y[:2]), "at least 3 rows for a correlation of distances, got 2"),
        (lambda x, y: distance_correlation(x[:3], y[:3]), "at least 4 rows for the debiased"),
        (lambda x, y: regression_r2(x[:1], y[:1]), "at least 2 rows"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*spaces())


def test_biased_distance_correlation_is_the_one_of_double_centred_distances():
    x, y = torch.randn(30, 3, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64)
    y[:, 0] += x[:, 0]
    a, b = (torch.cdist(side, side) for side in (x, y))
    a, b = (m - m.mean(0) - m.mean(1)[:, None] + m.mean() for m in (a, b))
    wanted = (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()
    torch.testing.assert_close(distance_correlation(x, y, debiased=False), wanted)
    assert distance_correlation(x[:2], y[:2], debiased=False) == 1
