"""Which anchors of a set to keep: pruning, and pivoting."""

import math

import pytest
import scipy.linalg
import torch

from relreps import prune_anchors
from relreps.anchors import pivoted_anchors

A, D = 12, 5
close = torch.testing.assert_close


def anchors(number=A, width=D):
    return torch.randn(number, width, dtype=torch.float64)


def cosines(x):
    unit = torch.nn.functional.normalize(x)
    return (unit @ unit.mT - torch.eye(len(x), dtype=x.dtype)).abs()


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
def test_kept_rows_are_apart_and_dropped_rows_are_not(threshold):
    x = anchors(40)
    kept = prune_anchors(x, threshold)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert cosines(x[kept]).max() <= 1 - threshold + 1e-12
    for i in set(range(40)) - set(kept.tolist()):
        before = kept[kept < i]
        assert cosines(x[[*before.tolist(), i]])[-1].max() > 1 - threshold
    assert torch.equal(prune_anchors(x[kept], threshold), torch.arange(len(kept)))
    assert torch.equal(prune_anchors(x, threshold), kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_pruning_drops_copies_opposites_and_zeros(dtype):
    x = torch.eye(3, dtype=dtype)[[0, 0, 1, 2, 0, 1]] * torch.tensor([1, 2, -1, 0, 3, 4])[:, None]
    assert prune_anchors(x, 0.1).tolist() == [0, 2]
    assert prune_anchors(x, 0.0).tolist() == [0, 1, 2, 4, 5]
    assert prune_anchors(x, 1.0).tolist() == [0, 2]
    assert prune_anchors(x * 2.0**-10, 0.1).tolist() == [0, 2]


def test_pruning_and_pivoting_improve_the_condition():
    x = torch.cat((anchors(), anchors()[:3].repeat(3, 1)))
    x[-9:] = x[:3].repeat(3, 1) * torch.tensor([2.0, -1.0, 0.5]).repeat_interleave(3)[:, None]
    condition = torch.linalg.cond(x)
    assert torch.linalg.cond(x[prune_anchors(x, 0.05)]) <= condition
    assert prune_anchors(x, 0.05).max() < A
    best = pivoted_anchors(x, D)
    draws = [torch.linalg.cond(x[torch.randperm(len(x))[:D]]) for _ in range(50)]
    assert torch.linalg.cond(x[best]) < torch.stack(draws).median()


@pytest.mark.parametrize("rank", [1, 3, D])
def test_pivoting_takes_the_rank_and_spans_all(rank):
    x = anchors()[:, :rank] @ anchors(rank)
    kept = pivoted_anchors(x)
    assert len(kept) == rank
    close(x @ torch.linalg.pinv(x[kept]) @ x[kept], x)
    assert torch.equal(pivoted_anchors(x, 1), kept[:1])
    assert kept[0] == x.norm(dim=1).argmax()
    assert torch.equal(pivoted_anchors(x[kept]), torch.arange(rank))
    assert len(pivoted_anchors(x.float())) == rank


def test_pivoting_is_that_of_scipy():
    x = anchors()
    _, order = scipy.linalg.qr(x.T.numpy(), mode="r", pivoting=True)
    assert pivoted_anchors(x).tolist() == order[:D].tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: prune_anchors(x, 1.1), r"`threshold` must be in \[0, 1\], got 1.1"),
        (lambda x: prune_anchors(x, math.nan), r"`threshold` must be in \[0, 1\], got nan"),
        (lambda x: prune_anchors(0 * x, 0.1), "`anchors` must not all be zero"),
        (lambda x: prune_anchors(x[0], 0.1), r"`anchors` must have shape \(rows, features\)"),
        (lambda x: prune_anchors(x / 0, 0.1), "`anchors` must be finite"),
        (lambda x: pivoted_anchors(0 * x), "`anchors` must not all be zero"),
        (lambda x: pivoted_anchors(x, 6), r"at most the rank of the anchors, got 6 and rank 5"),
        (lambda x: pivoted_anchors(x, 0), "`num_anchors` must be at least 1, got 0"),
        (lambda x: pivoted_anchors(x / 0), "`anchors` must be finite"),
    ],
)
def test_bad_pruning(call, message):
    with pytest.raises(ValueError, match=message):
        call(anchors())


def test_orthonormal_rows_are_orthogonal_to_within_rounding():
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        rows = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q.to(dtype)
        assert len(prune_anchors(rows, 1)) == 20
    tilted = torch.eye(3, dtype=torch.float64)
    tilted[1, 0] = 1e-10  # far more than rounding
    assert prune_anchors(tilted, 1).tolist() == [0, 2]
