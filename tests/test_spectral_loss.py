"""The spectral gap of neighbour graphs: values, both solvers, and what carries the gradient."""

import pytest
import torch
from scipy.sparse import csgraph
from sklearn.neighbors import kneighbors_graph

from relreps import SpectralGapLoss
from relreps._core import eigen
from relreps.spectral_loss import spectral_gap
from tests._data import naive_soft

close = torch.testing.assert_close
GRAPHS = ("knn", "heat")


def blobs(classes=4, size=10, distance=3.0, width=6, dtype=torch.float64):
    centres = distance * torch.randn(classes, width, dtype=dtype)
    labels = torch.arange(classes).repeat_interleave(size)
    return centres[labels] + torch.randn(classes * size, width, dtype=dtype), labels


def cliques(classes, size):
    """Far apart groups of equal points: with k = size - 1 each is a clique."""
    z = torch.arange(classes, dtype=torch.float64).repeat_interleave(size)[:, None]
    return z, z[:, 0].long()


def oracle(z, components, k):
    """The published formula, by scikit-learn and SciPy."""
    graph = kneighbors_graph(z.numpy(), k).toarray()
    laplacian = csgraph.laplacian((graph + graph.T > 0).astype(float), normed=True)
    values = torch.linalg.eigvalsh(torch.from_numpy(laplacian))
    return values[:components].sum() - values[components]


@pytest.mark.parametrize(("n", "components", "k"), [(12, 1, 1), (30, 3, 4), (50, 7, 10), (9, 8, 8)])
def test_values_are_those_of_scikit_learn_and_scipy(n, components, k):
    z = torch.randn(n, 5, dtype=torch.float64)
    close(spectral_gap(z, components, k), oracle(z, components, k))


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("solver", ["dense", "partial"])
def test_cliques_have_the_value_of_the_formula(size, solver):
    z, labels = cliques(5, size)
    loss = SpectralGapLoss(k=size - 1, solver=solver)
    wanted = torch.tensor(-size / (size - 1), dtype=torch.float64)
    close(loss(z, labels), wanted)
    close(SpectralGapLoss(k=size - 1, components=5, solver=solver)(z), wanted)


