"""Quantize, StratifiedMean, AnchorAttention, SubspaceProjection and ProductProjection."""

import math

import pytest
import torch
from torch import nn

import relreps
from relreps import (
    AnchorAttention,
    ProductProjection,
    Quantize,
    RelativeProjection,
    StratifiedMean,
    SubspaceProjection,
)

D, A, N = 6, 7, 4


@pytest.fixture
def x():
    return torch.randn(N, D, dtype=torch.float64)


@pytest.fixture
def anchors():
    return torch.randn(A, D, dtype=torch.float64)


@pytest.mark.parametrize("step", [0.25, 0.1, 3.0])
def test_rounding_lands_on_the_grid_and_passes_the_gradient_on(step, x):
    out = Quantize(step)(x.requires_grad_())
    torch.testing.assert_close(out / step, (out / step).round(), atol=1e-9, rtol=0)
    assert (out - x).abs().max() <= step / 2 + 1e-12
    upstream = torch.randn_like(out)
    torch.testing.assert_close(torch.autograd.grad(out, x, upstream)[0], upstream)


@pytest.mark.parametrize("step", [0.25, 3.0])
def test_smooth_steps_are_flat_at_multiples_of_the_step(step):
    grid = (step * torch.arange(-3.0, 4.0).double()).requires_grad_()
    out = Quantize(step, "smooth")(grid)
    torch.testing.assert_close(out, grid)
    slope = torch.autograd.grad(out.sum(), grid)[0]
    torch.testing.assert_close(slope, torch.zeros_like(grid), atol=1e-9, rtol=0)
    between = Quantize(step, "smooth")(grid + step / 2) - grid
    torch.testing.assert_close(between, torch.full_like(grid, step / 2))


def loop_mean(code, labels, groups, classes):
    """The definition, anchor by anchor."""
    out = torch.zeros(code.shape[0], groups * classes, dtype=code.dtype)
    for k in range(groups):
        for c in range(classes):
            members = [j for j in range(len(labels)) if labels[j] == c][k::groups]
            if members:
                out[:, k * classes + c] = code[:, members].mean(1)
    return out


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("classes", [3, 5], ids=["classes=3", "absent classes"])
def test_stratified_mean_is_the_loop(groups, classes):
    labels = torch.tensor([0, 2, 0, 0, 1, 2, 0])
    code = torch.randn(N, A, dtype=torch.float64)
    module = StratifiedMean(labels, groups, classes).double()
    torch.testing.assert_close(module(code), loop_mean(code, labels, groups, classes))


def test_attention_onto_anchors_is_equivariant(x, anchors):
    q = torch.linalg.qr(torch.randn(D, D).double()).Q

    def mixed(x, anchors):
        projection = RelativeProjection.from_anchors(anchors)
        return AnchorAttention.from_values(anchors, temperature=0.1)(projection(x))

    torch.testing.assert_close(mixed(x @ q, anchors @ q), mixed(x, anchors) @ q)
    weights = (relreps.relative_projection(x, anchors) / 0.1).softmax(-1)
    torch.testing.assert_close(mixed(x, anchors), weights @ anchors)


def test_learned_values_learn(x):
    attention = AnchorAttention(D, 3).double()
    attention(x).sum().backward()
    assert attention.values.grad is not None
    assert not list(AnchorAttention(D, 3, trainable=False).parameters())


@pytest.mark.parametrize("aggregation", ["concat", "sum", "mean", "max"])
def test_subspaces_are_projections_of_the_blocks(aggregation, x, anchors):
    module = SubspaceProjection(D, A, 2, "euclidean", aggregation).double().set_anchors(anchors)
    parts = [
        relreps.relative_projection(x[:, block], anchors[:, block], "euclidean")
        for block in (slice(0, 3), slice(3, 6))
    ]
    combine = {
        "concat": lambda p: torch.cat(p, -1),
        "sum": sum,
        "mean": lambda p: sum(p) / 2,
        "max": lambda p: torch.maximum(*p),
    }
    torch.testing.assert_close(module(x), combine[aggregation](parts))
    assert module.out_features == module(x).shape[-1]
    torch.testing.assert_close(module.anchors, anchors)


def test_subspaces_allow_a_rotation_of_each_block(x, anchors):
    blocks = [torch.linalg.qr(torch.randn(3, 3).double()).Q for _ in range(2)]
    inside = torch.block_diag(*blocks)
    across = torch.linalg.qr(torch.randn(D, D).double()).Q

    def code(q):
        module = SubspaceProjection(D, A, 2).double().set_anchors(anchors @ q)
        return module(x @ q)

    torch.testing.assert_close(code(inside), code(torch.eye(D).double()))
    assert (code(across) - code(inside)).abs().max() > 0.1


def parts():
    return [RelativeProjection(D, A, name) for name in ("cosine", "euclidean", "linf")]


def test_concat_and_sum(x, anchors):
    codes = [relreps.relative_projection(x, anchors, s) for s in ("cosine", "euclidean", "linf")]
    for aggregation, wanted in (("concat", torch.cat(codes, -1)), ("sum", sum(codes))):
        product = ProductProjection(parts(), aggregation).double().set_anchors(anchors)
        torch.testing.assert_close(product(x), wanted)
        assert product.out_features == wanted.shape[-1]


def test_one_cosine_is_the_plain_projection(x, anchors):
    product = ProductProjection([RelativeProjection(D, A)]).double().set_anchors(anchors)
    torch.testing.assert_close(product(x), relreps.relative_projection(x, anchors))


def test_a_post_that_changes_the_width_is_counted(x, anchors):
    labels = torch.arange(A) % 3
    posts = [RelativeProjection(D, A, post=StratifiedMean(labels)) for _ in range(2)]
    assert posts[0].out_features == 3
    product = ProductProjection(posts, "mlp").double().set_anchors(anchors)
    assert product(x).shape == (N, 3)


