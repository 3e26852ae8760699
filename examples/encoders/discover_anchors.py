"""Fifteen known pairs of two sentence encoders become three hundred anchors.

MiniLM and mE5 encode the same glosses, in another order. The partners of 15 of them are known; 285
more are discovered. Relative codes of 1000 held-out glosses are then compared across the spaces
with the 15 seeds as anchors, with the discovered anchors, and with 300 true ones.

    pip install transformers==5.23.0 tokenizers==0.23.3
    pip install --no-deps -r examples/encoders/requirements.txt
    sudo apt-get install wordnet-base
    python examples/encoders/discover_anchors.py --out results

It showed (results/discover_anchors.md; MRR from MiniLM to mE5 / back, codes whitened with shrinkage
0.7, 5 draws): seeds 0.15 / 0.14, discovered 0.95 / 0.96, 300 true anchors 0.95 / 0.96; all pairs
right where both spaces hold the same 1000 glosses, and 94 % where they share half of them. So here
15 pairs do stand in for 300, twenty times fewer.

A few minutes on one thread, once the glosses are encoded.
"""

import argparse
import json
import sys
import warnings
from functools import partial

import torch
from loading import ME5, MINILM, MissingResourceError, encode, sample_glosses
from real_encoders import (
    Pairs,
    Score,
    find_versions,
    folder_path,
    markdown_table,
    relative,
    whole_number,
    write,
)
from tqdm import tqdm

import relreps
from relreps import discover_parallel_anchors

TEST = 1000
CODES = {
    "Center": relreps.Center,
    "Whiten(0.7)": partial(relreps.Whiten, shrinkage=0.7),
}


def draw(x, y, options, shared, seed):
    """One pool and its discovered anchors: rows of codes for each set of anchors, and shares.

    ``shared`` of the pool's glosses are in both spaces, the others in one of them only.
    """
    generator = torch.Generator().manual_seed(seed)
    test, rest = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split(
        (TEST, len(x) - TEST)
    )
    rest = rest[torch.randperm(len(rest), generator=generator)]
    lonely = options.pool - shared
    rows_x = rest[: options.pool]
    rows_y = torch.cat((rest[:shared], rest[options.pool : options.pool + lonely]))
    rows_y = rows_y[torch.randperm(len(rows_y), generator=generator)]
    seeds_x = torch.arange(options.seeds)
    seeds_y = torch.stack([(rows_y == row).nonzero()[0, 0] for row in rows_x[seeds_x]])
    known = seeds_x, seeds_y
    found = discover_parallel_anchors(x[rows_x], y[rows_y], known, options.anchors)
    found_x, found_y = rows_x[found.indices_x], rows_y[found.indices_y]
    sets = {
        "seeds": (rows_x[seeds_x], rows_x[seeds_x]),
        "discovered": (found_x, found_y),
        "true": (rows_x[: options.anchors], rows_x[: options.anchors]),
    }
    right = (found_x == found_y)[options.seeds :].float().mean().item()
    scores = {}
    for name, (anchors_x, anchors_y) in sets.items():
        pairs = Pairs(x[test], y[test], x[anchors_x], y[anchors_y])
        for code, make in CODES.items():
            a, b = relative(pairs, make)
            mrr = relreps.metrics.mean_reciprocal_rank
            scores[name, code] = mrr(a, b).item(), mrr(b, a).item()
    return right, scores


def parse_options():
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--draws", type=whole_number(1, 100), default=5, help="pools and seeds")
    parser.add_argument("--seeds", type=whole_number(1, 300), default=15, help="known pairs")
    parser.add_argument("--anchors", type=whole_number(30, 1000), default=300, help="pairs wanted")
    parser.add_argument("--pool", type=whole_number(300, 2000), default=1000, help="glosses a side")
    parser.add_argument(
        "--out", type=folder_path, default="outputs", help="folder for discover_anchors.{json,md}"
    )
    return parser.parse_args()


def main():
    options = parse_options()
    try:
        x, y = encode(MINILM, sample_glosses()), encode(ME5, sample_glosses())
        versions = find_versions()
    except MissingResourceError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    warnings.filterwarnings("ignore", ".* pairs determine", relreps.NumericalWarning)

    command = (
        f"python examples/encoders/discover_anchors.py --draws {options.draws} --seeds "
        f"{options.seeds} --anchors {options.anchors} --pool {options.pool}"
    )
    parts = [
        "# Anchors discovered between two sentence encoders",
        f"Written by `{command}`. Do not edit.",
        f"{options.seeds} known pairs of glosses become {options.anchors} anchors, found among "
        f"{options.pool} glosses a side in unrelated orders. Retrieval of {TEST} held-out glosses "
        f"by their relative codes, MRR; mean ± sample deviation over {options.draws} draws of pool "
        "and seeds. Statistics of the codes come from the anchors alone.",
    ]
    tables = {}
    for shared in (options.pool, options.pool // 2):
        draws = [
            draw(x, y, options, shared, seed)
            for seed in tqdm(range(options.draws), desc=f"{shared} shared", disable=None)
        ]
        right = Score([r for r, _ in draws])
        rows, table = [], {"right": right.as_json()}
        for key in draws[0][1]:
            both = [Score([scores[key][i] for _, scores in draws]) for i in (0, 1)]
            rows.append([", ".join(key), *map(str, both)])
            table[", ".join(key)] = {
                "mrr_xy": both[0].as_json(),
                "mrr_yx": both[1].as_json(),
            }
        tables[str(shared)] = table
        parts.append(f"## {shared} of {options.pool} glosses in both spaces")
        parts.append(f"Share of right pairs among those discovered, seeds left out: {right}.")
        parts.append(
            markdown_table(["anchors, code", "MRR MiniLM → mE5", "MRR mE5 → MiniLM"], rows)
        )
    parts.append("## Versions")
    parts.append("\n".join(f"- {name}: {version}" for name, version in versions.items()))
    text = "\n\n".join(parts) + "\n"
    print(text)
    results = {"command": command, "versions": versions, "tables": tables}
    write(options.out / "discover_anchors.json", json.dumps(results, indent=1) + "\n")
    write(options.out / "discover_anchors.md", text)


if __name__ == "__main__":
    main()
