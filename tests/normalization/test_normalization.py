"""Normalisers against NumPy and scikit-learn; streams, inverses, constant columns, bad input."""

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from sklearn.preprocessing import StandardScaler

import relreps
from relreps import Center, IsotropicScale, NormalizerChain, StandardScale, UnitNorm
from relreps import Whiten as Whitening

D = 5
FITTED = {
    "Center": Center,
    "IsotropicScale": IsotropicScale,
    "StandardScale": StandardScale,
    "Whiten": Whitening,
    "Whiten-shrunk": lambda d: Whitening(d, shrinkage=0.3),
}


@pytest.fixture
def x():
    return torch.randn(40, D, dtype=torch.float64) @ torch.randn(D, D).double() + 3


def test_standard_scale_is_that_of_scikit_learn(x):
    wanted = StandardScaler().fit(x.numpy()).transform(x.numpy())
    np.testing.assert_allclose(StandardScale(D).double().fit(x)(x), wanted, rtol=1e-10)


def test_whiten_is_the_symmetric_root(x):
    norm = Whitening(D).double().fit(x)
    covariance = np.cov(x.numpy().T, bias=True)
    np.testing.assert_allclose(norm.matrix, fractional_matrix_power(covariance, -0.5), rtol=1e-8)
    np.testing.assert_allclose(np.cov(norm(x).T, bias=True), np.eye(D), atol=1e-10)


def test_full_shrinkage_is_isotropic(x):
    one = Whitening(D, shrinkage=1.0).double().fit(x)(x)
    other = IsotropicScale(D).double().fit(x)(x)
    torch.testing.assert_close(one, other * D**0.5)