def test_mlp_is_a_sum_over_parts(x, anchors):
    product = ProductProjection(parts(), "mlp", 5).double().set_anchors(anchors)
    wanted = sum(
        embed(part(x))
        for embed, part in zip(product.combine.embed, product.projections, strict=True)
    )
    torch.testing.assert_close(product(x), wanted)
    product(x).sum().backward()
    assert all(p.grad is not None for p in product.parameters())


@pytest.mark.parametrize("aggregation", ["concat", "sum", "mlp", "attention"])
def test_products_learn_in_a_model(aggregation, x, anchors):
    product = ProductProjection(parts(), aggregation).double().set_anchors(anchors)
    model = nn.Sequential(nn.Linear(D, D), product, nn.Linear(product.out_features, 2)).double()
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Quantize(0), ValueError, "`step` must be positive and finite, got 0"),
        (lambda: Quantize(math.nan), ValueError, "`step` must be"),
        (lambda: Quantize("1"), TypeError, "`step` must be a number, got str"),
        (lambda: Quantize(1, "floor"), ValueError, "'round', 'smooth', got 'floor'"),
        (lambda: StratifiedMean(torch.tensor([0.5])), TypeError, "integer tensor"),
        (lambda: StratifiedMean([0, 1]), ValueError, "one class for each anchor"),
        (lambda: StratifiedMean(torch.tensor([0, 3]), num_classes=2), ValueError, r"in 0\.\.1"),
        (lambda: StratifiedMean(torch.tensor([-1, 0])), ValueError, "got -1 to 0"),
        (
            lambda: StratifiedMean(torch.tensor([0, 1]))(torch.ones(2, 3)),
            ValueError,
            r"shape \(..., 2\)",
        ),
        (lambda: AnchorAttention(2, 3, 0.0), ValueError, "`temperature` must be positive"),
        (lambda: SubspaceProjection(6, 2, 4), ValueError, "multiple of `num_heads`, got 6 and 4"),
        (lambda: SubspaceProjection(6, 2, 2, "l3"), ValueError, "`similarity` must be one of"),
        (lambda: SubspaceProjection(6, 2, 2, aggregation="min"), ValueError, "`aggregation`"),
        (
            lambda: SubspaceProjection(6, 2, 2).set_anchors(torch.ones(3, 6)),
            ValueError,
            "must have 2 rows, got 3",
        ),
        (lambda: ProductProjection([]), ValueError, "got none"),
        (
            lambda: ProductProjection([RelativeProjection(2, 3), RelativeProjection(3, 3)]),
            ValueError,
            "share one `in_features` and `num_anchors`",
        ),
        (
            lambda: ProductProjection(
                [RelativeProjection(2, 3), SubspaceProjection(2, 3, 2)], "sum"
            ),
            ValueError,
            r"codes of one width, got \[3, 6\]",
        ),
        (
            lambda: ProductProjection([nn.Linear(2, 3)]),
            TypeError,
            "dense projections, got Linear",
        ),
        (lambda: ProductProjection([RelativeProjection(2, 3)], "max"), ValueError, "'mlp'"),
        (
            lambda: ProductProjection([RelativeProjection(2, 3)], "concat", 5),
            ValueError,
            "given by the parts",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "make",
    [
        lambda: SubspaceProjection(D, A, 2, relreps.similarity.Rescaled("l1")),
        lambda: ProductProjection(
            [RelativeProjection(D, A), RelativeProjection(D, A, pre=relreps.StandardScale(D))]
        ),
    ],
    ids=["subspaces", "product"],
)
def test_a_failed_set_anchors_changes_nothing(make, x, anchors):
    module = make().double().set_anchors(anchors)
    before = module(x)
    holed, flat = anchors.clone(), torch.ones_like(anchors)
    holed[1, -1] = torch.nan
    flat[:, :3] = anchors[:, :3] * isinstance(module, SubspaceProjection)  # the last part fails
    for wrong in (holed, anchors[:-1], flat):
        with pytest.raises(ValueError, match="`anchors` must"):
            module.set_anchors(wrong)
        assert torch.equal(module(x), before)


def test_codes_are_combined_by_a_callable(x, anchors):
    codes = [relreps.relative_projection(x, anchors, s) for s in ("cosine", "euclidean", "linf")]

    class Gate(nn.Linear):
        def forward(self, codes):
            return super().forward(torch.cat(codes, -1)).sigmoid()

    gate = Gate(3 * A, 2)
    product = ProductProjection(parts(), gate).double().set_anchors(anchors)
    torch.testing.assert_close(product(x), gate(codes))
    assert (product.out_features, product.aggregation) == (2, gate)
    assert len(list(product.parameters())) == 2
    assert [k for k in product.state_dict() if "weight" in k] == ["combine.function.weight"]
    first = SubspaceProjection(D, A, 2, aggregation=lambda codes: codes[0]).double()
    wanted = relreps.relative_projection(x[:, :3], anchors[:, :3])
    torch.testing.assert_close(first.set_anchors(anchors)(x), wanted)
    assert first.out_features == A
    with pytest.raises(ValueError, match="`out_features` is given by the parts"):
        ProductProjection(parts(), gate, 5)


def test_blocks_of_an_object_are_those_of_its_name():
    for similarity, name in ((relreps.similarity.inner, "inner"), (relreps.similarity.l1, "l1")):
        by_object = SubspaceProjection(D, A, 2, similarity, "sum")
        assert by_object.invariant_to == SubspaceProjection(D, A, 2, name, "sum").invariant_to
        assert "permutation" in by_object.invariant_to
