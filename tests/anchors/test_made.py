"""Anchors that are made: means of classes, learned mixtures, moving averages."""

import copy
import os
import pickle

import pytest
import torch

import relreps
from relreps import ConvexAnchors, EMAAnchors, FarthestAnchors, prototypes
from relreps._core import blocks
from relreps.anchors import cluster_labels, coverage_loss, diversity_loss

N, D, A = 60, 5, 8
close = torch.testing.assert_close


def samples(n=N, width=D):
    return torch.randn(n, width, dtype=torch.float64)


def affine(width=D, out=7):
    return torch.randn(width, out, dtype=torch.float64), torch.randn(out, dtype=torch.float64)


# Prototypes


def test_prototypes_are_the_means_and_move_with_the_space():
    x, labels = samples(), torch.arange(N) % 4
    m, t = affine()
    anchors = prototypes(x, labels)
    close(anchors, torch.stack([x[labels == c].mean(0) for c in range(4)]))
    close(prototypes(x @ m + t, labels), anchors @ m + t)


def test_prototypes_of_the_clusters_of_one_space_are_parallel_in_another():
    x = samples()
    m, t = affine()
    labels = cluster_labels(x, A)
    close(prototypes(x @ m + t, labels), prototypes(x, labels) @ m + t)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_prototypes_of_many_equal_rows_are_that_row(dtype):
    row = torch.tensor([1000.123, -0.1], dtype=dtype)
    assert torch.equal(prototypes(row.expand(200_000, 2), torch.zeros(200_000).long())[0], row)


def test_prototypes_are_differentiable_in_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "rows_at_once", lambda *_: 4)
    x, labels = samples(9), torch.arange(9) % 3
    assert torch.autograd.gradcheck(lambda rows: prototypes(rows, labels), x.requires_grad_())


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 2, 2, 0], None, r"every class in \[0, 3\), got no sample of 1 class\(es\): 1"),
        ([0, 1, 0, 1], 4, r"every class in \[0, 4\), got no sample of 2 class\(es\): 2, 3"),
        ([9, 9, 9, 9], None, r"no sample of 9 class\(es\): 0, 1, 2, 3, 4, \.\.\."),
        ([0, 1, 2, 1], 2, r"`labels` must lie in \[0, 2\), got 0 to 2"),
        ([0, 1, 0, 10**13], None, r"no sample of 9999999999998 class\(es\): 2, 3, 4, 5, 6, \.\.\."),
        ([0, 1, 0, 1], 10**13, r"no sample of 9999999999998 class\(es\): 2, 3, 4, 5, 6, \.\.\."),
        ([-1, 0, 0, 0], None, r"`labels` must lie in \[0, 1\), got -1 to 0"),
        ([0, 0, 0], None, "`labels` must have one entry for each of the 4 rows"),
        ([0, 0, 0, 0], 0, "`num_classes` must be at least 1, got 0"),
    ],
)
def test_bad_prototype_labels(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        prototypes(samples(4), torch.tensor(labels), classes)


def test_bad_prototype_samples():
    labels = torch.zeros(4).long()
    with pytest.raises(ValueError, match="`x` must be finite, got NaN or infinity in 4 of 4 rows"):
        prototypes(samples(4) / 0, labels)
    with pytest.raises(TypeError, match="`labels` must be an integer tensor, got list"):
        prototypes(samples(4), [0, 0, 0, 0])
    with pytest.raises(TypeError, match=r"`labels` must be .* got torch\.bool\. Convert"):
        prototypes(samples(4), labels.bool())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_prototypes_take_labels_of_every_integer_type(dtype):
    x, labels = samples(), torch.arange(N) % 4
    close(prototypes(x, labels.to(dtype)), prototypes(x, labels))


# Mixtures


def test_mixtures_are_parallel_in_every_affine_copy_of_the_space():
    x, (m, t) = samples(), affine()
    module = ConvexAnchors(N, A).double()
    torch.nn.init.normal_(module.logits)
    close(module(x @ m + t), module(x) @ m + t)
    assert module.weights.min() >= 0
    close(module.weights.sum(1), torch.ones(A, dtype=torch.float64))


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


# Moving averages


def test_ema_copies_first_and_then_averages():
    rounds = torch.randn(4, A, D)
    ema = EMAAnchors(D, A, decay=0.9)
    for anchors in rounds:
        ema.update(anchors.requires_grad_())
    weights = torch.tensor([0.9**3, 0.1 * 0.9**2, 0.1 * 0.9, 0.1])
    torch.testing.assert_close(ema.anchors, torch.einsum("t,tad->ad", weights, rounds.detach()))
    assert not ema.anchors.requires_grad
    assert repr(ema) == "EMAAnchors(5, 8, decay=0.9)"


@pytest.mark.parametrize(("decay", "kept"), [(0.0, -1), (1.0, 0)])
def test_ema_at_the_ends_is_the_last_or_the_first(decay, kept):
    rounds = torch.randn(3, A, D)
    ema = EMAAnchors(D, A, decay)
    for anchors in rounds:
        ema.update(anchors)
    assert torch.equal(ema.anchors, rounds[kept])


def test_ema_goes_on_from_a_checkpoint_with_its_schedule():
    """The mean of all so far, as a schedule: it has to know how many there were."""
    rounds = torch.randn(5, A, D)
    ema = EMAAnchors(D, A, decay=lambda updates: updates / (updates + 1))
    for anchors in rounds:
        resumed = EMAAnchors(D, A, decay=ema.decay)
        resumed.load_state_dict(ema.state_dict())
        ema = resumed.update(anchors)
    torch.testing.assert_close(ema.anchors, rounds.mean(0))


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=rf"`decay` must be in \[0, 1\], got {decay}"):
        EMAAnchors(D, A, decay)


