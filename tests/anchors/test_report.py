"""Diagnosis of anchors."""

import math

import pytest
import torch

from relreps import anchor_report, prune_anchors
from relreps._core import blocks
from relreps.anchors import leverage_scores

A, D = 12, 5
close = torch.testing.assert_close


def anchors(number=A, width=D):
    return torch.randn(number, width, dtype=torch.float64)


def cosines(x):
    unit = torch.nn.functional.normalize(x)
    return (unit @ unit.mT - torch.eye(len(x), dtype=x.dtype)).abs()


def has(report, *words):
    return any(all(word in text for word in words) for text in report.warnings)


# The report


def test_numbers_are_those_of_the_textbook():
    x, rows = anchors(), anchors(100)
    report = anchor_report(x, rows)
    unit = torch.nn.functional.normalize
    assert report.rank == D
    assert report.condition_number == pytest.approx(float(torch.linalg.cond(x)))
    assert report.smallest_leverage == pytest.approx(float(leverage_scores(x).min()))
    radius = torch.cdist(unit(rows), unit(x)).amin(1).max()
    assert report.coverage_radius == pytest.approx(float(radius))
    assert report.lost_energy == pytest.approx(0, abs=1e-12)
    assert report.duplicates == 0
    assert report.warnings == ()
    positions = anchor_report(x, rows, normalize=False)
    assert positions.coverage_radius == pytest.approx(float(torch.cdist(rows, x).amin(1).max()))


def test_without_samples_anchors_cover_each_other():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-5.0, 0.0]])
    report = anchor_report(x)
    assert report.coverage_radius == pytest.approx(math.sqrt(2))
    assert math.isnan(report.lost_energy)
    assert "lost energy" not in str(report)
    assert anchor_report(x, normalize=False).coverage_radius == pytest.approx(math.sqrt(26))


@pytest.mark.parametrize("normalize", [True, False])
def test_fewer_anchors_than_dimensions_lose_this_much(normalize):
    rows = torch.randn(500, D) * torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0])
    report = anchor_report(torch.eye(D)[:2], rows, normalize=normalize)
    unit = torch.nn.functional.normalize(rows) if normalize else rows
    lost = float(unit[:, 2:].square().sum() / unit.square().sum())
    assert report.lost_energy == pytest.approx(lost)
    assert has(report, "2 anchors for 5 dimensions", f"{lost:.1%} of the energy")
    assert has(anchor_report(torch.eye(D)[:2]), "Give samples `x` to measure how much")


def test_dependent_anchors_are_found():
    x = anchors()
    x[:, 4] = x[:, 3]
    report = anchor_report(x)
    assert report.rank == D - 1
    assert report.condition_number == math.inf
    assert has(report, "12 anchors of rank 4 for 5 dimensions")
    assert has(report, "basis similarity", "ill-conditioned", "dependent")


def test_ill_conditioned_anchors_are_found():
    x = anchors()
    x[:, 4] *= 1e-5
    report = anchor_report(x)
    assert report.rank == D
    assert has(report, "basis similarity", "ill-conditioned", "condition number")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_repeated_columns_are_named(dtype):
    x = torch.randn(6, D).to(dtype)
    x[3], x[5] = 2 * x[1], -x[0]
    report = anchor_report(x)
    assert report.duplicates == 1
    assert has(report, "1 anchor repeats an earlier one (3 repeats 1)")
    threshold = float(report.warnings[0].split("anchors, ")[1].split(")")[0])
    assert 3 not in prune_anchors(x, threshold).tolist()
    assert anchor_report(x, normalize=False).duplicates == 0
    x = x[[0, 1, 2, 0, 1, 0, 0, 0, 0]]
    report = anchor_report(x, normalize=False)
    assert report.duplicates == 6
    assert has(report, "6 anchors", "3 repeats 0, 4 repeats 1", "...")


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_positions_of_any_unit_and_place(size):
    x, rows = anchors(), anchors(50)
    x[3] = x[1]
    plain, scaled = (anchor_report(k * x, k * rows, normalize=False) for k in (1, size))
    assert scaled.coverage_radius == pytest.approx(size * plain.coverage_radius)
    assert scaled.lost_energy == pytest.approx(plain.lost_energy, abs=1e-12)
    alone = anchor_report(size * x, normalize=False)
    assert alone.coverage_radius == pytest.approx(
        size * anchor_report(x, normalize=False).coverage_radius
    )
    assert plain.duplicates == scaled.duplicates == alone.duplicates == 1


