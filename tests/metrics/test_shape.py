"""Shape distances against SciPy's Procrustes analysis, and what makes them metrics."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize, spatial

from relreps import NumericalWarning
from relreps.metrics import linear_cka, mean_cca, procrustes_distance, shape_distance
from tests._data import orthogonal, related

close = torch.testing.assert_close
few_rows = pytest.mark.filterwarnings("ignore:There are .* rows for")
each_alpha = pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
SHAPES = [(40, 6, 6), (40, 6, 4), (5, 9, 7), (5, 9, 3), (7, 3, 12)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def spaces(n=40, d=6, e=6, dtype=torch.float64):
    x, y = related(n, d, e, dtype)
    return 3 * x + 5, y


def normalized(x):
    x = x.numpy() - x.numpy().mean(0)
    return x / np.linalg.norm(x)


def evened(x, alpha):
    """Partial whitening by a decomposition, in the scale that is stated in the documentation."""
    u, s, vh = np.linalg.svd(normalized(x), full_matrices=False)
    live = s > 1e-10
    scales = alpha * s + (1 - alpha) * live / math.sqrt(live.sum())
    return (u * scales) @ vh


def angle(a, b):
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(z, ((0, 0), (0, width - z.shape[1]))) for z in (a, b))
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return math.acos(min(1, np.linalg.svd(a.T @ b, compute_uv=False).sum() / norm))


@each_shape
def test_procrustes_is_the_definition(shape):
    x, y = spaces(*shape)
    a, b = normalized(x), normalized(y)
    wanted = 2 - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum()
    assert float(procrustes_distance(x, y)) == pytest.approx(wanted, abs=1e-12)


def test_procrustes_is_that_of_scipy():
    """SciPy also fits the scale of one side, and reports what is left: 1 - cos^2."""
    x, y = spaces()
    cosine = 1 - float(procrustes_distance(x, y)) / 2
    assert 1 - cosine**2 == pytest.approx(spatial.procrustes(x.numpy(), y.numpy())[2], abs=1e-12)


@few_rows
@each_alpha
@each_shape
def test_shape_distance_is_the_definition(shape, alpha):
    x, y = spaces(*shape)
    wanted = angle(evened(x, alpha), evened(y, alpha))
    assert float(shape_distance(x, y, alpha)) == pytest.approx(wanted, abs=1e-7)


def test_partial_whitening_is_that_of_the_paper_in_its_scale():
    """There the scale of a space decides how far it is whitened; here it does not."""
    x, y = spaces()
    alpha = 0.4

    def paper(z):
        z = normalized(z) * math.sqrt(z.shape[1])  # full rank
        values, v = np.linalg.eigh(z.T @ z)
        return z @ (v * (alpha + (1 - alpha) / np.sqrt(values))) @ v.T

    wanted = angle(paper(x), paper(y))
    assert float(shape_distance(x, y, alpha)) == pytest.approx(wanted, abs=1e-10)


def test_ends_of_alpha():
    x, y = spaces()
    close(shape_distance(x, y, 0).cos(), mean_cca(x, y))
    close(2 - 2 * shape_distance(x, y, 1).cos(), procrustes_distance(x, y))


@few_rows
@each_alpha
def test_triangle_inequality_between_any_widths(alpha):
    for _ in range(10):
        trio = [torch.randn(12, width, dtype=torch.float64) for width in (3, 6, 6)]
        trio[2][:, :3] = trio[0] + 0.2 * trio[1][:, :3]
        for a, b, c in itertools.permutations(trio):
            direct = shape_distance(a, c, alpha)
            assert direct <= shape_distance(a, b, alpha) + shape_distance(b, c, alpha) + 1e-9


def test_the_triangle_inequality_can_be_tight():
    """Three points on a great circle, one between the others, with no rotation to gain from."""
    a = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    b = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))
    x, y = (torch.cat((m, -m)) for m in (a, a + b))
    z = torch.cat((a + 3 * b, -a - 3 * b))
    assert float(shape_distance(x, y)) == pytest.approx(math.pi / 4)
    direct = float(shape_distance(x, z))
    assert direct == pytest.approx(math.atan(3))
    assert float(shape_distance(x, y) + shape_distance(y, z)) == pytest.approx(direct, rel=1e-12)


@each_alpha
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_shapes_are_zero_apart(alpha, dtype):
    x, _ = spaces(dtype=dtype)
    turned = x @ orthogonal(6, dtype=dtype) * 7 + 100
    assert shape_distance(x, x, alpha) == 0
    assert float(procrustes_distance(x, x)) == pytest.approx(0, abs=1e-14)
    assert shape_distance(x, turned, alpha) < (1e-6 if dtype == torch.float64 else 1e-3)


def lattice():
    """A space whose singular values all coincide: the corners of a cube."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)


