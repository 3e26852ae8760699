"""Functional maps: the decoupled solve is the dense one, spectra are right."""

import pytest
import torch

from relreps.correspondence import functional, functional_map
from tests._data import normal

close = torch.testing.assert_close


def test_the_decoupled_solve_is_the_dense_one():
    k, q, alpha = 5, 8, 0.7
    x, y = normal(k, q), normal(k, q)
    lx, ly = (torch.rand(k, dtype=torch.float64).sort().values for _ in range(2))
    eye = torch.eye(k, dtype=torch.float64)
    # vec(C Fx) = (I kron Fx^T) vec(C), row by row; the second term is diagonal in C.
    data = torch.kron(eye, x.mT.contiguous())
    commute = alpha**0.5 * (ly[:, None] - lx).flatten().diag()
    system, wanted = torch.cat((data, commute)), torch.cat((y.flatten(), y.new_zeros(k * k)))
    dense = torch.linalg.lstsq(system, wanted[:, None]).solution.reshape(k, k)
    close(functional_map(x, y, lx, ly, alpha), dense)


def test_a_heavy_commutation_leaves_only_the_diagonal():
    x, values = normal(6, 9), torch.linspace(0, 1, 6, dtype=torch.float64)
    c = functional_map(x, normal(6, 9), values, values, 1e12)
    assert (c - c.diagonal().diag()).abs().max() < 1e-8
    assert c.diagonal().abs().min() > 1e-3
    close(functional_map(x, x, values, values, 3.0), torch.eye(6, dtype=torch.float64))


def test_fewer_functions_than_coefficients_are_met_exactly():
    x, y = normal(6, 3), normal(6, 3)
    flat = torch.zeros(6, dtype=torch.float64)
    close(functional_map(x, y, flat, flat, 0.0) @ x, y)


def test_signs_of_eigenvectors_do_not_matter():
    x, y = normal(6, 9), normal(6, 9)
    lx, ly = torch.rand(6).double(), torch.rand(6).double()
    sx, sy = (torch.where(torch.rand(6) < 0.5, -1.0, 1.0).double() for _ in range(2))
    c = functional_map(x, y, lx, ly, 0.5)
    turned = functional_map(sx[:, None] * x, sy[:, None] * y, lx, ly, 0.5)
    close(turned, sy[:, None] * c * sx)


@pytest.mark.parametrize("dense", [True, False])
def test_eigenfunctions_are_those_of_the_laplacian(dense, monkeypatch):
    monkeypatch.setattr(functional, "_DENSE", 1000 if dense else 0)
    x = normal(80, 3)
    values, vectors = functional.laplacian_eigenfunctions(x, 10, 6)
    near = torch.cdist(x, x).fill_diagonal_(torch.inf).topk(6, largest=False).indices
    joined = torch.zeros(80, 80, dtype=torch.float64).scatter_(1, near, 1.0)
    joined = torch.maximum(joined, joined.mT)
    degree = joined.sum(1)
    laplacian = torch.eye(80, dtype=torch.float64) - joined / (degree[:, None] * degree).sqrt()
    close(values, torch.linalg.eigvalsh(laplacian)[:10], atol=1e-9, rtol=0)
    close(laplacian @ vectors, vectors * values, atol=1e-8, rtol=0)
    close(vectors.mT @ vectors, torch.eye(10, dtype=torch.float64), atol=1e-8, rtol=0)


def test_bad_arguments_of_the_function():
    x, v = normal(4, 6), torch.zeros(4)
    with pytest.raises(ValueError, match="`x` and `y` must have one shape"):
        functional_map(x, normal(5, 6), v, v, 1.0)
    with pytest.raises(ValueError, match="`values_y` must have one eigenvalue"):
        functional_map(x, x, v, v[1:], 1.0)
    with pytest.raises(ValueError, match="`alpha` must be in"):
        functional_map(x, x, v, v, -1.0)


def test_alpha_is_finite():
    with pytest.raises(ValueError, match="`alpha` must be finite, got inf"):
        functional_map(torch.eye(2), torch.eye(2), torch.zeros(2), torch.zeros(2), float("inf"))


def test_coefficients_without_energy_map_to_nothing():
    c = functional_map(torch.zeros(3, 4), torch.ones(3, 4), torch.zeros(3), torch.zeros(3), 1.0)
    assert torch.equal(c, torch.zeros(3, 3))


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_a_functional_map_does_not_depend_on_sizes(size, alpha):
    """Their squares are no float32 numbers; the weight of commuting has that of the squares."""
    x, y = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    values = torch.rand(5).double(), torch.rand(5).double()
    wanted = functional_map(x, y, *values, alpha=alpha)
    wide = functional_map(size * x, size * y, *values, alpha=alpha * size**2)
    close(wide, wanted)
    if alpha == 0:
        single = functional_map(*(t.float() for t in (size * x, size * y, *values)), alpha=0.0)
        close(single.double(), wanted, atol=2e-3 if size < 1e-38 else 1e-5, rtol=0)


def test_a_functional_map_refuses_what_is_not_finite():
    x, values = torch.ones(3, 4), torch.rand(3)
    for at, name in enumerate(("x", "y", "values_x", "values_y")):
        given = [x.clone(), x.clone(), values.clone(), values.clone()]
        given[at].view(-1)[0] = torch.nan
        with pytest.raises(ValueError, match=f"`{name}` must be finite"):
            functional_map(*given, alpha=1.0)
