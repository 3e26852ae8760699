"""What is declared holds, what is not declared fails: for every module, on random data."""

import pytest
import torch
from torch import nn

import relreps
from relreps._core.invariance import TRANSFORMATIONS, closure
from relreps.similarity import Basis, Rescaled
from relreps.testing import (
    ACTIVATIONS,
    assert_invariant,
    assert_not_invariant,
    deviation,
    intertwiner,
    random_transformation,
)
from relreps.testing.intertwiners import symmetry_table
from relreps.testing.table import NORMALIZERS, ROWS, invariance_table, measure

D = 6


def mistakes(module, anchors):
    """Transformations for which the declaration of a module is wrong, with the change measured."""
    return {
        name: change
        for name, change in measure(module, anchors, D).items()
        if not (change < 1e-9 if name in module.invariant_to else change > 1e-6)
    }


def test_every_similarity_after_every_normaliser():
    entries = list(invariance_table())
    assert len(entries) == len(ROWS) * len(NORMALIZERS) * len(TRANSFORMATIONS)
    wrong = [e for e in entries if not (e.deviation < 1e-9 if e.declared else e.deviation > 1e-6)]
    assert not wrong


@pytest.mark.parametrize("anchors", [3, D, D + 1], ids="A={}".format)
@pytest.mark.parametrize("pre", ["none", "Center", "Whiten, shrunk"])
@pytest.mark.parametrize("similarity", ["basis", "Parseval", "basis, ridge"])
def test_few_anchors(similarity, pre, anchors):
    """Where the anchors do not span the space, or only just, less is declared."""
    rule = ROWS[similarity]
    module = relreps.RelativeProjection(D, anchors, rule, pre=NORMALIZERS[pre](D))
    assert not mistakes(module, anchors)


@pytest.mark.parametrize(
    "make",
    [
        relreps.ParsevalFrame,
        lambda d, a: relreps.SparseRelativeProjection(d, a, k=4),
        lambda d, a: relreps.SubspaceProjection(d, a, 3),
        lambda d, a: relreps.SubspaceProjection(d, a, 2, Rescaled("euclidean"), "sum"),
        lambda d, a: relreps.SubspaceProjection(d, a, 2, "inner", "sum"),
        lambda d, a: relreps.SubspaceProjection(d, a, 2, "linf", "max"),
        lambda d, a: relreps.SubspaceProjection(d, a, 1, "euclidean"),
        lambda d, a: relreps.RelativeProjection(d, a, "cosine", post=nn.LayerNorm(a)),
        lambda d, a: relreps.RelativeProjection(d, a, post=relreps.Quantize(0.1, "smooth")),
    ],
    ids=[
        "frame",
        "sparse",
        "subspaces",
        "subspaces-distance",
        "subspaces-inner",
        "subspaces-linf",
        "one-subspace",
        "layer-norm",
        "quantize",
    ],
)
def test_modules(make):
    assert not mistakes(make(D, 15), 15)


@pytest.mark.parametrize("aggregation", ["concat", "sum", "mlp", "attention"])
@pytest.mark.parametrize(
    "similarities",
    [("cosine",), ("cosine", "euclidean"), ("euclidean", "l1"), ("cosine", Basis(), "linf")],
    ids=lambda s: "+".join(str(part) for part in s),
)
def test_a_product_is_invariant_to_the_intersection(similarities, aggregation):
    parts = [relreps.RelativeProjection(D, 15, s) for s in similarities]
    product = relreps.ProductProjection(parts, aggregation)
    assert product.invariant_to == frozenset.intersection(*(p.invariant_to for p in parts))
    assert not mistakes(product, 15)


@pytest.mark.parametrize(
    "normalizer",
    [
        relreps.UnitNorm(),
        relreps.Center(D),
        relreps.IsotropicScale(D),
        relreps.StandardScale(D),
        relreps.Whiten(D),
        relreps.Whiten(D, shrinkage=0.2),
        relreps.NormalizerChain(relreps.StandardScale(D), relreps.UnitNorm()),
    ],
    ids=str,
)
def test_normalizers_by_themselves(normalizer):
    assert not mistakes(normalizer, 15)


