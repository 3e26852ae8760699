"""The migration of an index on files: what is written is whole and right, or is not there."""

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import relreps

STUDIES = Path(__file__).parents[1] / "studies"
# The studies are in the repository alone, not in what is released.
migrate_index = pytest.importorskip("migrate_index")
files, methods = (importlib.import_module(f"migration.{name}") for name in ("files", "methods"))
FileError, NpyVectors, convert = files.FileError, files.NpyVectors, files.convert
match_rows, open_vectors, take = files.match_rows, files.open_vectors, files.take
METHODS, identity, move = methods.METHODS, methods.identity, methods.move

ROWS, OLD, NEW = 1000, 8, 6


@pytest.fixture
def data(tmp_path):
    """An index, the whole of it encoded again, and files of both."""
    generator = np.random.default_rng(0)
    old = generator.normal(size=(ROWS, OLD)).astype(np.float32)
    new = (old @ generator.normal(size=(OLD, NEW)) + 2).astype(np.float32)
    rows = generator.permutation(ROWS)[:100]
    np.save(tmp_path / "old.npy", old)
    np.save(tmp_path / "new.npy", new[rows])
    np.save(tmp_path / "ids.npy", rows)
    return old, new, rows


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command line."""

    def command(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["migrate_index.py", *arguments])
        with pytest.raises(SystemExit) as end:
            migrate_index.main()
        return Done(end.value.code, *capsys.readouterr())

    return command


OWN_FILES = ("--index", "old.npy", "--pairs", "new.npy", "--pair-ids", "ids.npy")


def test_the_command_moves_every_row(data, tmp_path, run):
    _, new, _ = data
    done = run(*OWN_FILES, "--out", "moved.npy", "--chunk-size", "64")
    assert done.returncode == 0, done.stderr
    assert "Go." in done.stdout
    # The report and the gate say the same of the same rows.
    assert (
        "moved rows are searched: own row first 1.000 (0.963 to 1.000, chance 0.001)" in done.stdout
    )
    assert "of 100 in 1000 rows" in done.stdout
    assert (
        "Own row among ten, of the whole moved index: 1.000 (0.963 to 1.000) of 100" in done.stdout
    )
    assert "the queries moved instead, to the index as it is: own row first" in done.stdout
    np.testing.assert_allclose(np.load(tmp_path / "moved.npy"), new, atol=1e-2)
    assert sorted(path.name for path in tmp_path.glob("moved*")) == [
        "moved.npy",
        "moved.npy.map.pt",
    ]
    translator = methods.load_map(tmp_path / "moved.npy.map.pt")
    moved = move(translator)(np.load(tmp_path / "old.npy"))
    np.testing.assert_allclose(moved, np.load(tmp_path / "moved.npy"), rtol=1e-5, atol=1e-5)


def test_the_gate_shuts(data, tmp_path, run):
    np.save(tmp_path / "new.npy", np.random.default_rng(1).normal(size=(100, NEW)))
    done = run(*OWN_FILES, "--out", "moved.npy")
    assert done.returncode == 3, done.stderr
    assert "No go" in done.stdout
    assert not list(tmp_path.glob("moved*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--index", "none.npy", *OWN_FILES[2:]), "no .npy file"),
        (("--index", "ids.npy", *OWN_FILES[2:]), "must hold vectors"),
        (OWN_FILES[:4], "needs ids"),
        ((*OWN_FILES, "--out", "no/such/folder.npy"), "no folder"),
        ((*OWN_FILES, "--out", "moved.parquet"), "a .npy file"),
        ((*OWN_FILES, "--threshold", "90"), "must be from 0 to 1"),
        (("--pairs", "new.npy"), "needs --index"),
    ],
)
def test_the_command_refuses_in_one_line(data, tmp_path, run, arguments, message):
    out = () if "--out" in arguments else ("--out", "moved.npy")
    done = run(*arguments, *out)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.glob("moved*"))


# ------------------------------------------------------------------------------------- being killed


def doubled(chunk):
    return 2 * chunk


def test_a_failure_leaves_nothing_that_looks_whole_and_the_next_run_goes_on(data, tmp_path):
    old, *_ = data
    source, out = NpyVectors(tmp_path / "old.npy"), tmp_path / "out.npy"
    seen = []

    def fails(chunk):
        if len(seen) == 3:
            raise RuntimeError("out of something")
        seen.append(len(chunk))
        return doubled(chunk)

    with pytest.raises(RuntimeError, match="out of something"):
        convert(source, out, OLD, np.float32, fails, "doubled", 100)
    assert not out.exists()

    counted = []

    def counts(chunk):
        counted.append(len(chunk))
        return doubled(chunk)

    assert convert(source, out, OLD, np.float32, counts, "doubled", 100) == 300
    assert sum(counted) == ROWS - 300
    np.testing.assert_array_equal(np.load(out), 2 * old)
    assert [path.name for path in tmp_path.glob("out*")] == ["out.npy"]


KILLED = """
import os, signal, sys
import numpy as np
from migration.files import NpyVectors, convert