def test_the_offset_of_the_paper_asks_for_one_part_more():
    z, labels = cliques(5, 8)
    loss = SpectralGapLoss(k=7, paper_offset=True)
    close(loss(z, labels), z.new_zeros(()))  # six parts wanted and not there
    z, _ = cliques(6, 8)
    close(SpectralGapLoss(k=7, components=5, paper_offset=True)(z), z.new_tensor(-8 / 7))
    z = torch.randn(30, 5, dtype=torch.float64)
    close(spectral_gap(z, 3, 4, paper_offset=True), oracle(z, 4, 4))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_nearest_are_the_nearest_in_any_unit(scale):
    """Also where all distances are nothing, or too long, in that of the temperature."""
    z, labels = blobs(dtype=torch.float32)
    loss = SpectralGapLoss(k=5, temperature=1.0)
    close(loss(scale * z, labels), loss(z, labels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("graph", GRAPHS)
def test_invariances(graph):
    z, labels = blobs()
    loss = SpectralGapLoss(k=5, graph=graph)
    value = loss(z, labels)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    order = torch.randperm(len(z))
    close(loss(z @ turn + 100, labels), value)
    close(loss(z[order], labels[order]), value)
    for scale in (1e-30, 1e-3, 1e3, 1e30):
        close(loss(scale * z, labels), value)
        close(loss((scale * z).float(), labels), value.float(), rtol=1e-4, atol=1e-4)
    stretched = z * torch.tensor([9.0, 1, 1, 1, 1, 1])
    assert (loss(stretched, labels) - value).abs() > 1e-2
    fixed = SpectralGapLoss(k=5, graph=graph, temperature=7.0)
    assert (fixed(3 * z, labels) - fixed(z, labels)).abs() > 1e-2 or graph == "knn"


def test_the_scale_does_not_change_the_direction_of_the_gradient():
    z, labels = blobs()

    def gradient(scale):
        points = (scale * z).requires_grad_()
        return torch.autograd.grad(SpectralGapLoss(k=5)(points, labels), points)[0]

    close(gradient(1e3) * 1e3, gradient(1.0))
    close(gradient(1e-9) * 1e-9, gradient(1.0))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("classes", "size"), [(4, 15), (10, 12), (2, 40)])
def test_partial_and_dense_agree(graph, classes, size):
    for distance in (0.5, 3.0, 30.0):
        z, labels = blobs(classes, size, distance)
        z.requires_grad_()
        answers = []
        for solver in ("dense", "partial"):
            value = SpectralGapLoss(k=6, graph=graph, solver=solver)(z, labels)
            answers.append((value, torch.autograd.grad(value, z)[0]))
        (dense, by_dense), (partial, by_partial) = answers
        close(partial, dense, rtol=1e-5, atol=1e-5)
        assert (by_partial - by_dense).norm() <= 1e-4 * by_dense.norm() + 1e-12


def test_the_partial_solver_finds_every_zero():
    """Twenty components, of which Lanczos' method with one start vector would miss most."""
    z, labels = cliques(20, 26)
    z = z + 1e-3 * torch.randn(520, 1, dtype=torch.float64)
    value = spectral_gap(z, 20, 8, solver="partial")
    close(value, spectral_gap(z, 20, 8, solver="dense"))
    close(SpectralGapLoss(k=8)(z, labels), value)


def test_auto_is_partial_where_it_pays(monkeypatch):
    called = []
    solve = eigen.smallest_eigenpairs
    monkeypatch.setattr(
        eigen, "smallest_eigenpairs", lambda *given: called.append(len(given[0])) or solve(*given)
    )
    z = torch.randn(512, 3)
    spectral_gap(z, 5)
    spectral_gap(z[:511], 5)
    spectral_gap(z, 200)
    spectral_gap(z, 5, graph="heat")
    spectral_gap(z, 5, solver="dense")
    assert called == [512]


def test_a_solver_that_does_not_settle_falls_back(monkeypatch):
    monkeypatch.setattr(eigen, "_RESIDUAL", 0.0)
    z, _ = blobs()
    close(spectral_gap(z, 4, 5, solver="partial"), spectral_gap(z, 4, 5, solver="dense"))


@pytest.mark.parametrize("solver", ["auto", "dense", "partial"])
def test_no_clouds(solver):
    assert spectral_gap(torch.randn(0, 600, 3), 3, 5, solver=solver).shape == (0,)


def test_leading_axes_are_clouds():
    z = torch.randn(2, 3, 30, 4, dtype=torch.float64, requires_grad=True)
    for solver in ("dense", "partial"):
        value = spectral_gap(z, 2, 5, solver=solver)
        assert value.shape == (2, 3)
        close(value[1, 2], spectral_gap(z[1, 2], 2, 5))
        (grad,) = torch.autograd.grad(value.sum(), z)
        one = z[1, 2].detach().requires_grad_()
        close(grad[1, 2], torch.autograd.grad(spectral_gap(one, 2, 5), one)[0])


# Gradients


def test_the_gradient_is_that_of_the_soft_graph_at_the_hard_one():
    z, labels = blobs(3, 6, 1.0)
    z.requires_grad_()
    d = torch.cdist(z, z).square()
    n = len(z)
    eye = torch.eye(n, dtype=torch.bool)
    hard = kneighbors_graph(z.detach().numpy(), 4).toarray()
    hard = torch.from_numpy((hard + hard.T > 0).astype(float)).requires_grad_()
    degree = hard.sum(-1)
    laplacian = torch.eye(n) - hard / (degree[:, None] * degree).sqrt()
    values = torch.linalg.eigvalsh((laplacian + laplacian.mT) / 2)
    (slope,) = torch.autograd.grad(values[:3].sum() - values[3], hard)
    soft = naive_soft((-d / 5.0).masked_fill(eye, -torch.inf), 4)
    wanted = torch.autograd.grad(((soft + soft.mT) * (slope + slope.mT) / 2).sum(), z)[0]
    loss = SpectralGapLoss(k=4, temperature=5.0, solver="dense")(z, labels)
    close(torch.autograd.grad(loss, z)[0], wanted)


@pytest.mark.parametrize("solver", ["dense", "partial"])
def test_the_gradient_of_the_heat_graph(solver):
    """At a random cloud, and where points coincide."""
    z = torch.randn(9, 3, dtype=torch.float64)
    for cloud in (z, torch.cat((z[:4], z[:4]))):
        assert torch.autograd.gradcheck(
            lambda x: spectral_gap(x, 2, graph="heat", temperature=2.0, solver=solver),
            cloud.clone().requires_grad_(),
        )


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_gradient_penalty(graph):
    z, labels = blobs(classes=3, size=6, distance=9.0)  # in three parts: as many zeros
    loss = SpectralGapLoss(k=3, graph=graph, solver="dense")
    z.requires_grad_()
    (slope,) = torch.autograd.grad(loss(z, labels), z, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), z)
    assert second.isfinite().all()
    assert second.any()
    by_func = torch.func.grad(lambda z: torch.func.grad(loss)(z, labels).square().sum())
    close(by_func(z.detach()), second)