@few_rows
@each_alpha
@pytest.mark.parametrize(
    "pair",
    [
        lambda: (torch.randn(8, 3).double(), torch.randn(8, 4).double()),
        lambda: (lattice(), torch.cat((-lattice(), lattice().prod(1, keepdim=True)), 1)),
        lambda: (lattice(), torch.randn(8, 3).double()),
        lambda: (torch.randn(4, 6).double(), torch.randn(4, 7).double()),
        lambda: (torch.randn(6, 3).double()[[0, 0, 1, 2, 3, 4]], torch.randn(6, 3).double()),
    ],
    ids=["random", "repeated", "cube", "wide", "copies"],
)
def test_gradients(pair, alpha):
    x, y = pair()
    assert torch.autograd.gradcheck(
        lambda a, b: shape_distance(a, b, alpha), (x.requires_grad_(), y.requires_grad_())
    )
    assert torch.autograd.gradcheck(procrustes_distance, (x, y))


@each_alpha
@pytest.mark.parametrize("lost", [1, 3])
def test_gradients_are_finite_where_a_direction_is_lost(alpha, lost):
    x, y = spaces(10, 4, 4)
    x[:, :lost] = 2
    inputs = x.requires_grad_(), y.requires_grad_()
    for gradient in torch.autograd.grad(shape_distance(x, y, alpha), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("measure", [procrustes_distance, shape_distance])
def test_second_derivatives_are_refused(measure):
    x, y = spaces()
    value = measure(x.requires_grad_(), y)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{measure.__name__} has no second derivative"):
        gradient.square().sum().backward()


def test_too_few_rows_agree_whatever_the_data():
    with pytest.warns(NumericalWarning, match="10 rows for 9 and 9 directions: 9 can") as caught:
        assert shape_distance(torch.randn(10, 40), torch.randn(10, 40), 0) == 0
    assert {warning.filename for warning in caught} == {__file__}


@each_alpha
def test_gradient_at_equal_shapes_is_zero(alpha):
    x, _ = spaces()
    y = x.clone().requires_grad_()
    for value in (shape_distance(x, y, alpha), procrustes_distance(x, y)):
        (gradient,) = torch.autograd.grad(value, y)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e-7


def test_it_is_the_best_rotation():
    """No rotation found by a search does better, and one does as well."""
    x, y = spaces(20, 2, 2)
    a, b = normalized(x), normalized(y)

    def distance(t, flip):
        q = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) @ np.diag([1, flip])
        return ((a - b @ q) ** 2).sum()

    searched = min(
        optimize.minimize_scalar(distance, bounds=(s, s + 2), args=(flip,), method="bounded").fun
        for flip in (1, -1)
        for s in range(0, 6)
    )
    assert float(procrustes_distance(x, y)) == pytest.approx(searched, abs=1e-8)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by dynamo
@pytest.mark.parametrize("measure", [procrustes_distance, lambda x, y: shape_distance(x, y, 0.5)])
def test_compiles_in_one_graph_and_runs_on_meta(measure):
    x, y = spaces(dtype=torch.float32)
    torch._dynamo.reset()
    close(torch.compile(measure, fullgraph=True, backend="eager")(x, y), measure(x, y))
    assert measure(x.to("meta"), y.to("meta")).shape == ()


def test_widths_far_above_the_rows_cost_no_matrix_of_widths():
    """40 000 features squared would not fit."""
    x = torch.randn(6, 40_000)
    assert 0 < procrustes_distance(x, x.roll(1, 0)) < 2
    assert linear_cka(x, x, debiased=True) == pytest.approx(1)


def test_bad_alpha():
    with pytest.raises(ValueError, match=r"`alpha` must be in \[0, 1\], got 1.5"):
        shape_distance(*spaces(), 1.5)
