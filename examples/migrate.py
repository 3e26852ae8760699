"""A vector index moved to a new embedding model: files in, files out.

The index holds vectors of the old model. A few hundred of its texts are encoded by the new one, a
map is fitted on these pairs, and everything else is moved without being encoded again. For real
jobs there is `studies/migrate_index.py`: it takes ids and Parquet, and goes on where it was killed.

    python examples/migrate.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

import relreps
from relreps.metrics import recall_at_k

# Files as they would be there: 5000 old vectors, and new ones for 500 of them.
folder = Path(tempfile.mkdtemp())
generator = torch.Generator().manual_seed(0)
meaning = torch.randn(5000, 48, generator=generator)
old, new = (
    meaning @ torch.randn(48, width, generator=generator)
    + 2 * torch.randn(5000, width, generator=generator)
    for width in (64, 96)
)
rows = torch.randperm(5000, generator=generator)[:500]
np.save(folder / "old.npy", old.numpy())
np.save(folder / "pairs.npy", new[rows].numpy())
np.save(folder / "rows.npy", rows.numpy())

# Look first at how well pairs that a map was not fitted on find their rows in the moved index.
index = np.load(folder / "old.npy", mmap_mode="r")
x = torch.from_numpy(index[np.load(folder / "rows.npy")])
y = torch.from_numpy(np.load(folder / "pairs.npy"))
translator = relreps.AffineTranslator(x.shape[1], y.shape[1], ridge="gcv")
stored = (torch.from_numpy(np.array(part)) for part in np.array_split(index, 5))  # one at a time
report = relreps.translation_report(translator, x, y, index=stored)
print(f"{report}\n")
if report.recall_at_10 < 0.9:
    raise SystemExit("Too little is kept: encode more pairs.")
translator.fit(x, y)

# Move the index a part at a time, and keep the map for vectors that come later. What is written,
# not mapped into memory, ends in an error where the disk is full.
with (folder / "moved.npy").open("wb") as file:
    shape = len(index), y.shape[1]
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, len(index), 1000):
        part = torch.from_numpy(np.array(index[start : start + 1000]))
        file.write(translator(part).numpy().tobytes())
torch.save(translator.state_dict(), folder / "map.pt")

# Every text, encoded again, searches the whole index for itself.
searched = torch.from_numpy(np.load(folder / "moved.npy"))
padded = torch.nn.functional.pad(old, (0, new.shape[1] - old.shape[1]))
recalls = {"moved": recall_at_k(new, searched, k=1), "not moved": recall_at_k(new, padded, k=1)}
print("| index of 5000 texts | own row first |\n| ------------------- | ------------: |")
for name, recall in recalls.items():
    print(f"| {name:19} | {recall.item():13.3f} |")
print(f"\nThe files are in {folder}.")