def test_isotropic_scale_has_unit_spread(x):
    rows = IsotropicScale(D).double().fit(x)(x)
    torch.testing.assert_close(rows.square().sum(-1).mean(), torch.tensor(1.0).double())
    torch.testing.assert_close(rows.mean(0), torch.zeros(D).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", FITTED.values(), ids=FITTED)
@pytest.mark.parametrize("width", [1, D - 1])
def test_rows_of_another_width_are_refused_not_stretched(make, width, x):
    norm, rows = make(D).double().fit(x), x[:, :width]
    for call in (norm, norm.inverse):
        with pytest.raises(ValueError, match=rf"`x` must have shape \(..., {D}\), got"):
            call(rows)


def test_a_chain_of_two_matrices_is_one_map_of_translators(x):
    chain = NormalizerChain(Whitening(D), Whitening(D, shrinkage=0.5))
    turn = torch.linalg.qr(torch.randn(D, D).double()).Q
    found = relreps.ProcrustesTranslator(D, D, pre=chain).double().fit(x, x @ turn)
    torch.testing.assert_close(found(x), x @ turn)


@pytest.mark.parametrize("make", FITTED.values(), ids=FITTED)
def test_inverse(make, x):
    norm = make(D).double().fit(x)
    new = torch.randn(3, 2, D, dtype=torch.float64)
    torch.testing.assert_close(norm.inverse(norm(new)), new)


@pytest.mark.parametrize("make", FITTED.values(), ids=FITTED)
@pytest.mark.parametrize("sizes", [[40], [1] * 40, [13, 0, 13, 14], [2, 38]], ids=str)
def test_partial_fit_is_fit(make, sizes, x):
    streamed = make(D).double()
    for chunk in x.split(sizes):
        streamed.partial_fit(chunk)
    whole = make(D).double().fit(x)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(streamed.state_dict()[name], value)


@pytest.mark.parametrize("make", FITTED.values(), ids=FITTED)
def test_constant_columns_vanish_and_come_back(make, x):
    x[:, 2] = 7.3
    norm = make(D).double().fit(x)
    out = norm(x)
    torch.testing.assert_close(out[:, 2], torch.zeros(40).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(norm.inverse(out), x)
    if isinstance(norm, StandardScale | Whitening):
        moved = x.clone()
        moved[:, 2] += 1
        torch.testing.assert_close(norm(moved), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_column_constant_up_to_rounding_is_constant(dtype):
    x = torch.randn(50, 2, dtype=dtype)
    x[:, 1] = 1000 * (1 + torch.finfo(dtype).eps * torch.randint(0, 2, (50,)))
    assert StandardScale(2).to(dtype).fit(x).std[1] == 0


@pytest.mark.parametrize("make", FITTED.values(), ids=FITTED)
def test_output_depends_on_the_reference_alone(make, x):
    norm = make(D).double().fit(x)
    rows = torch.randn(6, D, dtype=torch.float64)
    assert torch.equal(norm.train()(rows), norm.eval()(rows))
    torch.testing.assert_close(norm(rows)[:1], norm(rows[:1]))


def fitted_on(norm):
    """The normaliser as a function of reference and rows, without state."""
    return lambda reference, rows: norm.map(rows, norm.statistics_of(reference))


@pytest.mark.parametrize("make", FITTED.values(), ids=FITTED)
def test_gradients_through_rows_and_reference(make, x):
    norm = make(D).double()
    reference = x[:9].clone().requires_grad_()
    rows = torch.randn(2, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fitted_on(norm), (reference, rows))
    mapped = fitted_on(norm)(reference, rows)
    torch.testing.assert_close(norm.fit(reference.detach())(rows), mapped)


def test_gradients_at_equal_eigenvalues_and_constant_columns():
    reference = torch.cat((torch.eye(4), -torch.eye(4))).double().requires_grad_()
    rows = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fitted_on(Whitening(4)), (reference, rows))
    constant = torch.randn(6, 4, dtype=torch.float64)
    constant[:, 1] = 2
    constant.requires_grad_()
    for norm in (StandardScale(4), IsotropicScale(4), Whitening(4)):
        fitted_on(norm)(constant, rows).sum().backward()
        assert constant.grad.isfinite().all()


def test_unit_norm():
    rows = UnitNorm()(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_chain(x):
    chain = NormalizerChain(Center(D), Whitening(D), UnitNorm()).double().fit(x)
    first = Center(D).double().fit(x)
    second = Whitening(D).double().fit(first(x))
    torch.testing.assert_close(chain(x), UnitNorm()(second(first(x))))
    one_to_one = NormalizerChain(StandardScale(D), Whitening(D)).double().fit(x)
    torch.testing.assert_close(one_to_one.inverse(one_to_one(x)), x)
    with pytest.raises(ValueError, match=r"UnitNorm\(\) has no inverse"):
        chain.inverse(x)


def test_chain_in_parts(x):
    chain = NormalizerChain(UnitNorm(), StandardScale(D), UnitNorm()).double()
    for chunk in x.split(10):
        chain.partial_fit(chunk)
    whole = NormalizerChain(UnitNorm(), StandardScale(D), UnitNorm()).double().fit(x)
    torch.testing.assert_close(chain(x), whole(x))
    with pytest.raises(ValueError, match="cannot be fitted in parts"):
        NormalizerChain(NormalizerChain(Center(D)), Whitening(D)).partial_fit(x)


def test_a_stream_that_does_not_suffice_yet_says_so(x):
    norm = Whitening(D).double()
    with pytest.raises(RuntimeError, match=r"do not suffice yet.* 3 rows vary in at most 2"):
        norm.partial_fit(x[:3])(x)
    norm.partial_fit(x[3:])(x)


def test_half_types_keep_features_that_vary():
    """Constant is what rounding explains, and moments of half types are taken in float32."""
    x = (1 + 0.05 * torch.randn(200, 2)).bfloat16()
    assert (StandardScale(2).fit(x).std > 0.03).all()


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"do not fit into torch.float16"):
        Center(2).half().fit(torch.full((3, 2), 1e6))


def test_directions_that_die_in_training_are_left_out():
    """Inside a forward nothing is refused, but no infinity comes out."""
    flat = torch.randn(9, 2) @ torch.randn(2, 4)
    mapped = fitted_on(Whitening(4))(flat, flat)
    assert mapped.isfinite().all()
    assert mapped.abs().max() < 100


def test_there_is_no_second_derivative_of_whitening():
    x = torch.randn(9, 3, requires_grad=True)
    mapped = fitted_on(Whitening(3))(x, x)
    (slope,) = torch.autograd.grad(mapped.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        slope.sum().backward()


def test_a_failed_fit_changes_nothing(x):
    for norm in (StandardScale(D), Whitening(D), NormalizerChain(Center(D), StandardScale(D))):
        norm.double().fit(x)
        before = {name: value.clone() for name, value in norm.state_dict().items()}
        for bad in (torch.ones(7, D).double(), torch.full((7, D), torch.nan).double()):
            with pytest.raises(ValueError, match="rows"):
                norm.fit(bad)
        assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: StandardScale(3)(torch.ones(2, 3)), RuntimeError, r"Call `fit\(anchors\)` first"),
        (lambda: StandardScale(3).inverse(torch.ones(2, 3)), RuntimeError, "no state yet"),
        (lambda: StandardScale(3).fit(torch.ones(4, 3)), ValueError, "all equal"),
        (lambda: StandardScale(3).fit(torch.ones(1, 3)), ValueError, "at least two different rows"),
        (lambda: IsotropicScale(3).fit(torch.ones(4, 3)), ValueError, "all equal"),
        (lambda: Center(3).fit(torch.ones(4, 2)), ValueError, r"\(rows, 3\), got \(4, 2\)"),
        (lambda: Center(3).fit(torch.ones(4, 3).int()), TypeError, "floating-point"),
        (lambda: Center(3).fit(torch.ones(3)), ValueError, "flatten other axes"),
        (lambda: Center(0), ValueError, "`in_features` must be at least 1"),
        (lambda: Center(3.0), TypeError, "`in_features` must be an int"),
        (lambda: Whitening(3).fit(torch.randn(3, 3)), ValueError, "give more rows, or set `shrink"),
        (lambda: Whitening(3, shrinkage=2), ValueError, r"in \[0, 1\]"),
        (lambda: NormalizerChain(), ValueError, "got none"),
        (lambda: NormalizerChain(Center(3), Center(4)), ValueError, "of the same width"),
        (lambda: NormalizerChain(torch.nn.ReLU()), TypeError, "must be a normaliser of relreps"),
        (lambda: UnitNorm()(torch.ones(2).int()), TypeError, "floating-point"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_dead_direction_is_not_blamed_on_the_number_of_rows():
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(50, 2, dtype=dtype) @ torch.randn(2, 3, dtype=dtype)
        with pytest.raises(ValueError, match="direction of the space is dead, or set `shrinkage`"):
            Whitening(3).fit(x)


def test_the_first_bad_row_is_named(x):
    x[7, 1] = torch.inf
    with pytest.raises(ValueError, match="the first is row 7"):
        Center(D).double().fit(x)


def test_chunks_of_different_widths(x):
    norm = Center(D).double().partial_fit(x)
    with pytest.raises(ValueError, match=r"\(rows, 5\), got \(40, 4\)"):
        norm.partial_fit(x[:, :4])


def test_a_stream_does_not_go_on_after_loading(x):
    fresh = Center(D).double()
    fresh.load_state_dict(Center(D).double().fit(x).state_dict())
    with pytest.raises(RuntimeError, match="without their running sums"):
        fresh.partial_fit(x)
    assert fresh.fit(x)(x).shape == x.shape


def test_names():
    assert str(relreps.Whiten(3, shrinkage=0.1)) == "Whiten(in_features=3, shrinkage=0.1)"
    assert str(StandardScale(3)) == "StandardScale(in_features=3)"
