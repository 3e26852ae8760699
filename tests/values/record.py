"""Record the values of new cases: ``python tests/values/record.py [BEGINNING ...]``.

The package that is recorded is the one in the working directory. What was recorded stays, as it
says what the values were, but for cases whose names have one of these beginnings; ``--force``: for
none. Long results are stored as a few of their entries, their norm, and their products with fixed
signs, which see every entry.
"""

import json
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).with_name("recorded.npz")
#: Entries up to which a result is stored whole, and how many are stored of a longer one.
WHOLE, FEW = 48, 12
#: Relative tolerance, and absolute one in units of the size of the value.
LOOSE, TIGHT = (1e-4, 1e-5), (1e-8, 1e-8)


def encoded(results):
    """What is stored of the results of a case."""
    return {name: _encoded(value) for name, value in results.items()}


def differences(recorded, found, tight=False, slack=1.0):
    """What differs between two sets of encoded results, one line each."""
    lines = [f"{name}: not in both" for name in sorted(set(recorded) ^ set(found))]
    for name in sorted(set(recorded) & set(found)):
        (*kind, old), (*other, new) = recorded[name], found[name]
        if kind != other:
            lines.append(f"{name}: {other} instead of {kind}")
        elif kind[0] == "text":
            lines += [f"{name}: {new!r} instead of {old!r}"] * (old != new)
        elif not (near := _near(old, new, kind, tight, slack)).all():
            at = int(np.argmin(near))
            lines.append(f"{name}: {new[at]!r} instead of {old[at]!r} ({at} of {old.size})")
    return lines


def save(file, results):
    """Write encoded results of each case, one array a type."""
    arrays = {"float32": [], "float64": [], "int64": [], "bool": []}
    for case in results.values():
        for kind, _, data in case.values():
            if kind != "text":
                arrays[kind].append(data)
    index = {
        name: {entry: [kind, shape, data if kind == "text" else data.size]
               for entry, (kind, shape, data) in case.items()}
        for name, case in results.items()
    }  # fmt: skip
    packed = {kind: np.concatenate(parts) for kind, parts in arrays.items()}
    text = np.frombuffer(json.dumps(index, separators=(",", ":")).encode(), np.uint8)
    np.savez_compressed(file, index=text, **packed)


def load(file=FILE):
    """Encoded results of each case, as they were written."""
    with np.load(file) as stored:
        arrays = {kind: stored[kind] for kind in stored.files}
    index = json.loads(arrays.pop("index").tobytes())
    position = dict.fromkeys(arrays, 0)
    for case in index.values():
        for entry, (kind, shape, size) in case.items():
            if kind != "text":
                start = position[kind]
                position[kind] = start + size
                case[entry] = [kind, shape, arrays[kind][start : start + size]]
    return index


def _encoded(value):
    """Type, shape and content of a result: text, or a flat array."""
    if isinstance(value, str):
        return ["text", [], value]
    if isinstance(value, torch.Tensor):
        value = (value.to_dense() if value.layout != torch.strided else value).detach().numpy()
    array = np.asarray(value)
    return [str(array.dtype), list(array.shape), _shortened(array.reshape(-1))]


def _shortened(flat):
    if flat.size <= WHOLE or flat.dtype == bool:
        return flat
    few = flat[np.linspace(0, flat.size - 1, FEW).astype(int)]
    if flat.dtype.kind != "f":
        return np.append(flat.dtype.type(zlib.crc32(flat.tobytes()) % 2**31), few)
    wide = flat.astype(np.float64)
    signs = np.random.RandomState(0).randint(0, 2, (4, flat.size)) * 2 - 1
    return np.concatenate(([np.linalg.norm(wide)], signs @ wide, few)).astype(flat.dtype)


def _near(old, new, kind, tight, slack):
    """Whether entries agree; integers exactly, others up to the rounding of their size."""
    if not kind[0].startswith("float"):
        return old == new
    relative, absolute = TIGHT if tight and kind[0] == "float64" else LOOSE
    finite = np.abs(old[np.isfinite(old)])
    size = finite.max() if finite.size and finite.max() > 0 else 1.0
    with np.errstate(invalid="ignore"):
        close = np.abs(new - old) <= slack * (relative * np.abs(old) + absolute * size)
    return (close & np.isfinite(old)) | (old == new) | (np.isnan(old) & np.isnan(new))


def main():
    """Run cases of the package in the working directory, and write what they give."""
    anew = tuple(sys.argv[1:])
    kept = load() if FILE.exists() and "--force" not in anew else {}
    kept = {name: values for name, values in kept.items() if not (anew and name.startswith(anew))}
    sys.path.insert(0, os.getcwd())
    from cases import CASES

    import relreps

    torch.set_num_threads(1)
    new = {name: encoded(case.run()) for name, case in CASES.items() if name not in kept}
    results = {name: kept.get(name) or new[name] for name in CASES}
    save(FILE, results)
    entries = sum(map(len, results.values()))
    size = FILE.stat().st_size
    print(f"{relreps.__file__}: {len(new)} new cases; {entries} results of all, {size} bytes")


if __name__ == "__main__":
    main()
