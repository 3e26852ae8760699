"""Functional maps: the decoupled solve is the dense one, spectra are right, matches are found."""

import pytest
import torch

from relreps import FunctionalMapTranslator, NumericalWarning, ProcrustesTranslator
from relreps.translate import functional, functional_map

close = torch.testing.assert_close


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthogonal(d):
    return torch.linalg.qr(normal(d, d)).Q


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


@pytest.mark.parametrize("widths", [(3, 3), (3, 5)], ids=str)
def test_wrong_seeds_are_corrected(widths):
    x = normal(250, 3) * torch.tensor([2.0, 1.0, 0.5]).double()
    truth = torch.randperm(250)
    y = (2 * x @ orthogonal(widths[1])[:3] + 7)[truth]
    i, j = truth[:50].clone(), torch.arange(50)
    i[:10] = i[:10].roll(1)
    t = FunctionalMapTranslator(3, widths[1], num_functions=20, k=20, scale="norm").double()
    t.fit(x, y, (i, j))
    plain = ProcrustesTranslator(3, widths[1], scale="norm").double().fit(x[i], y[j])
    assert (t(x)[truth] - y).norm() < 0.1 * (plain(x)[truth] - y).norm()
    assert t.agreement > 0.9
    assert t.num_pairs > 200


def test_a_space_and_itself_are_isometric():
    x = normal(120, 4)
    t = FunctionalMapTranslator(4, 4, num_functions=15, k=15).double()
    t.fit(x, x @ orthogonal(4) + 1, (torch.arange(120),) * 2)
    close(t.similarity, torch.ones_like(t.similarity))


def test_a_graph_in_parts_is_told():
    x = torch.cat((normal(40, 3), normal(40, 3) + 100))
    t = FunctionalMapTranslator(3, 3, num_functions=8, k=5)
    with pytest.warns(NumericalWarning, match="graph of `[xy]` falls into 2 parts"):
        t.fit(x, x, (torch.arange(80),) * 2)


BAD = {
    "functions": (lambda x, y, s: (x[:15], y, (s[0][:9],) * 2), "`num_functions` must be less"),
    "neighbours": (lambda x, y, s: (x[:18], y, (s[0][:9],) * 2), "`k` must be at most"),
    "seeds": (lambda x, y, s: (x, y, (s[0], s[1] + 200)), r"`seeds\[1\]` must be row indices"),
    "nan": (lambda x, y, s: (x, y.log(), s), "`y` must be finite"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_failed_fit_leaves_the_module_as_it_was(change, message):
    x, seeds = normal(100, 3), (torch.arange(60),) * 2
    t = FunctionalMapTranslator(3, 3, num_functions=16, k=18).double().fit(x, x + 1, seeds)
    before = {name: tensor.clone() for name, tensor in t.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        t.fit(*change(x - 3, x, seeds))
    close(t.state_dict(), before, atol=0, rtol=0)


def test_bad_arguments_of_the_function():
    x, v = normal(4, 6), torch.zeros(4)
    with pytest.raises(ValueError, match="`x` and `y` must have one shape"):
        functional_map(x, normal(5, 6), v, v, 1.0)
    with pytest.raises(ValueError, match="`values_y` must have one eigenvalue"):
        functional_map(x, x, v, v[1:], 1.0)
    with pytest.raises(ValueError, match="`alpha` must be in"):
        functional_map(x, x, v, v, -1.0)


def test_repr_is_the_constructor_call():
    t = FunctionalMapTranslator(3, 4, num_functions=7)
    assert "3, 4, num_functions=7, k=100, alpha=10.0, scale='none', pre='center'" in repr(t)


def test_alpha_is_finite():
    with pytest.raises(ValueError, match="`alpha` must be finite, got inf"):
        FunctionalMapTranslator(3, 4, alpha=float("inf"))
    with pytest.raises(ValueError, match="`alpha` must be finite, got inf"):
        functional_map(torch.eye(2), torch.eye(2), torch.zeros(2), torch.zeros(2), float("inf"))