@pytest.mark.parametrize(
    ("anchors", "error", "message"),
    [
        (
            torch.randn(A, D + 1),
            ValueError,
            r"`anchors` must have shape \(8, 5\).*, got \(8, 6\).*\(in_features, num_anchors\)",
        ),
        (torch.ones(A, D).long(), TypeError, "`anchors` must be a floating-point tensor"),
    ],
)
def test_bad_ema_update(anchors, error, message):
    with pytest.raises(error, match=message):
        EMAAnchors(D, A, 0.9).update(anchors)


def test_ema_refuses_what_would_stay_for_good():
    ema = EMAAnchors(D, A, 0.9).update(torch.ones(A, D))
    with pytest.raises(ValueError, match="`anchors` must be finite, got NaN or infinity in 8 of 8"):
        ema.update(torch.full((A, D), torch.nan))
    assert ema.updates == 1
    wild = EMAAnchors(D, A, decay=lambda updates: updates + 1.5)
    with pytest.raises(ValueError, match=r"`decay` must be in \[0, 1\], got 1.5"):
        wild.update(torch.ones(A, D))
    assert repr(wild) == "EMAAnchors(5, 8, decay=<lambda>)"


@pytest.mark.parametrize(
    "decay", ["0.9", None, True, torch.ones(2), torch.tensor(True), 1j], ids=repr
)
def test_decay_of_the_wrong_type(decay):
    with pytest.raises(TypeError, match=r"`decay` must be a number in \[0, 1\], .* got"):
        EMAAnchors(D, A, decay)
    with pytest.raises(TypeError, match=r"`decay` must be a number in \[0, 1\], .* got"):
        EMAAnchors(D, A, lambda updates: decay).update(torch.ones(A, D))


def test_a_schedule_cannot_write_to_the_step_count():
    ema = EMAAnchors(D, A, decay=lambda updates: updates.add_(5) * 0)
    assert ema.update(torch.ones(A, D)).updates == 1


def test_ema_in_a_half_type_refuses_what_it_cannot_hold():
    ema = EMAAnchors(D, A, 0.9).half()
    with pytest.raises(ValueError, match=r"`anchors` must fit in torch\.float16, .* up to 1e\+05"):
        ema.update(torch.full((A, D), 1e5))
    assert ema.updates == 0


def test_ema_writes_its_buffers_in_place_and_the_same_each_time():
    """What holds a buffer sees the update; equal in, equal out."""
    rounds = torch.randn(3, A, D)
    one, other = EMAAnchors(D, A, 0.9), EMAAnchors(D, A, 0.9)
    held = one.anchors
    for anchors in rounds:
        one.update(anchors)
        other.update(anchors)
    assert held is one.anchors
    assert torch.equal(one.anchors, other.anchors)


def agree(rank, path):
    """One of two processes: its own batches, the anchor samples of both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    ema = EMAAnchors(D, A, 0.9)
    for encodings in torch.randn(3, A, D):
        ema.update(encodings)
    same_everywhere(ema.anchors)
    model = relreps.RelativeEncoder(
        torch.nn.Linear(3, D),
        relreps.RelativeProjection(D, A),
        torch.randn(A, 3),
        ema=EMAAnchors(D, A, 0.9),
    )
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    torch.manual_seed(1 + rank)
    for _ in range(2):
        optimizer.zero_grad()
        parallel(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    assert model.ema.updates == 2
    same_everywhere(model.ema.anchors)
    same_everywhere(model.encoder.weight.detach())
    torch.distributed.barrier()  # neither leaves while the other still receives
    os._exit(0)  # what has passed is not undone by gloo's threads, which may abort at a normal exit


def same_everywhere(x):
    copies = [torch.empty_like(x) for _ in range(2)]
    torch.distributed.all_gather(copies, x)
    assert torch.equal(*copies)


def test_ema_agrees_across_processes_and_in_data_parallel(tmp_path):
    torch.multiprocessing.spawn(agree, (tmp_path / "store",), nprocs=2)
