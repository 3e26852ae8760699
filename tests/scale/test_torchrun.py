"""The distributed fit of the study gives the map of one process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import relreps

SCRIPT = Path(__file__).parents[2] / "studies" / "scale" / "fit_distributed.py"


def torchrun(folder, *arguments):
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return subprocess.run(
        [*launch, str(SCRIPT), *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_two_processes_find_the_map_of_one(tmp_path):
    x = torch.randn(3001, 12, dtype=torch.float64) + 1000
    y = x @ torch.randn(12, 7, dtype=torch.float64) + torch.randn(3001, 7, dtype=torch.float64)
    np.save(tmp_path / "old.npy", x.numpy())
    np.save(tmp_path / "new.npy", y.numpy())
    done = torchrun(tmp_path, "--source", "old.npy", "--target", "new.npy", "--out", "map.pt")
    assert done.returncode == 0, done.stderr
    saved = torch.load(tmp_path / "map.pt", weights_only=True)
    moved = getattr(relreps.translate, saved["translator"])(**saved["arguments"])
    moved.load_state_dict(saved["state"])
    whole = relreps.AffineTranslator(12, 7, ridge="gcv").fit(x, y)
    torch.testing.assert_close(moved(x), whole(x), rtol=1e-6, atol=1e-4)  # a float32 map


def test_files_that_are_not_paired_end_every_process(tmp_path):
    np.save(tmp_path / "old.npy", np.ones((10, 3)))
    np.save(tmp_path / "new.npy", np.ones((9, 3)))
    done = torchrun(tmp_path, "--source", "old.npy", "--target", "new.npy", "--out", "map.pt")
    assert done.returncode != 0
    assert "must be paired, got 10 and 9 rows" in done.stderr
    assert not list(tmp_path.glob("map*"))
