"""Every example runs as it stands, and shows what it says."""

import runpy
from pathlib import Path

import pytest
import torch

import relreps

# The examples are in the repository alone, not in what is released.
PAGES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def stitch(shown):
    own, foreign = torch.eye(2, dtype=torch.bool), ~torch.eye(2, dtype=torch.bool)
    absolute, relative = (shown["accuracies"][kind].scores for kind in ("absolute", "relative"))
    assert absolute[own].min() > 90 > 50 > absolute[foreign].max()
    assert relative.min() > 90


def translate(shown):
    assert shown["accuracies"]["Procrustes", 300] > shown["own"] - 3
    assert shown["accuracies"]["ridge by GCV", 30] > shown["own"] - 5


def migrate(shown):
    assert shown["recalls"]["moved"] > 0.9 > 0.01 > shown["recalls"]["not moved"]
    fresh = relreps.AffineTranslator(64, 96, ridge="gcv")
    fresh.load_state_dict(torch.load(shown["folder"] / "map.pt", weights_only=True))
    torch.testing.assert_close(fresh(shown["old"]), shown["searched"])


def loss_in_a_loop(shown):
    (plain, long, _), (dense, short, _) = shown["found"].values()
    assert dense > plain - 2
    assert short < 0.5 * long


def compare_layers(shown):
    trained, untrained, neighbours = (c.scores for c in shown["comparisons"].values())
    assert trained.shape == untrained.shape == neighbours.shape == (3, 3)
    assert (trained.diagonal() > untrained.diagonal()).all()


CHECKS = {f.__name__: f for f in (stitch, translate, migrate, loss_in_a_loop, compare_layers)}


@pytest.mark.skipif(not PAGES, reason="the examples are not in what is released")
def test_every_example_is_checked():
    assert {page.stem for page in PAGES} == set(CHECKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_example(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    CHECKS[page.stem](runpy.run_path(str(page)))
    assert "| ---" in capsys.readouterr().out
    assert 20 <= len(page.read_text(encoding="utf-8").splitlines()) <= 80
