"""Anchors that are averages: means of classes, and moving averages."""

import os

import pytest
import torch

import relreps
from relreps import EMAAnchors, prototypes
from relreps._core import blocks
from relreps.anchors import cluster_labels

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
    assert (ema.in_features, ema.num_anchors, ema.decay) == (D, A, 0.9)


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
