"""Move a vector index to a new embedding model without encoding everything again.

The vectors of the old model are stored; the texts of a few hundred or thousand of them are
encoded by the new model. A translator is fitted on these pairs and moves the stored vectors, and
the new model's queries search the result.

    make migrate                                        # real glosses, MiniLM to mE5
    python studies/migrate_index.py --index old.npy --pairs new.npy --pair-ids ids.npy \\
        --out moved.npy                                 # your own files

Your own files. `--index` holds the old vectors, `--pairs` the new vectors of some of its rows:
`.npy` files both, or Parquet files with a column of vectors and one of ids. `--pair-ids` (and
`--index-ids`) are `.npy` files of whole numbers or strings; without `--index-ids` a row of the
index goes by its number. A fifth of the pairs is kept out of the fit: the gate opens if enough of
them find their own row among the ten nearest of the whole moved index. Then the map is fitted on
all pairs, kept as `OUT.map.pt`, and applied; row i of the output belongs to row i of the index. A
program that was killed goes on where it was when it is called again. Exit codes: 0 moved, 2 bad
input, 3 the gate is shut.

The glosses (results/migrate_index.md): see the page "Migrate an index" of the documentation.
"""

import argparse
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _run import run, whole_number
from migration.files import FileError, check_out, convert, match_rows, open_vectors, take
from migration.methods import (
    DEFAULT,
    METHODS,
    identity,
    move,
    own_rows_found,
    recipe,
    save_map,
)

import relreps

HELD_OUT = 0.2
FEWEST_PAIRS = 20
SHUT = 3  # exit code


def migrate(options: argparse.Namespace) -> int:
    """Gate, fit and apply on the user's own files; returns the exit code."""
    columns = options.vector_column, options.id_column
    index = open_vectors(options.index, options.index_ids, *columns)
    pairs = open_vectors(options.pairs, options.pair_ids, *columns)
    check_out(options.out)
    rows = match_rows(index, pairs)
    if len(rows) < FEWEST_PAIRS:
        raise FileError(f"{options.pairs} holds {len(rows)} pairs; give {FEWEST_PAIRS} or more.")
    x = torch.from_numpy(take(index, rows))
    y = torch.from_numpy(take(pairs, np.arange(len(rows))))

    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(options.seed))
    test, fit = order.split([round(HELD_OUT * len(rows)), len(rows) - round(HELD_OUT * len(rows))])
    widths = x.shape[1], y.shape[1]
    trial = recipe(options.method, widths, len(fit)).make()
    print(f"{options.method}, fitted on {len(fit)} of {len(rows)} pairs:")
    print(relreps.translation_report(trial, x[fit], y[fit], test=(x[test], y[test])))
    trial.fit(x[fit], y[fit])
    found = own_rows_found(trial, index, rows[test.numpy()], y[test])
    goes = found.at_10 >= options.threshold
    print(
        f"Of {len(test)} held-out pairs {found.at_1:.3f} find their own row first in the whole "
        f"moved index, {found.at_10:.3f} among ten; wanted: {options.threshold:g}. "
        f"{'Go.' if goes else 'No go: give more pairs, or try another --method.'}"
    )
    if not goes:
        return SHUT

    made = recipe(options.method, widths, len(rows))
    translator = made.make().fit(x, y)
    save_map(options.out.with_name(options.out.name + ".map.pt"), made, translator)
    begun = convert(
        index,
        options.out,
        y.shape[1],
        pairs.dtype,
        move(translator),
        identity(translator),
        options.chunk_size,
    )
    after = f", the first {begun} of them by an earlier run" if begun else ""
    print(f"Written to {options.out}: {index.shape[0]} rows{after}.")
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Move a vector index to a new embedding model.",
        epilog="Without --index: the study on glosses of WordNet, MiniLM to mE5.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default="outputs", help="moved index; of the study, its folder"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.9, help="of the gate, a part from 0 to 1"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is held out")
    own = parser.add_argument_group("your own files")
    own.add_argument("--index", type=Path, help="vectors of the old model")
    own.add_argument("--index-ids", type=Path, help="ids of its rows, if it is a .npy file")
    own.add_argument("--pairs", type=Path, help="vectors of the new model for some rows")
    own.add_argument("--pair-ids", type=Path, help="which rows, if it is a .npy file")
    own.add_argument("--vector-column", default="vector", help="in Parquet files")
    own.add_argument("--id-column", default="id", help="in Parquet files")
    own.add_argument("--method", choices=METHODS, default=DEFAULT, help="translator")
    count = whole_number(1, 10**9)
    own.add_argument("--chunk-size", type=count, default=8192, help="rows moved at once")
    study = parser.add_argument_group("the study")
    study.add_argument("--draws", type=count, default=3, help="random choices of the pairs")
    study.add_argument(
        "--num-pairs", type=count, nargs="+", default=[100, 300, 1000, 3000], help="to compare"
    )
    options = parser.parse_args()
    if options.index is not None and (options.pairs is None or options.out == Path("outputs")):
        parser.error("--index needs --pairs and --out")
    if options.index is None and (options.pairs is not None or options.pair_ids is not None):
        parser.error("--pairs needs --index")
    if not 0 <= options.threshold <= 1:
        parser.error(f"--threshold must be from 0 to 1, got {options.threshold:g}")
    return options


def main() -> None:
    options = parse_options()
    # Few pairs leave directions free; the report and the gate say what that costs.
    warnings.simplefilter("ignore", relreps.NumericalWarning)
    try:
        if options.index is not None:
            sys.exit(migrate(options))
    except (ValueError, OSError) as error:  # relreps refuses vectors by a ValueError too
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(2)
    from migration import study

    run(partial(study.run, options))


if __name__ == "__main__":
    main()