chunks = []

def dies(chunk):
    chunks.append(chunk)
    if len(chunks) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * chunk

convert(NpyVectors(__import__("pathlib").Path("old.npy")), __import__("pathlib").Path("out.npy"),
        8, np.float32, dies, "doubled", 100)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with SIGKILL")
def test_a_killed_process_is_resumed(data, tmp_path):
    old, *_ = data
    environment = {**os.environ, "PYTHONPATH": str(STUDIES)}
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    out = tmp_path / "out.npy"
    assert not out.exists()
    begun = convert(NpyVectors(tmp_path / "old.npy"), out, OLD, np.float32, doubled, "doubled", 100)
    assert begun == 400
    np.testing.assert_array_equal(np.load(out), 2 * old)


def interrupted(folder, identity="doubled", chunks=4):
    """Leave a part of 100 rows a chunk behind."""
    seen = []

    def fails(chunk):
        seen.append(chunk)
        if len(seen) > chunks:
            raise KeyboardInterrupt
        return doubled(chunk)

    source = NpyVectors(folder / "old.npy")
    with pytest.raises(KeyboardInterrupt):
        convert(source, folder / "out.npy", OLD, np.float32, fails, identity, 100)


def finish(folder, identity="doubled", dtype=np.float32):
    source = NpyVectors(folder / "old.npy")
    begun = convert(source, folder / "out.npy", OLD, dtype, doubled, identity, 100)
    np.testing.assert_array_equal(np.load(folder / "out.npy"), 2 * np.load(folder / "old.npy"))
    return begun


def test_what_another_map_has_begun_is_begun_again(data, tmp_path):
    interrupted(tmp_path, "another map")
    assert finish(tmp_path) == 0


def test_what_was_begun_from_another_index_is_begun_again(data, tmp_path):
    interrupted(tmp_path)
    np.save(tmp_path / "old.npy", data[0] + 1)
    assert finish(tmp_path) == 0


def test_what_was_begun_in_another_type_is_begun_again(data, tmp_path):
    interrupted(tmp_path)
    assert finish(tmp_path, dtype=np.float64) == 0