def test_the_second_derivative_of_the_heat_graph():
    z = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda z: spectral_gap(z, 2, graph="heat", temperature=1.5, k=3), z
    )


@pytest.mark.parametrize("graph", GRAPHS)
def test_ties_do_not_depend_on_the_order_of_the_points(graph):
    z = torch.randint(0, 2, (40, 5), generator=torch.Generator().manual_seed(0)).double()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    loss = SpectralGapLoss(k=5, components=3, graph=graph)
    close(loss(z[order]), loss(z))


@pytest.mark.parametrize("graph", GRAPHS)
def test_nan_where_it_cannot_be_seen_is_nan(graph):
    z = torch.randn(2, 12, 3)
    z[1, 4, 2] = torch.nan
    torch._dynamo.reset()
    loss = torch.compile(
        SpectralGapLoss(k=3, components=2, graph=graph), fullgraph=True, backend="eager"
    )
    assert loss(z).isnan().tolist() == [False, True]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_outliers_and_lattices_have_finite_gradients(graph, dtype):
    lattice = torch.cartesian_prod(torch.arange(4), torch.arange(4)).to(dtype)
    outlier = torch.cat((torch.randn(12, 2, dtype=dtype), torch.full((1, 2), 1e12, dtype=dtype)))
    near = torch.cat((torch.zeros(8, 2, dtype=dtype), 1e-20 * outlier))
    for z in (lattice, torch.zeros(6, 2, dtype=dtype), lattice.repeat(2, 1), outlier, near):
        z.requires_grad_()
        value = spectral_gap(z, 2, 3, graph=graph)
        (grad,) = torch.autograd.grad(value, z)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_descent_parts_the_classes():
    """Blobs that touch fall into as many components as there are classes."""
    z, labels = blobs(3, 12, 1.5, width=4)
    z.requires_grad_()
    loss = SpectralGapLoss(k=5)
    before = loss(z, labels).item()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(z, labels).backward()
        optimizer.step()
    assert loss(z, labels).item() < min(before, 0) - 0.2
    graph = kneighbors_graph(z.detach().numpy(), 5)
    assert csgraph.connected_components(graph, directed=False)[0] == 3


# Where it runs


@pytest.mark.parametrize("graph", GRAPHS)
def test_meta_and_compile(graph):
    z, labels = blobs(dtype=torch.float32)
    z.requires_grad_()
    loss = SpectralGapLoss(k=5, graph=graph)
    assert loss(z.to("meta"), labels.to("meta")).shape == ()
    assert spectral_gap(torch.empty(2, 500, 3, device="meta"), 4, graph=graph).shape == (2,)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    close(compiled(z, labels), loss(z, labels))
    (grad,) = torch.autograd.grad(compiled(z, labels), z)
    close(grad, torch.autograd.grad(loss(z, labels), z)[0])


