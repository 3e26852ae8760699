"""Apply a saved map to a table of vectors that is larger than one machine, with Ray Data.

    pip install 'relreps[scale]'
    python studies/scale/apply_with_ray.py --map map.pt --table old/ --out new/

`--table` is a Parquet file or a folder of them; all columns are kept, and the column of vectors is
replaced. Each worker loads the map once. The result is written to `new.part` and gets its name when
it is whole. `--map` is what `fit_distributed.py` or `studies/migrate_index.py` wrote.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

import relreps


class Move:
    """The translator, in a worker: from tables to tables."""

    def __init__(self, path: str, column: str) -> None:
        saved = torch.load(path, weights_only=True)
        self.translator = getattr(relreps.translate, saved["translator"])(**saved["arguments"])
        self.translator.load_state_dict(saved["state"])
        self.column = column

    @torch.no_grad()
    def __call__(self, table: pa.Table) -> pa.Table:
        column = table[self.column].combine_chunks()
        width = self.translator.in_features
        widths = set(pc.unique(pc.list_value_length(column)).to_pylist())
        if widths - {width}:
            raise ValueError(
                f"Column {self.column!r} must hold vectors of {width} features, as the map has; "
                f"got {sorted(widths, key=str)}."
            )
        values = column.flatten().to_numpy(zero_copy_only=False)
        rows = torch.tensor(values.reshape(len(column), width))
        moved = self.translator(rows).numpy()
        if not np.isfinite(moved).all():
            raise ValueError(f"Column {self.column!r} holds vectors that are not finite.")
        vectors = pa.FixedSizeListArray.from_arrays(moved.ravel(), moved.shape[1])
        return table.set_column(table.schema.get_field_index(self.column), self.column, vectors)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--map", type=Path, required=True, help="saved translator")
    parser.add_argument("--table", type=Path, required=True, help="Parquet file, or folder of them")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--column", default="vector", help="of the vectors")
    parser.add_argument("--workers", type=int, default=1, help="most at once, a core each")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    if options.out.exists():
        raise SystemExit(f"{options.out} is there already. Remove it, or choose another name.")
    part = options.out.with_name(options.out.name + ".part")
    if part.exists():
        raise SystemExit(f"{part} is left from a run that did not end. Remove it.")
    table = ray.data.read_parquet(str(options.table.resolve()))
    moved = table.map_batches(
        Move,
        fn_constructor_args=(str(options.map.resolve()), options.column),
        batch_format="pyarrow",
        batch_size=8192,
        # One to begin with: workers on every core would wait for readers that find none free.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=options.workers),
    )
    moved.write_parquet(str(part.resolve()))
    part.rename(options.out)
    print(f"Written to {options.out}.")


if __name__ == "__main__":
    main()