@pytest.mark.parametrize("damage", ["journal cut", "journal foreign", "part cut", "part gone"])
def test_damaged_traces_are_begun_again(data, tmp_path, damage):
    interrupted(tmp_path)
    name, how = damage.split()
    path = tmp_path / f"out.npy.{name}"
    if how == "gone":
        path.unlink()
    elif how == "foreign":
        path.write_text("[]")
    else:
        os.truncate(path, path.stat().st_size // 2)
    assert finish(tmp_path) == 0


def test_an_old_journal_does_not_vouch_for_a_new_part(data, tmp_path):
    interrupted(tmp_path, chunks=4)
    (tmp_path / "out.npy.part").unlink()
    interrupted(tmp_path, chunks=0)  # makes a new part, and notes nothing
    assert finish(tmp_path) == 0


def test_killed_just_before_the_last_step(data, tmp_path):
    interrupted(tmp_path, chunks=9)
    part, journal = tmp_path / "out.npy.part", tmp_path / "out.npy.journal"
    rows = np.load(part, mmap_mode="r+")
    rows[900:] = 2 * data[0][900:]
    journal.write_text(json.dumps({**json.loads(journal.read_text()), "rows": ROWS}))
    assert finish(tmp_path) == ROWS


def test_a_whole_file_is_not_overwritten(data, tmp_path):
    finish(tmp_path)
    with pytest.raises(FileError, match="is there already, and whole"):
        finish(tmp_path)


def test_rows_that_are_not_finite_are_named(data, tmp_path):
    data[0][437, 2] = np.nan
    np.save(tmp_path / "old.npy", data[0])
    with pytest.raises(FileError, match="Row 437 of"):
        finish(tmp_path)
    assert not (tmp_path / "out.npy").exists()


def test_rows_that_are_not_finite_are_refused_before_anything_is_written(data, tmp_path, run):
    old, new, rows = data
    for name, vectors, row in (("old.npy", old, 437), ("new.npy", new[rows], 7)):
        damaged = vectors.copy()
        damaged[row, 2] = np.nan
        np.save(tmp_path / name, damaged)
        done = run(*OWN_FILES, "--out", "moved.npy")
        assert done.returncode == 2
        assert f"Row {row} of {name} is not finite" in done.stderr
        assert not list(tmp_path.glob("moved*"))
        np.save(tmp_path / name, vectors)


def test_rows_that_do_not_fit_the_type_are_named(data, tmp_path):
    source = NpyVectors(tmp_path / "old.npy")
    with pytest.raises(FileError, match=r"Row 0 of .* does not fit into float16"):
        convert(source, tmp_path / "out.npy", OLD, np.float16, lambda chunk: 1e6 * chunk, "large")
    assert not (tmp_path / "out.npy").exists()


def test_pairs_that_determine_no_map_are_refused_in_one_line(data, tmp_path, run):
    np.save(tmp_path / "new.npy", np.ones((100, NEW)))
    done = run(*OWN_FILES, "--out", "moved.npy")
    assert done.returncode == 2
    assert "must vary together" in done.stderr
    assert not list(tmp_path.glob("moved*"))


def test_a_full_disk_is_named_before_anything_is_written(data, tmp_path, run, monkeypatch):
    """A mapped file of which no room was kept ends the program by a signal instead."""

    def full(file, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    done = run(*OWN_FILES, "--out", "moved.npy")
    assert done.returncode == 2
    assert "moved.npy.part cannot be written: it takes 24000 bytes" in done.stderr
    assert "No space left" in done.stderr
    assert [path.name for path in tmp_path.glob("moved*")] == ["moved.npy.map.pt"]


def test_all_of_a_file_is_on_the_disk_before_it_is_filled(data, tmp_path):
    target = files.allocated(tmp_path / "part.npy", False, np.float32, (5000, 64))
    assert target.shape == (5000, 64)
    assert (tmp_path / "part.npy").stat().st_blocks * 512 >= target.nbytes


@pytest.mark.parametrize("room", [True, False])
def test_where_room_cannot_be_kept_it_is_looked_for(data, tmp_path, monkeypatch, room):
    def cannot(file, start, size):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    free = shutil.disk_usage(tmp_path)._replace(free=10**12 if room else 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    if room:
        assert finish(tmp_path) == 0
    else:
        with pytest.raises(FileError, match="100 are free"):
            finish(tmp_path)


def test_a_map_that_cannot_be_saved_is_named(data, tmp_path, monkeypatch):
    made = methods.recipe("ridge-gcv", (OLD, NEW), 100)
    with pytest.raises(FileError, match="cannot be written"):
        methods.save_map(tmp_path / "no" / "map.pt", made, made.make())


def test_a_folder_that_cannot_be_written_to(data, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FileError, match="cannot be written to"):
        files.check_out(tmp_path / "out.npy")


# ----------------------------------------------------------------------------------- files and ids


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floating_point_numbers_of_any_layout(data, tmp_path, run, kind, order):
    old, new, rows = data
    np.save(tmp_path / "old.npy", np.asarray(old, kind, order=order))
    np.save(tmp_path / "new.npy", np.asarray(new[rows], ">f4", order=order))
    done = run(*OWN_FILES, "--out", "moved.npy")
    assert done.returncode == 0, done.stderr
    moved = np.load(tmp_path / "moved.npy")
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, new, atol=2e-2)


@pytest.mark.parametrize("kind", ["int8", "numbers", "bits"])
def test_stored_bytes_are_read_by_name(data, tmp_path, run, kind):
    old, new, _ = data
    if kind == "bits":
        stored, read = np.packbits(old > 0, axis=1), np.where(old > 0, 1, -1)
    else:
        low = {"int8": -127, "numbers": 0}[kind]
        read = np.round((old - old.min()) / np.ptp(old) * 250 + low).clip(low, low + 254)
        stored = read.astype(np.int8 if kind == "int8" else np.uint8)
    np.save(tmp_path / "old.npy", stored)
    unsigned = None if kind == "int8" else kind
    index = open_vectors(tmp_path / "old.npy", unsigned=unsigned)
    assert (index.shape, index.dtype) == ((ROWS, OLD), np.float32)
    np.testing.assert_array_equal(np.concatenate(list(index.chunks(0, 300))), read)
    named = () if unsigned is None else ("--uint8", unsigned)
    done = run(*OWN_FILES, "--out", "moved.npy", "--threshold", "0", *named)
    assert done.returncode == 0, done.stderr
    moved = np.load(tmp_path / "moved.npy")
    assert moved.dtype == np.float32
    if kind != "bits":
        np.testing.assert_allclose(moved, new, atol=0.15)
    if unsigned:
        done = run(*OWN_FILES, "--out", "other.npy")
        assert done.returncode == 2
        assert "holds uint8: numbers, or eight bits each?" in done.stderr


def test_damaged_and_foreign_files_are_refused(data, tmp_path):
    path = tmp_path / "old.npy"
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], "not a whole one"),
        (whole[:40], "not a whole one"),
        (whole + b"\0", "must have"),
        (b"", "no .npy file"),
        (b"PAR1 something else", "no .npy file"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=message):
            open_vectors(path)
    np.savez(tmp_path / "archive.npz", data[0])
    with pytest.raises(FileError, match="archive"):
        open_vectors(tmp_path / "archive.npz")
    for array in (
        np.zeros(3),
        np.zeros((3, 2), int),
        np.zeros((0, 2)),
        np.array([["a"]]),
        np.zeros((3, 2), complex),
    ):
        np.save(path, array)
        with pytest.raises(FileError, match="must hold vectors"):
            open_vectors(path)
    np.save(path, np.array([[None]]), allow_pickle=True)
    with pytest.raises(FileError, match=r"no \.npy file"):
        open_vectors(path)


