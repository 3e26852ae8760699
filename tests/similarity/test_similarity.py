"""Each similarity against SciPy or a plain formula; gradients at ugly points; inverses."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import relreps
from relreps import similarity as sim
from relreps.similarity import SIMILARITIES, Basis, Rescaled

NAMES = list(SIMILARITIES)
ORACLES = {
    "cosine": lambda x, a: 1 - cdist(x, a, "cosine"),
    "angular": lambda x, a: np.arccos(1 - cdist(x, a, "cosine")) / math.pi,
    "inner": lambda x, a: x @ a.T,
    "euclidean": lambda x, a: cdist(x, a),
    "l1": lambda x, a: cdist(x, a, "cityblock"),
    "linf": lambda x, a: cdist(x, a, "chebyshev"),
    "basis": lambda x, a: np.linalg.lstsq(a.T, x.T, rcond=None)[0].T,
}


def rows(n, d=6):
    return torch.randn(n, d, dtype=torch.float64)


@pytest.mark.parametrize("anchors", [4, 6, 40])
@pytest.mark.parametrize("name", NAMES)
def test_oracle(name, anchors):
    x, a = rows(30), rows(anchors)
    wanted = torch.from_numpy(ORACLES[name](x.numpy(), a.numpy()))
    torch.testing.assert_close(getattr(sim, name)(x, a), wanted, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_function_and_module_agree(name):
    x, a = rows(7), rows(9)
    module = relreps.RelativeProjection.from_anchors(a, name)
    torch.testing.assert_close(module(x), relreps.relative_projection(x, a, name))
    torch.testing.assert_close(module(x), module.project(x, a))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "linf"])
def test_gradients_reach_both_sides(name):
    x, a = rows(3, 4).requires_grad_(), rows(7, 4).requires_grad_()
    assert torch.autograd.gradcheck(getattr(sim, name), (x, a))


@pytest.mark.parametrize("name", ["cosine", "angular", "inner", "euclidean", "basis"])
def test_second_derivatives(name):
    x = rows(3, 4).requires_grad_()
    a = rows(7, 4)
    assert torch.autograd.gradgradcheck(lambda x: getattr(sim, name)(x, a), (x,))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ugly_rows(name, dtype):
    """A zero row, an anchor itself, its opposite, duplicate anchors: finite, gradient too."""
    a = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0]], dtype=dtype)
    x = torch.stack((torch.zeros(2, dtype=dtype), a[0], -a[0])).requires_grad_()
    code = getattr(sim, name)(x, a)
    code.float().square().sum().backward()
    assert code.isfinite().all()
    assert x.grad.isfinite().all()
    if name in ("cosine", "angular"):
        assert torch.equal(x.grad[0], torch.zeros(2, dtype=dtype))


def test_cosine_stays_in_range_and_finds_its_own():
    a = torch.randn(200, 257)
    code = sim.cosine(a, a)
    assert code.abs().max() <= 1 + 1e-6
    assert torch.equal(code.argmax(1), torch.arange(200))
    assert sim.angular(a, a).isfinite().all()


def test_extreme_lengths_do_not_matter():
    x, a = torch.randn(5, 8), torch.randn(4, 8)
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(sim.cosine(x * scale, a * scale), sim.cosine(x, a))


def test_basis_reconstructs_and_shares_weight_between_duplicates():
    a = rows(20)
    x = rows(5)
    torch.testing.assert_close(sim.basis(x, a) @ a, x)
    twice = torch.cat((a[:6], a[:1]))
    code = sim.basis(x, twice)
    torch.testing.assert_close(code[:, 0], code[:, 6])


def test_ridge_goes_to_the_pseudo_inverse():
    x, a = rows(5), rows(4)
    torch.testing.assert_close(Basis(ridge=1e-12)(x, a), sim.basis(x, a), atol=1e-8, rtol=1e-8)
    assert Basis(ridge=1.0)(x, a).norm() < sim.basis(x, a).norm()


def test_float32_anchors_with_a_dead_direction():
    """What rounding leaves of a direction is not inverted."""
    a = torch.randn(50, 10) @ torch.randn(10, 20)
    assert sim.basis(torch.randn(5, 20), a).abs().max() < 10


@pytest.mark.parametrize("name", ["euclidean", "l1", "linf"])
def test_rescaled(name):
    x, a = rows(5), rows(9)
    code = Rescaled(name)(x, a)
    between = torch.from_numpy(ORACLES[name](a.numpy(), a.numpy()))
    median = between[torch.triu_indices(9, 9, 1).unbind()].median()
    torch.testing.assert_close(code, getattr(sim, name)(x, a) / median)


@pytest.mark.parametrize(
    "similarity",
    ["cosine", "angular", "inner", "euclidean", "basis", Rescaled("euclidean")],
    ids=str,
)
@pytest.mark.parametrize("pre", [None, relreps.Center, relreps.StandardScale, relreps.Whiten])
def test_inverse(similarity, pre):
    a, x = rows(9), rows(5)
    module = (
        relreps.RelativeProjection(6, 9, similarity, pre=pre and pre(6)).double().set_anchors(a)
    )
    back = module.inverse(module(x))
    if similarity in ("cosine", "angular"):
        before, after = (x, back) if pre is None else (module.pre(x), module.pre(back))
        torch.testing.assert_close(sim.cosine(before, after).diagonal(), torch.ones(5).double())
        reference = a if pre is None else module.pre(a)
        torch.testing.assert_close(after.norm(dim=-1), reference.norm(dim=-1).mean().expand(5))
    else:
        torch.testing.assert_close(back, x)


@pytest.mark.parametrize(
    ("similarity", "anchors", "message"),
    [
        ("l1", 20, "no inverse"),
        ("linf", 20, "no inverse"),
        (sim.Plain(sim.inner), 20, "no inverse"),
        ("inner", 5, "at least 6 anchors in 6 dimensions, got 5"),
        ("euclidean", 6, "at least 7 anchors"),
        ("cosine", 5, "at least 6 anchors"),
        ("basis", 5, "at least 6 anchors"),
        (Basis(ridge=0.1), 20, "a ridge shortens"),
        (sim.Parseval(), 5, "at least 6 anchors"),
    ],
)
def test_no_inverse(similarity, anchors, message):
    module = relreps.RelativeProjection.from_anchors(rows(anchors), similarity)
    with pytest.raises(ValueError, match=message):
        module.inverse(rows(2, anchors))


def test_no_inverse_through_a_post_or_a_unit_norm():
    after = relreps.RelativeProjection(6, 6, "inner", post=torch.nn.ReLU()).double()
    with pytest.raises(ValueError, match="`post` has no inverse"):
        after.set_anchors(rows(6)).inverse(rows(2))
    unit = relreps.RelativeProjection(6, 6, "inner", pre=relreps.UnitNorm()).double()
    with pytest.raises(ValueError, match=r"UnitNorm\(\) has no inverse"):
        unit.set_anchors(rows(6)).inverse(rows(2))


@pytest.mark.parametrize(
    ("x", "anchors", "similarity", "error", "message"),
    [
        (
            torch.ones(2, 3),
            torch.ones(2, 4),
            "cosine",
            ValueError,
            r"shape \(..., 4\), got \(2, 3\)",
        ),
        (torch.ones(2, 3).int(), torch.ones(2, 3), "cosine", TypeError, "`x` must be a floating"),
        (torch.ones(2, 3), torch.ones(2, 3).int(), "cosine", TypeError, "`anchors` must be a fl"),
        ([1.0], torch.ones(2, 3), "cosine", TypeError, "`x` must be a torch.Tensor, got list"),
        (torch.ones(2, 3), torch.ones(3), "cosine", ValueError, r"\(rows, features\), got \(3,\)"),
        (torch.ones(2, 3), torch.ones(0, 3), "cosine", ValueError, "at least 1 row"),
        (torch.ones(2, 3), torch.ones(2, 3), "cosin", ValueError, "Did you mean 'cosine'"),
        (torch.ones(2, 3), torch.ones(2, 3), lambda x, a: x, ValueError, r"return shape \(2, 2\)"),
    ],
)
def test_bad_input(x, anchors, similarity, error, message):
    with pytest.raises(error, match=message):
        relreps.relative_projection(x, anchors, similarity)


def test_bad_options():
    with pytest.raises(ValueError, match=r"`ridge` must be in \[0, inf\], got -1.0"):
        Basis(ridge=-1.0)
    with pytest.raises(TypeError, match="must be an object, got the class Cosine"):
        relreps.RelativeProjection(3, 2, sim.Cosine)
    with pytest.raises(TypeError, match="must return a tensor, got float"):
        relreps.relative_projection(torch.ones(2, 3), torch.ones(2, 3), lambda x, a: 1.0)
    for anchors in (torch.ones(1, 3), torch.ones(4, 3)):
        with pytest.raises(ValueError, match="at least two different anchors"):
            relreps.RelativeProjection.from_anchors(anchors, Rescaled("l1"))


def test_a_similarity_of_ones_own():
    class Squared(sim.Similarity):
        def prepare(self, anchors):
            return (anchors.square(),)

        def compare(self, x, *prepared):
            return x @ prepared[0].mT

    module = relreps.RelativeProjection.from_anchors(torch.eye(3), Squared())
    torch.testing.assert_close(module(torch.ones(2, 3)), torch.ones(2, 3))
    assert module.invariant_to == frozenset()


def test_objects_are_functions():
    x, a = rows(5), rows(9)
    for name, similarity in SIMILARITIES.items():
        assert similarity is getattr(sim, name)
        code = similarity(x, a)
        assert torch.equal(code, relreps.relative_projection(x, a, name))
        assert torch.equal(code, relreps.relative_projection(x, a, similarity))
        for other in (pickle.loads(pickle.dumps(similarity)), copy.deepcopy(similarity)):
            assert other == similarity
            assert torch.equal(other(x, a), code)
        assert f">>> {name}(torch" in similarity.__doc__


def test_a_similarity_is_resolved_once(monkeypatch):
    """A name, an object, a callable: looked up by the constructor, and not by a call."""
    x, a = rows(5), rows(9)
    given = ("l1", sim.l1, lambda x, anchors: sim.l1(x, anchors))
    modules = [relreps.RelativeProjection(6, 9, s).double().set_anchors(a) for s in given]
    modules.append(relreps.RelativeProjection(6, 9, Rescaled("l1")).double().set_anchors(a))
    monkeypatch.setattr(sim.base, "resolve", None)
    monkeypatch.setattr(sim.base, "SIMILARITIES", None)
    for module, similarity in zip(modules, given, strict=False):
        assert module.similarity is similarity
        torch.testing.assert_close(module(x), sim.l1(x, a))
        torch.testing.assert_close(module.project(x, a), sim.l1(x, a))
        module.set_anchors(a)
    modules[-1](x)


def test_a_module_as_similarity_is_a_child_once():
    graph = relreps.GraphGeodesic(torch.randn(9, 3), 2)
    projection = relreps.RelativeProjection(3, 4, graph).set_anchors(torch.randn(4, 3))
    names = {"anchors", "configuration", "fitted", "similarity.reference"}
    assert set(projection.state_dict()) == names
    other = copy.deepcopy(projection).double()
    assert other.similarity.reference.dtype == torch.float64
    x = torch.randn(2, 3)
    torch.testing.assert_close(other(x.double()), projection(x).double(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="`pre` cannot be combined with Rescaled"):
        relreps.RelativeProjection(3, 4, Rescaled(graph), pre=relreps.Center(3))


@pytest.mark.parametrize("anchors", [3, 6, 20])
def test_ridge_is_the_penalised_least_squares(anchors):
    """The same from the side of the anchors and from that of the features."""
    x, a = rows(5), rows(anchors)
    penalty = 0.3 * a.square().sum() / anchors
    wide = torch.cat((a, penalty.sqrt() * torch.eye(anchors).double()), 1)
    padded = torch.nn.functional.pad(x, (0, anchors))
    wanted = torch.linalg.lstsq(wide.mT, padded.mT).solution.mT
    torch.testing.assert_close(Basis(ridge=0.3)(x, a), wanted)


def test_a_ridge_refuses_zero_anchors_by_name():
    with pytest.raises(ValueError, match="`anchors` must not be zero, nor dependent"):
        Basis(ridge=0.1)(rows(2), torch.zeros(3, 6).double())


def test_tensors_without_names_are_numbered():
    class Twice(sim.Similarity):
        def prepare(self, anchors):
            return anchors, 2 * anchors

        def compare(self, x, *prepared):
            return x @ (prepared[1] - prepared[0]).mT

    module = relreps.RelativeProjection.from_anchors(torch.eye(3), Twice())
    assert {"prepared_0", "prepared_1"} < dict(module.named_buffers()).keys()
    torch.testing.assert_close(module(torch.ones(2, 3)), torch.ones(2, 3))


def clumps(seed=0):
    """Two clumps of rows, as far apart as 7000 times their size, and rows near to them."""
    generator = torch.Generator().manual_seed(seed)
    anchors = torch.randn(300, 16, generator=generator)
    anchors[150:] += 1e4
    return anchors + 0.1 * torch.randn(300, 16, generator=generator), anchors


def test_near_rows_in_spread_data_by_differences():
    """The value, the nearest anchor, and the gradient, which a product of float32 does not have."""
    x, a = clumps()
    wanted = torch.cdist(x.double(), a.double(), compute_mode="donot_use_mm_for_euclid_dist")
    exact = sim.Euclidean(exact=True)
    torch.testing.assert_close(exact(x, a).double(), wanted, rtol=2e-2, atol=0)
    assert torch.equal(exact(x, a).argmin(1), wanted.argmin(1))
    x = x.requires_grad_()
    exact(x, a).diagonal().sum().backward()
    unit = torch.nn.functional.normalize((x.detach() - a).double(), dim=-1)
    torch.testing.assert_close(x.grad.double(), unit, rtol=0, atol=2e-2)
    y = torch.randn(5, 16) + 1
    torch.testing.assert_close(exact(y, a[:9]), sim.euclidean(y, a[:9]))


def test_anchors_in_clumps_are_warned_of():
    _, a = clumps()
    for name in ("euclidean", Rescaled("euclidean")):
        with pytest.warns(relreps.NumericalWarning, match=r"Euclidean\(exact=True\)"):
            relreps.RelativeProjection.from_anchors(a, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, anchors in (
            (sim.Euclidean(exact=True), a),
            ("l1", a),
            ("euclidean", torch.randn(300, 700)),
            ("euclidean", torch.randn(40, 3).repeat(2, 1) + 1e3),  # copies
            ("euclidean", torch.randn(1, 3)),
        ):
            relreps.RelativeProjection.from_anchors(anchors, name)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize(
    "similarity",
    [n for n in NAMES if n != "inner"]
    + [sim.Euclidean(exact=True), Rescaled("euclidean"), Rescaled("l1"), sim.Parseval()],
    ids=str,
)
def test_any_unit(similarity, scale):
    """In float32 what float64 gives of the same numbers, and the gradient too."""
    x, a = ((rows(n) * scale).float() for n in (5, 9))
    got, wanted = (
        relreps.relative_projection(x.to(t).requires_grad_(), a.to(t), similarity)
        for t in (torch.float32, torch.float64)
    )
    size = float(wanted.detach().abs().max())
    torch.testing.assert_close(got.double() / size, wanted / size, rtol=0, atol=1e-5)
    one = relreps.relative_projection(x, a[:1], "euclidean").double()
    torch.testing.assert_close(one[:, 0], (x - a[0]).double().norm(dim=-1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "similarity", [*NAMES, Rescaled("linf"), sim.Euclidean(exact=True), sim.Parseval()], ids=str
)
def test_what_is_not_finite_comes_out_again(similarity, bad):
    x, a = rows(5), rows(9)
    x[1, 2] = bad
    for module in (
        relreps.RelativeProjection(6, 9, similarity).double().set_anchors(a),
        relreps.RelativeProjection(6, 9, similarity, pre=relreps.Center(6)).double().set_anchors(a),
    ):
        code = module(x)
        assert not code[1].isfinite().any()
        assert math.isinf(bad) or code[1].isnan().all()
        assert code[[0, 2, 3, 4]].isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("similarity", ["basis", sim.Parseval()], ids=str)
def test_anchors_that_are_not_finite_are_named(similarity, bad):
    """At the call, where nobody has looked at them before the decomposition."""
    with pytest.raises(ValueError, match="`anchors` must be finite"):
        relreps.relative_projection(rows(2), torch.full((5, 6), bad).double(), similarity)