def test_positions_far_from_the_origin():
    x, rows = anchors().round(decimals=3) + 1e6, anchors(50) + 1e6
    assert anchor_report(x, x, normalize=False).coverage_radius == 0
    report = anchor_report(x, rows, normalize=False)
    near = anchor_report(x - 1e6, rows - 1e6, normalize=False)
    assert report.coverage_radius == pytest.approx(near.coverage_radius)
    assert report.duplicates == 0
    assert anchor_report(x[:1], x[1:2], normalize=False).coverage_radius == pytest.approx(
        float((x[0] - x[1]).norm())
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_one_anchor_alone_has_no_neighbour(normalize):
    report = anchor_report(anchors(1), normalize=normalize)
    assert math.isnan(report.coverage_radius)
    assert "coverage radius unknown" in str(report)
    assert anchor_report(anchors(1), anchors(), normalize=normalize).coverage_radius > 0


def test_in_blocks_it_is_the_same(monkeypatch):
    x, rows = anchors(), anchors(30)
    x[7] = x[2]
    whole = anchor_report(x, rows)
    monkeypatch.setattr(blocks, "rows_of_table", lambda *_: 3)
    parts = anchor_report(x, rows)
    assert parts.warnings == whole.warnings
    assert parts.duplicates == whole.duplicates == 1
    close(torch.tensor(parts[2]), torch.tensor(whole[2]))
    close(torch.tensor(parts[6]), torch.tensor(whole[6]), rtol=0, atol=1e-12)


def test_anchors_that_mostly_show_their_mean_are_found():
    report = anchor_report(anchors(40) + 3)
    assert has(report, "mean cosine between anchors is 0.9", "Centre first")
    assert not has(anchor_report(anchors(40)), "mean cosine")


def test_zero_and_short_anchors_are_found():
    x = anchors(40)
    x[4] *= 1e-3
    assert has(anchor_report(x), "Anchor 4 is too short")
    x[4] = 0
    report = anchor_report(x)
    assert has(report, "1 anchor is zero (4)")
    assert report.smallest_leverage == 0
    assert report.duplicates == 0
    assert anchor_report(0 * x).rank == 0


def test_it_reads_as_text_and_as_a_tuple():
    report = anchor_report(torch.eye(3), torch.randn(50, 3))
    rank, condition, _, duplicates, warnings, *_ = report
    assert (rank, duplicates, warnings) == (3, 0, ())
    assert condition == pytest.approx(1)
    lines = str(report).splitlines()
    assert lines[0] == "rank 3"
    assert lines[-1] == "no warnings"
    assert f"{report}" == str(report)
    assert "warning: Only 1 anchor for 3 dimensions" in str(anchor_report(torch.eye(3)[:1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: anchor_report(x[0]), r"`anchors` must have shape \(rows, features\)"),
        (lambda x: anchor_report(x / 0), "`anchors` must be finite"),
        (lambda x: anchor_report(x[:0]), r"`anchors` must have at least 1 row\(s\), got 0"),
        (lambda x: anchor_report(x[:, :0]), r"`anchors` must have at least one feature, got shape"),
        (lambda x: anchor_report(x, x[:, 1:]), r"`x` must have shape \(rows, 5\)"),
        (lambda x: anchor_report(x, x / 0), "`x` must be finite"),
    ],
)
def test_bad_reports(call, message):
    with pytest.raises(ValueError, match=message):
        call(anchors())