def vectors(folder, name, ids, count=None):
    count = len(ids) if count is None else count
    np.save(folder / f"{name}.npy", np.arange(2.0 * count).reshape(count, 2))
    np.save(folder / f"{name}-ids.npy", np.array(ids))
    return open_vectors(folder / f"{name}.npy", folder / f"{name}-ids.npy")


def test_pairs_are_matched_by_id_whatever_their_order(tmp_path):
    index = vectors(tmp_path, "index", ["c", "a", "d", "b"])
    pairs = vectors(tmp_path, "pairs", ["b", "a"])
    rows = match_rows(index, pairs)
    assert rows.tolist() == [3, 1]
    np.testing.assert_array_equal(take(index, rows, 3), [[6, 7], [2, 3]])


def test_large_signed_and_unsigned_ids_match(tmp_path):
    large = 2**60 + np.arange(5)
    index = vectors(tmp_path, "index", large)
    pairs = vectors(tmp_path, "pairs", large[[4, 1]].astype(np.uint64))
    assert match_rows(index, pairs).tolist() == [4, 1]


@pytest.mark.parametrize(
    ("index", "pairs", "message"),
    [
        ([1, 2, 3], [2, 4], "4 is not"),
        (["a", "b"], ["b", "c", "d", "e", "f"], r"c, d, e, \.\.\. \(4 of them\) are not"),
        ([1, 2, 3], ["1", "2"], "cannot be the same ones"),
        (["a", "b"], [b"a", b"b"], "cannot be the same ones"),
        (["a", "b"], ["a", "bc"], "bc is not"),
        (np.array([2**64 - 1, 0], np.uint64), [-1], "-1 is not"),
        ([1, 2, 2], [1], "2 come repeatedly"),
        ([1, 2], [2, 2], "2 come repeatedly"),
        ([1.5, 2.5], [1], "whole numbers or strings"),
        ([[1, 2], [3, 4]], [1], "its ids are of shape"),
    ],
)
def test_ids_that_do_not_match_are_refused(tmp_path, index, pairs, message):
    with pytest.raises(FileError, match=message):
        match_rows(vectors(tmp_path, "index", index), vectors(tmp_path, "pairs", pairs))


