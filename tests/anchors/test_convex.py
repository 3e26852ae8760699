"""Anchors that are learned mixtures, and the losses that shape them."""

import copy
import pickle

import pytest
import torch

import relreps
from relreps import ConvexAnchors, FarthestAnchors
from relreps.anchors import coverage_loss, diversity_loss

N, D, A = 60, 5, 8
close = torch.testing.assert_close


def samples(n=N, width=D):
    return torch.randn(n, width, dtype=torch.float64)


def affine(width=D, out=7):
    return torch.randn(width, out, dtype=torch.float64), torch.randn(out, dtype=torch.float64)


def test_mixtures_are_parallel_in_every_affine_copy_of_the_space():
    x, (m, t) = samples(), affine()
    module = ConvexAnchors(N, A).double()
    torch.nn.init.normal_(module.logits)
    close(module(x @ m + t), module(x) @ m + t)
    assert module.weights.min() >= 0
    close(module.weights.sum(1), torch.ones(A, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_coverage_loss_has_the_type_of_its_rows(dtype):
    x, anchors = torch.randn(6, 3).to(dtype), torch.randn(2, 3).to(dtype)
    assert coverage_loss(x, anchors).dtype == dtype


@pytest.mark.parametrize("temperature", [0.01, 0.2, 5.0])
def test_mixtures_start_near_different_samples(temperature):
    weights = ConvexAnchors(N, A, temperature=temperature).weights
    values, owners = weights.max(1)
    close(values, torch.full((A,), 0.9))
    assert owners.unique().numel() == A
    x = torch.randn(N, D)
    picks = FarthestAnchors(A)(x)
    module = ConvexAnchors(N, A, temperature=temperature).start_at(picks)
    close(module(x), 0.9 * x[picks] + 0.1 / (N - 1) * (x.sum(0) - x[picks]))


def test_mixtures_of_one_sample_are_that_sample():
    x = torch.randn(1, D)
    assert torch.equal(ConvexAnchors(1, 1)(x), x)


def test_losses_train_the_mixtures():
    x = torch.randn(200, 3)
    module = ConvexAnchors(200, 6)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)

    def loss():
        anchors = module(x)
        return coverage_loss(x, anchors) + 0.1 * diversity_loss(anchors)

    before = loss().item()
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.8 * before


def test_the_gradient_reaches_the_mixture_and_the_samples():
    module = ConvexAnchors(6, 3).double()
    x = samples(6).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows, _: module(rows), (x, module.logits))
    module(x).sum().backward()
    assert module.logits.grad.abs().sum() > 0