def test_anchors_that_are_permuted_permute_the_code():
    x, anchors = torch.randn(4, D), torch.randn(5, D)
    order = torch.tensor([3, 0, 4, 1, 2])
    code = relreps.relative_projection(x, anchors)
    torch.testing.assert_close(relreps.relative_projection(x, anchors[order]), code[:, order])


def test_distances_survive_a_shift_of_a_thousand():
    x, anchors = torch.randn(40, 64), torch.randn(50, 64)
    for name in ("euclidean", "l1", "linf"):
        code = relreps.relative_projection(x, anchors, name)
        shifted = relreps.relative_projection(x + 1e3, anchors + 1e3, name)
        assert (shifted - code).abs().max() < 1e-3 * code.max()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_no_absolute_epsilon(scale):
    """In float32 a space in another unit has the same code."""
    x, anchors = torch.randn(20, D), torch.randn(15, D)
    for pre in (None, relreps.Center(D), relreps.StandardScale(D), relreps.Whiten(D)):
        one = relreps.RelativeProjection(D, 15, pre=pre).set_anchors(anchors)(x)
        other = relreps.RelativeProjection(D, 15, pre=pre).set_anchors(anchors * scale)(x * scale)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_intertwiners(activation):
    a, phi = intertwiner(activation, 5)
    z = torch.randn(30, 5, dtype=torch.float64)
    s = ACTIVATIONS[activation]
    torch.testing.assert_close(s(z @ a.T), s(z) @ phi.T)


def test_a_permutation_with_scales_is_no_symmetry_of_gelu():
    a, phi = intertwiner("relu", 5)
    z = torch.randn(30, 5, dtype=torch.float64)
    gelu = ACTIVATIONS["gelu"]
    assert not torch.allclose(gelu(z @ a.T), gelu(z) @ phi.T, atol=1e-3)


def test_which_normaliser_undoes_which_activation():
    """The table of the papers: StandardScale undoes all but the identity, Whiten undoes all."""
    table = symmetry_table()
    undone = {
        pre: {name for name, changes in table.items() if changes[pre] < 1e-9}
        for pre in next(iter(table.values()))
    }
    everything = set(ACTIVATIONS)
    assert undone["Whiten"] == everything
    assert undone["StandardScale"] == everything - {"identity"}
    assert undone["none"] == {"gelu", "silu", "sigmoid", "tanh", "gaussian"}


def test_closure():
    assert closure({"affine"}) == set(TRANSFORMATIONS) - {"sample_scale"}
    assert closure({"linear", "translation"}) == closure({"affine"})
    assert closure({"sample_scale"}) == {"sample_scale", "isotropic_scale"}
    assert closure(()) == frozenset()


def test_the_assertions_fail_when_they_should():
    x, anchors = torch.randn(8, D), torch.randn(5, D)
    code = relreps.relative_projection
    assert_invariant(code, "rotation", x, anchors)
    assert_not_invariant(code, "translation", x, anchors)
    with pytest.raises(AssertionError, match="not invariant to translation: it changes by"):
        assert_invariant(code, "translation", x, anchors)
    with pytest.raises(AssertionError, match="is invariant to rotation"):
        assert_not_invariant(code, "rotation", x, anchors, threshold=1e-4)
    with pytest.raises(AssertionError, match="by nan"):
        assert_invariant(lambda x, a: x * torch.nan, "rotation", x, anchors)
    with pytest.raises(AssertionError, match="by at most nan"):
        assert_not_invariant(lambda x, a: x * torch.nan, "rotation", x, anchors)
    with pytest.raises(ValueError, match="Did you mean 'rotation'"):
        random_transformation("rotations", 3)


def test_deviation_does_not_touch_the_module():
    projection = relreps.RelativeProjection(D, 5).set_anchors(torch.randn(5, D))
    before = projection.anchors.clone()
    deviation(projection, "affine", torch.randn(3, D), torch.randn(5, D))
    assert torch.equal(projection.anchors, before)
