"""Vectors in files, read a part at a time, and written so that no half is ever taken for a whole.

Vectors are the rows of a ``.npy`` file, which is mapped into memory, or a column of lists in a
Parquet file. A row keeps its place: row i of what is written belongs to row i of what was read.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

HASHED = 1 << 20  # bytes at either end of a file that go into its fingerprint
NAMED = 3  # bad ids that an error names
TYPES = [np.dtype(name) for name in ("float16", "float32", "float64")]  # of vectors
#: What bytes may stand for: signed ones are numbers, of unsigned ones the user says it.
BYTES = ("numbers", "bits")


class FileError(ValueError):
    """A file that cannot be what it is given as, or files that do not belong together."""


class Vectors(Protocol):
    """Rows of a file, with an id for each if the file has ids."""

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype
    ids: np.ndarray | None

    def chunks(self, start: int, size: int) -> Iterator[np.ndarray]:
        """Rows from ``start`` on, ``size`` at a time."""


# ---------------------------------------------------------------------------------------- reading


class NpyVectors:
    """The rows of a ``.npy`` file.

    Those that were quantised to bytes are read as float32: signed bytes as numbers, whose unit a
    map finds by itself; unsigned ones as numbers, or as bits, eight of them in a byte, that are
    -1 or 1.
    """

    def __init__(
        self, path: Path, ids: np.ndarray | None = None, unsigned: str | None = None
    ) -> None:
        self.path = path
        rows = self.rows = open_npy(path, "r")
        # Numbers of any byte order are read, but none that PyTorch has no type for.
        self.shape, self.dtype = rows.shape, rows.dtype.newbyteorder("=")
        self.bits = False
        if rows.ndim == 2 and self.dtype == np.uint8:
            if unsigned is None:
                raise FileError(
                    f"{path} holds uint8: numbers, or eight bits each? Say --uint8 numbers or "
                    "--uint8 bits."
                )
            self.bits = unsigned == "bits"
            self.shape = (len(rows), rows.shape[1] * (8 if self.bits else 1))
        if self.dtype in (np.int8, np.uint8):
            self.dtype = np.dtype(np.float32)
        if rows.ndim != 2 or 0 in rows.shape or self.dtype not in TYPES:
            raise FileError(
                f"{path} must hold vectors, floating-point numbers of 16, 32 or 64 bits or bytes, "
                f"of shape (rows, features); it holds {rows.dtype} of shape {rows.shape}."
            )
        self.ids = None if ids is None else check_ids(ids, len(rows), path)

    def chunks(self, start: int, size: int) -> Iterator[np.ndarray]:
        for first in range(start, len(self.rows), size):
            rows = self.rows[first : first + size]
            if self.bits:
                rows = np.unpackbits(rows, axis=1) * np.float32(2) - 1
            yield np.array(rows, self.dtype)


class ParquetVectors:
    """A column of vectors, and one of ids, of a Parquet file."""

    def __init__(self, path: Path, vector_column: str, id_column: str) -> None:
        try:
            from pyarrow import ArrowInvalid, parquet
        except ImportError as error:
            raise FileError(f"To read {path} takes pyarrow: pip install pyarrow.") from error

        self.path, self.column = path, vector_column
        try:
            self.file = parquet.ParquetFile(path)
        except (ArrowInvalid, OSError) as error:
            raise FileError(f"{path} is no Parquet file, or not a whole one: {error}") from error
        for name in (vector_column, id_column):
            if name not in self.file.schema_arrow.names:
                columns = ", ".join(self.file.schema_arrow.names)
                raise FileError(f"{path} has no column {name!r}; its columns are: {columns}.")
        table = parquet.read_table(path, columns=[id_column])
        without = table[id_column].null_count
        if without:
            raise FileError(f"Every row of {path} must have an id; {without} have none.")
        self.ids = check_ids(table[id_column].to_numpy(), len(table), path)
        first = next(self._batches(1), None)
        if first is None:
            raise FileError(f"{path} holds no rows.")
        self.shape, self.dtype = (len(table), first.shape[1]), first.dtype

    def chunks(self, start: int, size: int) -> Iterator[np.ndarray]:
        done = 0
        for rows in self._batches(size):
            fresh = rows[max(start - done, 0) :]
            done += len(rows)
            if len(fresh):
                if fresh.shape[1] != self.shape[1]:
                    raise FileError(
                        f"{self.path} holds vectors of {self.shape[1]} and of {fresh.shape[1]} "
                        f"features: see rows {done - len(rows)} to {done - 1}."
                    )
                yield fresh

    def _batches(self, size: int) -> Iterator[np.ndarray]:
        from pyarrow import compute

        for batch in self.file.iter_batches(size, columns=[self.column]):
            column = batch.column(0)
            try:
                widths = compute.unique(compute.list_value_length(column)).to_pylist()
                values = column.flatten().to_numpy(zero_copy_only=False)
            except (TypeError, NotImplementedError, AttributeError) as error:
                raise FileError(
                    f"Column {self.column!r} of {self.path} must hold lists of numbers; it holds "
                    f"{column.type}."
                ) from error
            if len(widths) != 1 or not widths[0] or values.dtype.kind != "f":
                raise FileError(
                    f"Column {self.column!r} of {self.path} must hold lists of floating-point "
                    f"numbers, all of one length; it holds {column.type} of lengths {widths}."
                )
            yield np.array(values.reshape(len(column), widths[0]))


def open_vectors(
    path: Path,
    ids: Path | None = None,
    vector_column: str = "vector",
    id_column: str = "id",
    unsigned: str | None = None,
) -> Vectors:
    """The vectors of a ``.npy`` file, with ids from another one if given, or of a Parquet file."""
    if path.suffix == ".parquet":
        if ids is not None:
            raise FileError(f"{path} has its ids in a column; {ids} is not wanted beside it.")
        return ParquetVectors(path, vector_column, id_column)
    return NpyVectors(path, None if ids is None else open_npy(ids, "r"), unsigned)


def open_npy(path: Path, mode: str) -> np.ndarray:
    """A ``.npy`` file mapped into memory, if it is one and neither too short nor too long."""
    try:
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{path} is no .npy file, or not a whole one: {error}") from error
    if not isinstance(array, np.memmap):
        raise FileError(f"{path} is an archive of several arrays. Give a .npy file of one.")
    wanted, found = array.offset + array.nbytes, path.stat().st_size
    if wanted != found:
        raise FileError(f"{path} must have {wanted} bytes by its header; it has {found}.")
    return array


def check_ids(ids: np.ndarray, rows: int, path: Path) -> np.ndarray:
    """The ids, if there is a different one for each row."""
    if ids.shape != (rows,):
        raise FileError(f"{path} has {rows} rows, but its ids are of shape {ids.shape}.")
    if ids.dtype == object:
        ids = ids.astype(str)
    if ids.dtype.kind not in "iuSU":
        raise FileError(f"Ids must be whole numbers or strings; those of {path} are {ids.dtype}.")
    values, counts = np.unique(ids, return_counts=True)
    if len(values) != rows:
        raise FileError(f"Ids must differ; in {path} {some(values[counts > 1])} come repeatedly.")
    return ids


def some(values: np.ndarray) -> str:
    """The first values, and how many there are."""
    first = ", ".join(str(value) for value in values[:NAMED])
    return first if len(values) <= NAMED else f"{first}, ... ({len(values)} of them)"


def match_rows(index: Vectors, pairs: Vectors) -> np.ndarray:
    """The row of the index that each pair belongs to, by their ids.

    Without ids of its own, a row of the index goes by its number.
    """
    wanted = pairs.ids
    if wanted is None:
        raise FileError(f"{pairs.path} needs ids: they say which rows of the index it encodes.")
    ids = np.arange(index.shape[0]) if index.ids is None else index.ids
    if ids.dtype.kind.replace("u", "i") != wanted.dtype.kind.replace("u", "i"):
        raise FileError(
            f"The ids of {index.path} are {ids.dtype}, those of {pairs.path} {wanted.dtype}: they "
            "cannot be the same ones."
        )
    order = np.argsort(ids, kind="stable")
    # Signed and unsigned numbers would meet as floating-point ones, where large ids coincide. What
    # an id loses in the type of the others shows below, where it is compared as it is.
    places = np.searchsorted(ids, wanted.astype(ids.dtype), sorter=order)
    places = np.minimum(places, len(ids) - 1)
    rows = order[places]
    foreign = ids[rows] != wanted
    if foreign.any():
        raise FileError(
            f"Every id of {pairs.path} must be in {index.path}; {some(wanted[foreign])} "
            f"{'is' if foreign.sum() == 1 else 'are'} not."
        )
    return rows


def finite_chunks(vectors: Vectors, first: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Chunks of rows, each with the number of its first row; NaN and infinity are refused."""
    for chunk in vectors.chunks(first, size):
        bad = np.flatnonzero(~np.isfinite(chunk).all(1))
        if len(bad):
            raise FileError(
                f"Row {first + bad[0]} of {vectors.path} is not finite. Repair it first."
            )
        yield first, chunk
        first += len(chunk)


