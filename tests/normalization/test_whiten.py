"""Whitening of uneven spaces, against roots in 60 digits; directions that are left out."""

import mpmath
import pytest
import torch

from relreps import AffineTranslator, NormalizerChain, NumericalWarning, StandardScale, Whiten

D = 5


def root_in_digits(x):
    """Inverse root of the covariance, in 60 digits."""
    with mpmath.workdps(60):
        rows = mpmath.matrix(x.double().tolist())
        n, d = rows.rows, rows.cols
        for j in range(d):
            mean = mpmath.fsum(rows[i, j] for i in range(n)) / n
            for i in range(n):
                rows[i, j] -= mean
        values, vectors = mpmath.eigsy(rows.T * rows / n)
        root = vectors * mpmath.diag([1 / mpmath.sqrt(v) for v in values]) * vectors.T
        return torch.tensor(
            [[float(root[i, j]) for j in range(d)] for i in range(d)], dtype=torch.float64
        )


def uneven(ratio, dtype, count=60):
    """Rows whose features have deviations from 1 to ``ratio``, in no order."""
    mixed = torch.randn(count, D).double() @ (torch.eye(D).double() + 0.3)
    deviations = torch.logspace(0, 1, D, ratio, dtype=torch.float64)[torch.randperm(D)]
    return (mixed * deviations + 1).to(dtype), deviations


@pytest.mark.parametrize("ratio", [1e2, 2e3, 1e6, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_uneven_deviations(ratio, dtype):
    """Rank is a matter of units in which each feature has its own deviation."""
    x, deviations = uneven(ratio, dtype)
    norm = Whiten(D).to(dtype).fit(x)
    wanted = root_in_digits(x)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-16 * ratio + 1e-10
    error = (norm.matrix - wanted) * deviations[:, None]
    assert error.abs().max() < tolerance
    torch.testing.assert_close(
        norm(x).T.cov(correction=0), torch.eye(D, dtype=dtype), **near(tolerance)
    )


def near(tolerance):
    return {"atol": 10 * tolerance, "rtol": 0}


def test_deviations_that_no_root_holds_are_refused_by_name():
    x, _ = uneven(1e25, torch.float64)
    with pytest.raises(ValueError, match=r"differ by a factor of .e\+2.*put `StandardScale`"):
        Whiten(D).double().fit(x)
    chain = NormalizerChain(StandardScale(D), Whiten(D)).double().fit(x)
    torch.testing.assert_close(chain(x).T.cov(correction=0), torch.eye(D).double())


def test_gradients_where_deviations_are_uneven():
    norm, units = Whiten(3).double(), torch.tensor([1.0, 1e-2, 3e3], dtype=torch.float64)
    near = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    rows = near.detach() * units

    def whitened(near):
        return norm.map(rows, norm.statistics_of(near * units))

    assert torch.autograd.gradcheck(whitened, (near,), atol=1e-4)


def test_directions_that_are_left_out_are_counted_and_go_to_zero():
    basis = torch.linalg.qr(torch.randn(D, D).double()).Q
    x = torch.randn(50, D).double() * torch.tensor([1, 1, 1, 1e-4, 1e-5]) @ basis.T
    with pytest.warns(
        NumericalWarning, match=r"keeps 3 of the 5 directions of `x`.*Give more rows"
    ):
        norm = Whiten(D, rcond=1e-3).double().fit(x)
    with pytest.warns(NumericalWarning, match="keeps 4 of the 5"):
        Whiten(D, rcond=5e-5).double().fit(x)
    kept = norm(x) @ basis
    torch.testing.assert_close(kept.var(0, correction=0)[:3], torch.ones(3).double(), **near(1e-4))
    assert kept[:, 3:].abs().max() < 1e-2
    assert str(norm) == "Whiten(in_features=5, shrinkage=0.0, rcond=0.001)"
    assert "affine" not in norm.invariant_to
    few = x[:3]
    with pytest.warns(NumericalWarning, match="keeps 2 of the 5"):
        mapped = Whiten(D, rcond=1e-3).double().fit(few)(few)
    torch.testing.assert_close(mapped.T.cov(correction=0).trace(), torch.tensor(2.0).double())


def test_a_translator_says_it_too():
    x = torch.randn(50, D) * torch.tensor([1, 1, 1, 1, 1e-5])
    with pytest.warns(NumericalWarning, match="keeps 4 of the 5 directions of `[xy]`"):
        AffineTranslator(D, D, ridge=0.1, pre=Whiten(D, rcond=1e-3)).fit(x, x @ torch.randn(D, D))


@pytest.mark.parametrize("rcond", [-0.1, 1.5, float("nan")])
def test_bad_rcond(rcond):
    with pytest.raises(ValueError, match=r"`rcond` must be in \[0, 1\]"):
        Whiten(3, rcond=rcond)


def test_rows_that_float32_whitens_to_few_digits_are_said():
    x = torch.randn(300, D).double()
    x = x + 1e5 * x.sum(1, keepdim=True)
    with pytest.warns(NumericalWarning, match=r"rounded to .* in torch.float32.*float64"):
        Whiten(D).fit(x)
    norm = Whiten(D).double().fit(x)
    torch.testing.assert_close(norm(x).T.cov(correction=0), torch.eye(D).double(), **near(1e-5))
