"""Ray Data, given a saved map and a folder of Parquet files, moves rows as one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import relreps

pytest.importorskip("ray")
SCRIPT = Path(__file__).parents[2] / "studies" / "scale" / "apply_with_ray.py"
ROWS, OLD, NEW = 2000, 12, 7


def apply(folder, *arguments):
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture
def vectors(tmp_path):
    """Four files of vectors with ids, and a map."""
    x, m = torch.randn(ROWS, OLD), torch.randn(OLD, NEW)
    arguments = {"in_features": OLD, "out_features": NEW}
    translator = relreps.AffineTranslator(**arguments).fit(x, x @ m + 1)
    saved = {"translator": "AffineTranslator", "arguments": arguments}
    torch.save({**saved, "state": translator.state_dict()}, tmp_path / "map.pt")
    (tmp_path / "old").mkdir()
    for number, rows in enumerate(torch.arange(ROWS).split(ROWS // 4)):
        columns = {"id": rows.tolist(), "vector": x[rows].tolist()}
        schema = pa.schema({"id": pa.int64(), "vector": pa.list_(pa.float32())})
        parquet.write_table(pa.table(columns, schema), tmp_path / "old" / f"{number}.parquet")
    return x, translator


def test_every_row_is_moved_and_keeps_its_id(vectors, tmp_path):
    x, translator = vectors
    done = apply(tmp_path, "--map", "map.pt", "--table", "old", "--out", "new")
    assert done.returncode == 0, done.stderr
    table = parquet.read_table(tmp_path / "new").sort_by("id")
    assert table["id"].to_pylist() == list(range(ROWS))
    moved = torch.tensor(table["vector"].to_pylist())
    torch.testing.assert_close(moved, translator(x), rtol=1e-5, atol=1e-5)
    assert not (tmp_path / "new.part").exists()

    again = apply(tmp_path, "--map", "map.pt", "--table", "old", "--out", "new")
    assert again.returncode != 0
    assert "is there already" in again.stderr


def test_vectors_of_another_width_are_refused(vectors, tmp_path):
    odd = pa.table({"id": [1], "vector": [[1.0] * (OLD - 1)]})
    parquet.write_table(odd, tmp_path / "odd.parquet")
    done = apply(tmp_path, "--map", "map.pt", "--table", "odd.parquet", "--out", "new")
    assert done.returncode != 0
    assert f"must hold vectors of {OLD} features" in done.stderr + done.stdout
    assert not (tmp_path / "new").exists()
