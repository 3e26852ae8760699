"""The smallest eigenvalues, minus the next, by both solvers."""

import pytest
import torch

from relreps._core import eigen
from relreps._core.eigen import gap_of_all, gap_of_smallest


@pytest.mark.parametrize(
    "values", [[0, 0.3, 0.7, 1.2, 1.6], [0, 0, 0, 1, 1.5], [0, 0.5, 0.5, 1, 2]]
)
def test_the_gradient_of_both_solvers_at_equal_eigenvalues(values):
    """Equal ones among those summed do no harm."""
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    m = (q * torch.tensor(values, dtype=torch.float64)) @ q.mT

    def symmetric(solve):
        return lambda x: solve((x + x.mT) / 2, 3)

    for solve in (gap_of_all, gap_of_smallest):
        assert torch.autograd.gradcheck(symmetric(solve), m.clone().requires_grad_())


def test_the_second_derivative_where_summed_eigenvalues_are_equal():
    """Those are the zeros of a graph in several parts."""
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    for values in ([0, 0, 0, 1, 1.5, 1.5], [0.1, 0.2, 0.4, 0.8, 1, 2]):
        m = (q * torch.tensor(values, dtype=torch.float64)) @ q.mT

        def gap(x):
            return gap_of_all((x + x.mT) / 2, 3)

        assert torch.autograd.gradgradcheck(gap, m.requires_grad_())
        by_func = torch.func.jacrev(torch.func.jacrev(gap))(m.detach())
        wanted = torch.autograd.functional.hessian(gap, m.detach())
        torch.testing.assert_close(by_func, wanted)
        many = torch.vmap(torch.func.grad(gap))(torch.stack((m.detach(), 2 * m.detach())))
        torch.testing.assert_close(many[0], torch.func.grad(gap)(m.detach()))


def path(n):
    """Laplacian of a path, of which the eigenvalues are known."""
    a = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    a = a + a.mT
    b = a.sum(-1).rsqrt()
    return torch.eye(n) - b[:, None] * a * b


def test_a_path_has_the_eigenvalues_of_its_formula(monkeypatch):
    """Also where the solver does not settle, and all are computed."""
    wanted = 1 - torch.cos(torch.arange(60, dtype=torch.float64) * torch.pi / 59)
    for _ in range(2):
        values, vectors = eigen.smallest_eigenpairs(path(60), 5)
        torch.testing.assert_close(values, wanted[:5])
        torch.testing.assert_close(path(60) @ vectors, vectors * values)
        monkeypatch.setattr(eigen, "_RESIDUAL", 0.0)


def test_the_smallest_are_found_where_that_pays():
    assert eigen.smallest_pays(512, 5)
    assert not eigen.smallest_pays(511, 5)
    assert not eigen.smallest_pays(512, 200)