def test_as_many_ids_as_rows(tmp_path):
    with pytest.raises(FileError, match="has 4 rows, but its ids are of shape"):
        vectors(tmp_path, "index", [1, 2, 3], count=4)


def test_numbers_of_rows_must_be_in_the_index(data, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(901, 1001))
    pairs = open_vectors(tmp_path / "new.npy", tmp_path / "ids.npy")
    with pytest.raises(FileError, match="1000 is not"):
        match_rows(NpyVectors(tmp_path / "old.npy"), pairs)


def test_parquet_in_chunks(data, tmp_path, run):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    old, new, rows = data
    ids = np.array([f"text {i}" for i in range(ROWS)])

    def table(path, vectors, ids):
        columns = {"id": pa.array(ids.tolist()), "vector": pa.array(list(vectors))}
        parquet.write_table(pa.table(columns), path, row_group_size=170)

    table(tmp_path / "old.parquet", old, ids)
    table(tmp_path / "new.parquet", new[rows], ids[rows])
    index = open_vectors(tmp_path / "old.parquet")
    assert (index.shape, index.dtype) == ((ROWS, OLD), np.float32)
    np.testing.assert_array_equal(np.concatenate(list(index.chunks(130, 64))), old[130:])
    arguments = ("--index", "old.parquet", "--pairs", "new.parquet", "--out", "moved.npy")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "moved.npy"), new, atol=1e-2)

    os.truncate(tmp_path / "old.parquet", 1000)
    with pytest.raises(FileError, match="not a whole one"):
        open_vectors(tmp_path / "old.parquet")
    with pytest.raises(FileError, match="has no column 'embedding'; its columns are: id, vector"):
        open_vectors(tmp_path / "new.parquet", vector_column="embedding")
    parquet.write_table(
        pa.table({"id": ["a", None], "vector": [[1.0]] * 2}), tmp_path / "odd.parquet"
    )
    with pytest.raises(FileError, match="1 have none"):
        open_vectors(tmp_path / "odd.parquet")
    for column in ([[1.0, 2.0], [3.0]], [[1.0], None], ["a", "b"], [[1], [2]]):
        rows = pa.table({"id": [1, 2], "vector": column})
        parquet.write_table(rows, tmp_path / "odd.parquet")
        with pytest.raises(FileError, match="must hold lists"):
            list(open_vectors(tmp_path / "odd.parquet").chunks(0, 2))


# ---------------------------------------------------------------------------------------- the gate


@pytest.mark.parametrize("metric", ["cosine", "inner", "euclidean"])
def test_ranks_over_the_whole_index_are_those_of_a_search(data, tmp_path, metric):
    old, new, rows = data
    noisy = torch.from_numpy(new + np.random.default_rng(2).normal(size=new.shape)).float()
    translator = relreps.ProcrustesTranslator(OLD, NEW).fit(torch.from_numpy(old), noisy)
    index = NpyVectors(tmp_path / "old.npy")
    found = methods.own_rows_found(translator, index, rows, noisy[rows], metric, 64)
    keys, queries = translator(torch.from_numpy(old)).double(), noisy[rows].double()
    if metric == "cosine":
        keys, queries = (torch.nn.functional.normalize(side, dim=1) for side in (keys, queries))
    scores = -torch.cdist(queries, keys) if metric == "euclidean" else queries @ keys.T
    ranks = scores.argsort(1, descending=True).argsort(1)[range(100), rows]
    assert found.at_1 == pytest.approx((ranks < 1).double().mean().item())
    assert found.at_10 == pytest.approx((ranks < 10).double().mean().item())
    assert 0 < found.at_1 < found.at_10 < 1