def test_too_many_components_are_nan_where_they_cannot_be_seen():
    torch._dynamo.reset()
    compiled = torch.compile(SpectralGapLoss(k=2), fullgraph=True, backend="eager")
    assert compiled(torch.randn(6, 2), torch.arange(6)).isnan()
    for components in (-3, 0, 6):
        gap = torch.vmap(lambda g: spectral_gap(torch.ones(6, 2), g, 2))
        assert gap(torch.tensor([components])).isnan()
    gap = torch.vmap(lambda g: spectral_gap(torch.eye(600), g, 2))  # where the partial solver pays
    assert gap(torch.tensor([3])).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_autocast(dtype):
    z, labels = blobs(dtype=torch.float32)
    loss = SpectralGapLoss(k=5, graph="heat")
    value = loss(z.to(dtype), labels)
    assert value.dtype == dtype
    close(value.float(), loss(z, labels), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(loss(z, labels), loss(z.double(), labels).float())


@pytest.mark.parametrize(
    ("options", "arguments", "error", "message"),
    [
        ({"k": 6}, (torch.ones(6, 2), torch.ones(6).long()), ValueError, "`k` .* 5 other points"),
        ({"k": 1}, (torch.ones(1, 2), torch.ones(1).long()), ValueError, "`k` .* 0 other points"),
        ({"k": 2}, (torch.ones(6, 2),), ValueError, "`labels` must be given"),
        ({"k": 2}, (torch.ones(6, 2), torch.arange(6)), ValueError, "`components` .* got 6 for 6"),
        ({"k": 2, "components": 6}, (torch.ones(6, 2),), ValueError, "`components` .* got 6 for 6"),
        (
            {"k": 2, "components": 5, "paper_offset": True},
            (torch.ones(6, 2),),
            ValueError,
            "`components` .* one more",
        ),
        ({"k": 2}, (torch.ones(6, 2), torch.ones(5).long()), ValueError, "`labels`"),
        ({"k": 2}, (torch.ones(6, 2), torch.ones(6)), TypeError, "`labels`"),
        ({"k": 2}, (torch.ones(2, 6, 2), torch.ones(6).long()), ValueError, r"shape \(n, D\)"),
        ({"k": 2, "components": 2}, (torch.ones(6),), ValueError, "`z` must have shape"),
        ({"k": 2, "components": 2}, (torch.ones(6, 2).long(),), TypeError, "`z`"),
        ({"k": 2, "components": 2}, (torch.ones(6, 2) / 0,), ValueError, "`z` must be finite"),
        (
            {"k": 2, "components": 2, "solver": "partial"},
            (torch.ones(6, 2, device="meta"),),
            ValueError,
            "`solver` 'partial' runs on the CPU",
        ),
    ],
)
def test_bad_input(options, arguments, error, message):
    with pytest.raises(error, match=message):
        SpectralGapLoss(**options)(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "`k`"),
        ({"components": 0}, "`components`"),
        ({"graph": "kn"}, "`graph` .* 'knn'"),
        ({"solver": "lanczos"}, "`solver`"),
        ({"temperature": "mean"}, "`temperature`"),
        ({"temperature": 0.0}, "`temperature`"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SpectralGapLoss(**options)


def test_a_tensor_of_components_is_a_scalar():
    for components in (torch.tensor([2]), torch.tensor(2.0), torch.tensor(True)):
        with pytest.raises(ValueError, match="`components` must be an int or a scalar tensor"):
            spectral_gap(torch.ones(6, 2), components, 2)
    for components in (-3, 0):
        with pytest.raises(ValueError, match=f"`components` must be at least 1, got {components}"):
            spectral_gap(torch.ones(6, 2), torch.tensor(components), 2)


def test_repr_names_the_options():
    assert str(SpectralGapLoss(3, components=2)).startswith("SpectralGapLoss(k=3, components=2, ")