def take(vectors: Vectors, rows: np.ndarray, size: int = 8192) -> np.ndarray:
    """Some rows, in the order asked for, in one pass over the file."""
    taken = np.empty((len(rows), vectors.shape[1]), vectors.dtype)
    for start, chunk in finite_chunks(vectors, 0, size):
        here = (rows >= start) & (rows < start + len(chunk))
        taken[here] = chunk[rows[here] - start]
    return taken


# ---------------------------------------------------------------------------------------- writing


def fingerprint(path: Path) -> str:
    """Of a file that may be large: its size, its age, and both of its ends."""
    status = path.stat()
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(HASHED))
        file.seek(max(status.st_size - HASHED, 0))
        digest.update(file.read(HASHED))
    return digest.hexdigest()


def convert(
    source: Vectors,
    out: Path,
    width: int,
    dtype: np.dtype,
    function: Callable[[np.ndarray], np.ndarray],
    identity: str,
    chunk_size: int = 8192,
    quiet: bool = False,
) -> int:
    """Write ``function`` of each chunk of rows to a ``.npy`` file; returns the row it began at.

    The rows go to ``out.part``, and ``out.journal`` says how many of them are safely there. Only
    a whole file gets the name ``out``. A program that was killed goes on where the journal ends,
    unless the source has changed or ``identity``, which stands for the function.
    """
    check_out(out)
    part, journal = (out.with_name(out.name + end) for end in (".part", ".journal"))
    shape = (source.shape[0], width)
    job = hashlib.sha256(
        f"{identity} {fingerprint(source.path)} {shape} {np.dtype(dtype)}".encode()
    ).hexdigest()
    begun = rows_done(part, journal, job, shape, dtype)
    if not begun:  # or what an earlier job noted could be taken for what this one has done
        journal.unlink(missing_ok=True)
    target = allocated(part, bool(begun), dtype, shape)
    done = begun
    hidden = True if quiet else None  # None: unless someone is looking
    with tqdm(total=shape[0], initial=begun, desc=out.name, unit="row", disable=hidden) as bar:
        for _, chunk in finite_chunks(source, begun, chunk_size):
            with np.errstate(over="ignore"):  # refused below
                moved = np.asarray(function(chunk)).astype(dtype, copy=False)
            bad = np.flatnonzero(~np.isfinite(moved).all(1))
            if len(bad):
                raise FileError(
                    f"Row {done + bad[0]} of {source.path} does not fit into {np.dtype(dtype)} "
                    "after the move. Give the new vectors in a wider type."
                )
            target[done : done + len(chunk)] = moved
            done += len(chunk)
            sync(target, part)
            replace(journal, json.dumps({"job": job, "rows": done}))
            bar.update(len(chunk))
    if done != shape[0]:
        raise FileError(f"{source.path} ended after {done} of {shape[0]} rows: has it changed?")
    del target
    os.replace(part, out)
    journal.unlink(missing_ok=True)
    return begun