def test_mixtures_keep_the_rules_of_a_module():
    """The contract but for its row checks: here the samples are an argument, not a batch."""
    module, x = ConvexAnchors(N, A), torch.randn(2, N, D)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert module(x.to(dtype)).dtype == module.to(dtype)(x.to(dtype)).dtype == dtype
        module.float()
    close(module(x)[1], module(x[1]))
    close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))
    close(torch.export.export(module, (x,)).module()(x), module(x))
    assert copy.deepcopy(module).to("meta")(x.to("meta")).shape == (2, A, D)
    fresh = ConvexAnchors(N, A)
    fresh.load_state_dict(module.state_dict())
    for other in (fresh, pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(other(x), module(x))
    with torch.device("meta"):
        empty = ConvexAnchors(N, A)
    empty.load_state_dict(module.state_dict(), assign=True)
    assert torch.equal(empty(x), module(x))
    assert repr(module) == "ConvexAnchors(60, 8, temperature=0.2)"
    assert (module.num_samples, module.num_anchors, module.temperature) == (N, A, 0.2)


def test_mixtures_are_parallel_anchors_of_a_projection():
    """Trained in one space, used in another: the codes agree."""
    x = samples()
    y = x @ torch.linalg.qr(samples(D, D)).Q
    module = ConvexAnchors(N, A).double()
    codes = [relreps.relative_projection(space, module(space)) for space in (x, y)]
    close(*codes)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ConvexAnchors(3, 4), ValueError, "at most `num_samples`, got 4 anchors and 3"),
        (lambda: ConvexAnchors(3, 0), ValueError, "`num_anchors` must be at least 1, got 0"),
        (
            lambda: ConvexAnchors(3, 2, temperature=0.0),
            ValueError,
            "`temperature` must be positive .* got 0.0",
        ),
        (lambda: ConvexAnchors(3, 2)(torch.ones(4, 5)), ValueError, r"shape \(\.\.\., 3, features"),
        (lambda: ConvexAnchors(3, 2)(torch.ones(3)), ValueError, r"got \(3,\)"),
        (lambda: ConvexAnchors(3, 2)([1.0]), TypeError, r"`samples` must be a torch\.Tensor"),
        (
            lambda: ConvexAnchors(3, 2).start_at(torch.tensor([0, 3])),
            ValueError,
            r"`indices` must lie in \[0, 3\), got 0 to 3",
        ),
        (
            lambda: ConvexAnchors(3, 2).start_at(torch.tensor([1, 1])),
            ValueError,
            "`indices` must differ",
        ),
        (
            lambda: ConvexAnchors(3, 2).start_at(torch.tensor([1])),
            ValueError,
            r"`indices` must have shape \(2,\), one sample an anchor, got \(1,\)",
        ),
        (lambda: ConvexAnchors(3, 2).start_at([0, 1]), TypeError, "`indices` .* got list"),
    ],
)
def test_bad_mixtures(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("normalize", [True, False])
def test_coverage_is_the_mean_squared_distance_to_the_nearest(normalize):
    x, anchors = samples(), samples(A)
    unit = torch.nn.functional.normalize if normalize else torch.nn.Identity()
    wanted = torch.cdist(unit(x), unit(anchors)).amin(1).square().mean()
    close(coverage_loss(x, anchors, normalize=normalize), wanted)
    soft = [coverage_loss(x, anchors, normalize=normalize, temperature=t) for t in (1.0, 1e-4)]
    close(soft[1], wanted, rtol=0, atol=1e-3)
    assert soft[0] < wanted


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"temperature": 0.1}])
def test_coverage_of_two_types_is_that_of_the_wider_one(options):
    x, anchors = samples().float(), samples(A).double()
    wanted = coverage_loss(x.double(), anchors, **options)
    close(coverage_loss(x, anchors, **options), wanted.float())
    close(coverage_loss(anchors, x, **options), coverage_loss(anchors, x.double(), **options))
    half = coverage_loss(x.half(), anchors, **options)
    close(half, coverage_loss(x.half().double(), anchors, **options).half())


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_coverage_of_positions_far_from_the_origin(temperature):
    x, anchors = ((torch.randn(n, D) + 1e4).requires_grad_() for n in (N, A))
    losses, slopes = [], []
    for kind in (torch.float32, torch.float64):
        loss = coverage_loss(x.to(kind), anchors.to(kind), normalize=False, temperature=temperature)
        losses.append(loss.double())
        slopes.append(torch.autograd.grad(loss, (x, anchors)))
    close(*losses, rtol=1e-3, atol=0)
    close(*slopes, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_another_anchor_never_raises_the_coverage_loss(temperature):
    x, anchors = samples(), samples(A)
    losses = [coverage_loss(x, anchors[:a], temperature=temperature) for a in range(1, A + 1)]
    assert losses == sorted(losses, reverse=True)


def test_losses_are_differentiable():
    x, anchors = samples(7), samples(3).requires_grad_()
    for loss in (
        lambda a: coverage_loss(x, a),
        lambda a: coverage_loss(x, a, normalize=False),
        lambda a: coverage_loss(x, a, temperature=0.1),
        diversity_loss,
    ):
        assert torch.autograd.gradcheck(loss, anchors)
    zero = torch.zeros(3, D, requires_grad=True)
    (coverage_loss(x.float(), zero) + diversity_loss(zero)).backward()
    assert zero.grad.isfinite().all()


def test_diversity_is_between_orthogonal_and_parallel():
    assert diversity_loss(torch.eye(4)) == 0
    close(diversity_loss(torch.tensor([[1.0, 1.0], [-2.0, -2.0]])), torch.tensor(1.0))
    assert diversity_loss(torch.randn(1, D)) == 0
    third = torch.arange(3) * 2 * torch.pi / 3
    tight = torch.stack((third.cos(), third.sin()), 1)  # three directions in the plane: a frame
    close(diversity_loss(tight), torch.tensor((3 - 2) / (2 * (3 - 1))))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: coverage_loss(x, x[:, 1:]), r"`anchors` must have shape \(rows, 5\)"),
        (lambda x: coverage_loss(x[0], x), r"`x` must have shape \(rows, features\)"),
        (
            lambda x: coverage_loss(x, x, temperature=-1),
            "`temperature` must be positive and finite",
        ),
        (lambda x: diversity_loss(x[0]), r"`anchors` must have shape \(rows, features\)"),
    ],
)
def test_bad_losses(build, message):
    with pytest.raises(ValueError, match=message):
        build(samples())
