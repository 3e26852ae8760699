"""Discovery without seeds: clusters give pairs, agreement tells whether to believe them."""

import pytest
import torch

import relreps
from relreps.correspondence import discover_parallel_anchors_unsupervised
from tests._data import clustered_twins, orthogonal, right, seeded


def found(x, y, num_anchors=40):
    pairs, agreement = discover_parallel_anchors_unsupervised(
        x, y, num_anchors, num_clusters=8, num_starts=2, generator=seeded()
    )
    return *pairs, agreement


@pytest.mark.parametrize("seed", range(3))
def test_clusters_alone_give_pairs_and_agreement_tells(seed):
    torch.manual_seed(seed)
    x, y, partner = clustered_twins()
    pairs, agreement = discover_parallel_anchors_unsupervised(
        x, y, 60, num_clusters=8, num_starts=4, generator=seeded()
    )
    again, level = discover_parallel_anchors_unsupervised(
        x, y, 60, num_clusters=8, num_starts=4, generator=seeded()
    )
    assert all(torch.equal(a, b) for a, b in zip(pairs, again, strict=True))
    assert torch.equal(agreement, level)
    assert agreement > 0.9
    assert right(pairs, partner).float().mean() > 0.95
    assert len(pairs.indices_x.unique()) == len(pairs.indices_y.unique()) == 60


def test_unrelated_spaces_do_not_agree():
    with pytest.warns(relreps.NumericalWarning, match=r"Only \d+% of the pairs are each other's"):
        *_, agreement = found(torch.randn(120, 6), torch.randn(120, 6), 60)
    assert agreement < 0.5


def test_few_rows_against_many_do_not_agree():
    """Most pairs are each other's nearest, and nearly all are wrong."""
    y = torch.randn(210, 6)
    with pytest.warns(relreps.NumericalWarning, match="no evidence"):
        i, j, scores, agreement = found(y[::7] @ orthogonal(6, dtype=torch.float32), y, 30)
    assert (scores > 0).float().mean() > 0.6
    assert (j == 7 * i).float().mean() < 0.2
    assert agreement < 0.25


def test_a_symmetry_is_beyond_it():
    """What maps to itself when mirrored has two answers, and both agree perfectly."""
    half = torch.randn(8, 6)[torch.arange(60) % 8] + 0.3 * torch.randn(60, 6)
    x = torch.cat((half, -half))
    partner = torch.randperm(120)
    y = torch.empty_like(x)
    y[partner] = x
    pairs, agreement = discover_parallel_anchors_unsupervised(
        x, y, 120, num_clusters=16, num_starts=2, generator=seeded()
    )
    mirrored = partner.roll(60)
    assert agreement > 0.9
    assert max(right(pairs, p).float().mean() for p in (partner, mirrored)) > 0.95


def test_autocast_changes_nothing():
    x, y, _ = clustered_twins()
    expected = found(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        cast = found(x, y)
    assert all(torch.equal(a, b) for a, b in zip(expected, cast, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_spaces_on_different_devices():
    x, y, _ = clustered_twins()
    assert all(t.is_cuda for t in found(x.cuda(), y))


def test_a_seed_is_no_generator():
    x, y, _ = clustered_twins(30)
    with pytest.raises(TypeError, match=r"`generator` must be a torch\.Generator or None, got int"):
        discover_parallel_anchors_unsupervised(x, y, 10, generator=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_anchors": 31}, "`num_anchors` must be at most"),
        ({"num_clusters": 31}, "`num_clusters` must be at most the rows of the smaller space"),
        ({"num_clusters": 1}, "`num_clusters` must be at least 2"),
        ({"num_starts": 0}, "`num_starts` must be at least 1"),
    ],
)
def test_bad_input_without_seeds_is_refused(options, message):
    x, y, _ = clustered_twins(30)
    with pytest.raises(ValueError, match=message):
        discover_parallel_anchors_unsupervised(x, y, **{"num_anchors": 10, **options})


def test_another_default_device_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator).repeat(10, 1)
    x = x + 0.1 * torch.randn(60, 5, generator=generator)

    def found():
        return discover_parallel_anchors_unsupervised(
            x, x.flip(1), 20, num_clusters=6, num_starts=2, generator=generator.manual_seed(1)
        )

    pairs, agreement = found()
    with torch.device("meta"):
        again = found()
    assert torch.equal(again[0].indices_y, pairs.indices_y)
    assert again[1] == agreement