def check_out(out: Path) -> None:
    """Refuse a name that cannot be written to, or that holds a whole file already."""
    if out.suffix != ".npy":
        raise FileError(f"What is written is a .npy file, whatever is read; {out} is no such name.")
    if out.exists():
        raise FileError(f"{out} is there already, and whole. Remove it, or choose another name.")
    if not out.parent.is_dir():
        raise FileError(f"There is no folder {out.parent} to write {out.name} to.")
    if not os.access(out.parent, os.W_OK):
        raise FileError(f"The folder {out.parent} cannot be written to.")


def rows_done(part: Path, journal: Path, job: str, shape: tuple[int, int], dtype: np.dtype) -> int:
    """How many rows of this very job are already in the part."""
    try:
        noted = json.loads(journal.read_text())
        noted_job, done = noted["job"], noted["rows"]
        rows = open_npy(part, "r")
    except (OSError, ValueError, TypeError, KeyError):
        return 0
    same = noted_job == job and rows.shape == shape and rows.dtype == dtype
    return done if same else 0


def allocated(path: Path, begun: bool, dtype: np.dtype, shape: tuple[int, int]) -> np.memmap:
    """A ``.npy`` file of this size mapped into memory, all of which is on the disk.

    Of a mapped file only what is written to takes space; where there is none left the system ends
    the program by a signal, without a word.
    """
    try:
        array = np.lib.format.open_memmap(path, "r+" if begun else "w+", dtype, shape)
        size = path.stat().st_size
        with path.open("r+b") as file:
            reserve(file.fileno(), size, path)
    except OSError as error:
        if not begun:
            path.unlink(missing_ok=True)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(path.parent).free
        raise FileError(
            f"{path} cannot be written: it takes {size} bytes, and {free} are free in "
            f"{path.parent} ({error.strerror}). Make room, and call again."
        ) from error
    return array


def reserve(file: int, size: int, path: Path) -> None:
    """Take the space of a whole file; what is in it stays."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:  # a system, or a file system, that cannot
        cannot = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, None)
        if getattr(error, "errno", None) not in cannot:
            raise
        taken = getattr(os.fstat(file), "st_blocks", 0) * 512
        if shutil.disk_usage(path.parent).free < size - taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def sync(array: np.memmap, path: Path) -> None:
    """Return when what was written is on the disk, not only in memory."""
    array.flush()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def replace(path: Path, text: str) -> None:
    """Write a small file under another name first: a reader never sees half of it."""
    new = path.with_name(path.name + ".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
