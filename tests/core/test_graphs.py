"""Neighbour graphs, their soft form and their Laplacian."""

import pytest
import torch

from relreps._core.graphs import (
    neighbor_graph,
    normalized_laplacian,
    soft_neighbors,
    squared_distances,
)
from tests._data import naive_soft

close = torch.testing.assert_close


def test_equally_near_neighbours_share_the_places_that_are_left():
    d = squared_distances(torch.zeros(4, 2), "median")
    close(neighbor_graph(*d, 1), (1 - torch.eye(4)) / 3)
    x = torch.tensor([[0.0], [1.0], [-2.0], [2.0]])  # of 0, one is nearest, and two tie
    graph = neighbor_graph(*squared_distances(x, "median"), 2)
    close(graph[0], torch.tensor([0.0, 1.0, 1.0, 1.0]))  # -2 and 2 have 0 among their own two
    close(graph[1], torch.tensor([1.0, 0.0, 1.0, 1.0]))
    close(graph[2], torch.tensor([1.0, 1.0, 0.0, 0.0]))


def test_the_graph_of_a_lattice_does_not_depend_on_the_order_of_its_points():
    x = torch.randint(0, 3, (40, 3), generator=torch.Generator().manual_seed(0)).double()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for k in (1, 4, 10):
        graph = neighbor_graph(*squared_distances(x, "median"), k)
        moved = neighbor_graph(*squared_distances(x[order], "median"), k)
        close(moved, graph[order][:, order])


def test_second_derivatives_of_squared_distances():
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)

    def squares(x):
        return squared_distances(x, 2.0)[1].masked_fill(torch.eye(6, dtype=torch.bool), 0)

    assert torch.autograd.gradcheck(squares, x)
    assert torch.autograd.gradgradcheck(squares, x)
    by_func = torch.func.jacrev(torch.func.jacrev(lambda x: squares(x).square().sum()))
    one = x[0].detach()
    found, wanted = (
        by_func(one),
        torch.autograd.functional.hessian(lambda x: squares(x).square().sum(), one),
    )
    close(found, wanted)


def test_eigenvalues_are_in_range_and_the_first_is_zero():
    z = torch.randn(3, 20, 4, dtype=torch.float64)
    for graph in ("knn", "heat"):
        d, heat = squared_distances(z, "median")
        weights = heat.neg().exp() if graph == "heat" else neighbor_graph(d, heat, 4)
        values = torch.linalg.eigvalsh(normalized_laplacian(weights))
        close(values[:, 0], z.new_zeros(3))
        assert (values < 2 + 1e-9).all()


def test_the_soft_graph_is_that_of_the_paper():
    logits = torch.randn(8, 8, dtype=torch.float64).fill_diagonal_(-torch.inf)
    soft = soft_neighbors(logits, 3)
    close(soft, naive_soft(logits, 3))
    close(soft.sum(-1), torch.full((8,), 3.0, dtype=torch.float64))
    assert (soft.diagonal() == 0).all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_the_gradient_of_the_soft_graph(scale):
    diagonal = torch.full((5,), -torch.inf, dtype=torch.float64).diag_embed()
    logits = scale * torch.randn(5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: soft_neighbors(x + diagonal.nan_to_num(nan=0), 3),
        logits.requires_grad_(),
    )


def test_the_soft_graph_where_one_neighbour_takes_all():
    """1 - w is 0 in floating point; the gradient stays finite and right."""
    logits = torch.tensor([[0.0, -50.0, -60.0, -55.0]], dtype=torch.float64, requires_grad=True)
    soft = soft_neighbors(logits, 2)
    assert soft.isfinite().all()
    close(soft.sum(), torch.tensor(2.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: soft_neighbors(x, 2), logits)
    far = (1e6 * logits.detach()).float().requires_grad_()
    soft_neighbors(far, 3)[0, 1].backward()
    assert far.grad.isfinite().all()