def test_the_gate_judges_what_is_written_by_the_metric_of_the_index(data, tmp_path, run):
    """Of rows that a ridge has shortened, more are found by cosine than by inner product."""
    _, new, rows = data
    noise = np.random.default_rng(3).normal(size=new.shape)
    unit = new - 2 + 0.5 * noise
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / "new.npy", unit[rows])
    found = {}
    for metric in ("cosine", "inner", "euclidean"):
        for normalize in ("--normalize", "--no-normalize"):
            out = f"{metric}{normalize}.npy"
            options = ("--metric", metric, normalize, "--threshold", "0", "--no-rescale")
            done = run(*OWN_FILES, "--out", out, *options)
            assert done.returncode == 0, done.stderr
            moved = torch.from_numpy(np.load(tmp_path / out))
            lengths = moved.norm(dim=1)
            assert bool((lengths - 1).abs().max() < 1e-5) is (normalize == "--normalize")
            assert ("the target's rows have length 1" in done.stdout) is bool(lengths.mean() < 0.99)
            told = done.stdout.partition("of the whole moved index: ")[2].split()[0]
            found[metric, normalize] = float(told)
            queries = torch.from_numpy(unit[rows])
            if metric == "cosine":
                moved = torch.nn.functional.normalize(moved, dim=1)
            scores = -torch.cdist(queries, moved) if metric == "euclidean" else queries @ moved.T
            ahead = (scores > scores.gather(1, torch.from_numpy(rows)[:, None])).sum(1)
            assert float(told) == pytest.approx((ahead < 10).double().mean().item(), abs=0.08)
    assert len({found[metric, "--normalize"] for metric in ("cosine", "inner", "euclidean")}) == 1
    assert found["inner", "--no-normalize"] < found["cosine", "--no-normalize"] - 0.05


def test_an_index_of_moved_and_new_vectors_has_a_gate_of_its_own(data, tmp_path, run):
    _, new, rows = data
    noisy = new + 3 * np.random.default_rng(3).normal(size=new.shape).astype(np.float32)
    np.save(tmp_path / "new.npy", noisy[rows])
    options = (*OWN_FILES, "--threshold", "0", "--no-rescale", "--metric", "inner")
    assert run(*options, "--out", "plain.npy").returncode == 0
    done = run(*options, "--out", "moved.npy", "--mixed")
    assert done.returncode == 3, done.stdout
    assert "of the ten nearest are not; wanted: 0.35 to 0.65" in done.stdout
    assert not list(tmp_path.glob("moved*"))


def test_a_method_that_cannot_normalise_says_so(data, tmp_path, run):
    arguments = ("--out", "moved.npy", "--method", "inverse-relative")
    done = run(*OWN_FILES, *arguments, "--normalize")
    assert done.returncode == 2
    assert "does not give rows of length one" in done.stderr
    assert run(*OWN_FILES, *arguments, "--threshold", "0").returncode == 0


def test_one_identity_for_each_map(data):
    old, new, _ = map(torch.from_numpy, data)
    first, same = (relreps.ProcrustesTranslator(OLD, NEW).fit(old, new) for _ in range(2))
    other = relreps.ProcrustesTranslator(OLD, NEW).fit(old, new + 1)
    assert identity(first) == identity(same) != identity(other)


def test_what_is_no_map_is_refused(data, tmp_path):
    path = tmp_path / "map.pt"
    made = methods.recipe("ridge-gcv", (OLD, NEW), 100)
    old, new, _ = map(torch.from_numpy, data)
    methods.save_map(path, made, made.make().fit(old, new))
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], (tmp_path / "old.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(FileError, match="no saved map"):
            methods.load_map(path)
    torch.save(made.make().state_dict(), path)
    with pytest.raises(FileError, match="no saved map"):
        methods.load_map(path)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_fits_and_moves(data, name):
    old, new, rows = map(torch.from_numpy, data)
    translator = methods.recipe(name, (OLD, NEW), len(rows)).make().fit(old[rows], new[rows])
    assert move(translator)(data[0]).shape == (ROWS, NEW)
