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
index goes by its number. Every pair is kept out of a fit once, a tenth of them at a time, and
searches the whole index, moved by that fit, for its own row, by the `--metric` of the index: the
gate opens if enough find it among the ten nearest. Where the new vectors have length one, so gets
what is moved (`--normalize`), and the spread of the new space before (`--rescale`). With `--mixed`,
for an index that will hold new vectors beside the moved ones, the gate also asks that neither hide
the others. Then the map is fitted on all pairs, kept as `OUT.map.pt`, and applied; row i of the
output belongs to row i of the index. A program that was killed goes on where it was when it is
called again. Exit codes: 0 moved, 2 bad input or no room, 3 the gate is shut.

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
from migration.files import (
    BYTES,
    FileError,
    Vectors,
    check_out,
    convert,
    match_rows,
    open_vectors,
    take,
)
from migration.methods import (
    DEFAULT,
    METHODS,
    Recipe,
    all_unit,
    identity,
    move,
    recipe,
    save_map,
    tensor,
    tensors,
)
from torch import Tensor

import relreps
from relreps.translate import TranslationReport

METRICS = ("cosine", "inner", "euclidean")
HELD_OUT = 0.1
FEWEST_PAIRS = 20
FAIR = (0.35, 0.65)  # of the ten nearest in an index half moved that are not, where half are
SHUT = 3  # exit code


def migrate(options: argparse.Namespace) -> int:
    """Gate, fit and apply on the user's own files; returns the exit code."""
    columns = options.vector_column, options.id_column
    index = open_vectors(options.index, options.index_ids, *columns, options.uint8)
    pairs = open_vectors(options.pairs, options.pair_ids, *columns, options.uint8)
    check_out(options.out)
    rows = match_rows(index, pairs)
    if len(rows) < FEWEST_PAIRS:
        raise FileError(f"{options.pairs} holds {len(rows)} pairs; give {FEWEST_PAIRS} or more.")
    x = tensor(take(index, rows))
    y = tensor(take(pairs, np.arange(len(rows))))
    if not passes(options, index, x, y):
        return SHUT

    made = planned(options, x, y, len(rows))
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


def planned(options: argparse.Namespace, x: Tensor, y: Tensor, pairs: int) -> Recipe:
    """The map from the space of ``x`` to that of ``y``, by the options."""
    unit = all_unit(y)
    return recipe(
        options.method,
        (x.shape[1], y.shape[1]),
        pairs,
        normalize=unit if options.normalize is None else options.normalize,
        rescale=unit if options.rescale is None else options.rescale,
    )


def judge(
    options: argparse.Namespace, x: Tensor, y: Tensor, **searched: object
) -> TranslationReport:
    """The report of such maps, by folds, or by one split where a map takes so many pairs only."""
    draw = torch.Generator().manual_seed(options.seed)
    how = {"metric": options.metric, **searched}
    if options.method != "inverse-relative":
        made = planned(options, x, y, len(x)).make()
        return relreps.translation_report(made, x, y, generator=draw, **how)
    held = round(HELD_OUT * len(x))
    test, fit = torch.randperm(len(x), generator=draw).split([held, len(x) - held])
    made = planned(options, x, y, len(fit)).make()
    return relreps.translation_report(made, x[fit], y[fit], test=(x[test], y[test]), **how)


def passes(options: argparse.Namespace, index: Vectors, x: Tensor, y: Tensor) -> bool:
    """Whether the whole moved index is worth writing, and what speaks for that and against it."""
    report = judge(options, x, y, index=tensors(index, options.chunk_size))
    print(f"{options.method}, the index moved, searched by {options.metric}:\n{report}\n")
    back = judge(options, y, x, targets=tensors(index, options.chunk_size))
    print(f"the queries moved instead, to the index as it is: {back.queries}\n")
    goes = report.recall_at_10 >= options.threshold
    low, high = report.moved.interval(10)
    print(
        f"Own row among ten, of the whole moved index: {report.recall_at_10:.3f} ({low:.3f} to "
        f"{high:.3f}) of {report.held_out}; wanted: {options.threshold:g}."
    )
    if options.mixed:
        fair = FAIR[0] <= report.fresh_at_10 <= FAIR[1]
        print(
            f"In an index half moved {report.fresh_at_10:.3f} of the ten nearest are not; wanted: "
            f"{FAIR[0]:g} to {FAIR[1]:g}."
        )
        goes = goes and fair
    print("Go." if goes else "No go: give more pairs, or try another --method.")
    return goes


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
    own.add_argument("--metric", choices=METRICS, default="cosine", help="of the index")
    own.add_argument(
        "--rescale",
        action=argparse.BooleanOptionalAction,
        help="restore the spread of the new space, which a ridge takes; by default if all new "
        "vectors have length one",
    )
    own.add_argument("--uint8", choices=BYTES, help="what unsigned bytes in .npy files are")
    own.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="moved rows get length one; by default if all new vectors have it",
    )
    own.add_argument(
        "--mixed", action="store_true", help="new vectors will be added to the moved ones"
    )
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
