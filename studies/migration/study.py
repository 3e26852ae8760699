"""The study: an index of glosses moved from MiniLM to mE5, by every translator."""

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _encoders import ME5, MINILM, PACKAGES, compute, encode, sample_glosses, wordnet_version
from _run import Score, bullets, find_facts, folder_path, progress, table, write_results
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

import relreps

from .files import NpyVectors, convert
from .methods import METHODS, identity, move, own_rows_found, recipe

INDEXED, QUERIES, OWN = 24_000, 1000, 1000
TIMED = 256  # texts that are encoded anew, to say what all of them would cost
SHRINKAGE = 0.7  # of the relative code, as chosen on anchors alone by real_encoders.py
RELATIVE = "relative code, whitened"
PLAIN = "ridge-gcv, spread as it is"
MEASURES = ("recall_1", "recall_10", "own_1", "own_10", "fresh_10", "mixed_10")


class Spaces(NamedTuple):
    """Both encodings of the indexed glosses and of the queries; ``top``: the right answers."""

    index: NpyVectors
    old: Tensor
    new: Tensor
    old_queries: Tensor
    queries: Tensor
    top: Tensor


Result = dict[str, float]  # of one draw: the measures, and seconds


def nearest(queries: Tensor, keys: Tensor, k: int = 10) -> Tensor:
    """Rows of the ``k`` nearest keys by their cosine, the nearest first."""
    keys = normalize(keys, dim=1).T
    parts = normalize(queries, dim=1).split(256)
    return torch.cat([(part @ keys).topk(k, 1).indices for part in parts])


def retained(found: Tensor, right: Tensor) -> Result:
    """Part of the right answers that is among as many answers found."""
    both = (found[:, :, None] == right[:, None, :]).any(2).double().mean().item()
    first = (found[:, 0] == right[:, 0]).double().mean().item()
    return {"recall_1": first, "recall_10": both}


def mixed(queries: Tensor, keys: Tensor, fresh: Tensor, right: Tensor) -> Result:
    """An index of which every other row was encoded again, and what it does to the right answers.

    The part of the ten nearest that were, of 0.5 or so by right; and the part of the right ones.
    """
    again = torch.arange(len(keys)) % 2 == 0
    found = nearest(queries, torch.where(again[:, None], fresh, keys))
    kept = retained(found, right)["recall_10"]
    return {"fresh_10": again[found].double().mean().item(), "mixed_10": kept}


def load(folder: Path) -> Spaces:
    """Encode the glosses, or read them from the cache, and store the index of the old model."""
    texts = sample_glosses(INDEXED + QUERIES)
    old, new = encode(MINILM, texts), encode(ME5, texts)
    np.save(folder / "index.npy", old[:INDEXED].numpy())
    queries = new[INDEXED:]
    return Spaces(
        NpyVectors(folder / "index.npy"),
        old[:INDEXED],
        new[:INDEXED],
        old[INDEXED:],
        queries,
        nearest(queries, new[:INDEXED]),
    )


def moved_index(spaces: Spaces, name: str, pairs: Tensor, own: Tensor, folder: Path) -> Result:
    """Fit, move the stored index into a file, and search that file."""
    x, y = spaces.old[pairs], spaces.new[pairs]
    start = time.perf_counter()
    method, rescale = ("ridge-gcv", False) if name == PLAIN else (name, True)
    made = recipe(method, (x.shape[1], y.shape[1]), len(pairs), rescale=rescale)
    translator = made.make().fit(x, y)
    fitted = time.perf_counter()
    out = folder / "moved.npy"
    convert(
        spaces.index,
        out,
        y.shape[1],
        np.float32,
        move(translator),
        identity(translator),
        quiet=True,
    )
    applied = time.perf_counter()
    found = own_rows_found(translator, spaces.index, own.numpy(), spaces.new[own])
    moved = torch.from_numpy(np.load(out))
    out.unlink()
    return {
        **retained(nearest(spaces.queries, moved), spaces.top),
        "own_1": found.at_1,
        "own_10": found.at_10,
        **mixed(spaces.queries, moved, spaces.new, spaces.top),
        "fit": fitted - start,
        "apply": applied - fitted,
    }


def relative_index(spaces: Spaces, pairs: Tensor, own: Tensor) -> Result:
    """The same with codes: both the index and the queries are described by the pairs."""

    def code(rows: Tensor, anchors: Tensor) -> Callable[[Tensor], Tensor]:
        whiten = relreps.Whiten(rows.shape[1], shrinkage=SHRINKAGE)
        return relreps.RelativeProjection.from_anchors(anchors, pre=whiten)

    start = time.perf_counter()
    old = code(spaces.old, spaces.old[pairs])
    new = code(spaces.new, spaces.new[pairs])
    fitted = time.perf_counter()
    keys = old(spaces.old)
    applied = time.perf_counter()
    queries = new(spaces.queries)
    found = nearest(new(spaces.new[own]), keys) == own[:, None]
    return {
        **retained(nearest(queries, keys), spaces.top),
        "own_1": found[:, 0].double().mean().item(),
        "own_10": found.any(1).double().mean().item(),
        **mixed(queries, keys, new(spaces.new), spaces.top),
        "fit": fitted - start,
        "apply": applied - fitted,
    }


def references(spaces: Spaces) -> dict[str, Result]:
    """What needs no pairs."""
    own = torch.arange(OWN)

    def searched(queries: Tensor, asked: Tensor, keys: Tensor, fresh: Tensor) -> Result:
        found = nearest(asked, keys) == own[:, None]
        return {
            **retained(nearest(queries, keys), spaces.top),
            "own_1": found[:, 0].double().mean().item(),
            "own_10": found.any(1).double().mean().item(),
            **mixed(queries, keys, fresh, spaces.top),
        }

    old, new = spaces.old, spaces.new
    return {
        "not moved": searched(spaces.queries, new[own], old, new),
        "old model for index and queries": searched(spaces.old_queries, old[own], old, old),
        "everything encoded again": searched(spaces.queries, new[own], new, new),
    }


def draws(options: Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """An order of the pairs, of which fewer are the first, and rows that are never pairs."""
    for draw in range(options.draws):
        generator = torch.Generator().manual_seed(options.seed + draw)
        order = torch.randperm(INDEXED, generator=generator)
        yield order[:-OWN], order[-OWN:]


def measure(
    spaces: Spaces, options: Namespace, folder: Path
) -> dict[int, dict[str, dict[str, Score]]]:
    """A score for each number of pairs, each way, and each measure."""
    ways = [*METHODS, PLAIN, RELATIVE]
    found: dict[int, dict[str, list[Result]]] = {
        count: {way: [] for way in ways} for count in options.num_pairs
    }
    total = options.draws * len(options.num_pairs) * len(ways)
    with progress(total=total, desc="fit, move, search", unit="index") as bar:
        for order, own in draws(options):
            for count in options.num_pairs:
                for way in ways:
                    pairs = order[:count]
                    result = (
                        relative_index(spaces, pairs, own)
                        if way == RELATIVE
                        else moved_index(spaces, way, pairs, own, folder)
                    )
                    found[count][way].append(result)
                    bar.update()
    return {
        count: {
            way: {key: Score([result[key] for result in results]) for key in results[0]}
            for way, results in each.items()
        }
        for count, each in found.items()
    }


# -------------------------------------------------------------------------------------- the report

HEADINGS = (
    *("recall@1", "recall@10", "own row first", "own row in ten"),
    *("fresh in ten, half moved", "recall@10, half moved"),
)


def scores_table(scores: dict[str, dict[str, Score]], threshold: float) -> str:
    header = ["translator", *HEADINGS, "fit, s", "apply, s", "gate"]
    rows = [
        [
            way,
            *(score[name] for name in MEASURES),
            *(f"{min(score[name].values):.2f}" for name in ("fit", "apply")),
            "go" if score["own_10"].mean >= threshold else "no go",
        ]
        for way, score in scores.items()
    ]
    return table(header, rows)


def findings(found: dict[int, dict[str, dict[str, Score]]], fixed: dict[str, Result]) -> list[str]:
    """What the tables say, in sentences that hold whatever they say."""
    stay = fixed["old model for index and queries"]["recall_10"]
    lines = []
    for count, scores in found.items():
        best = max(METHODS, key=lambda way: scores[way]["recall_10"].mean)
        score = scores[best]
        worst = min(METHODS, key=lambda way: scores[way]["recall_10"].mean)
        side = "above" if score["recall_10"].mean > stay else "below"
        lines.append(
            f"{count} pairs: best `{best}`, recall@10 {score['recall_10']}, {side} the {stay:.3f} "
            f"of the old model; own row in ten {score['own_10']}. Worst `{worst}`, recall@10 "
            f"{scores[worst]['recall_10']}."
        )
    return lines


def report(
    options: Namespace,
    found: dict[int, dict[str, dict[str, Score]]],
    fixed: dict[str, Result],
    seconds: float,
) -> str:
    parts = [
        f"{INDEXED} glosses of WordNet are indexed by MiniLM. Some of them are encoded by mE5 as "
        "well: the pairs. A translator fitted on them moves the stored index, and "
        f"{QUERIES} other glosses, encoded by mE5, search it. Recall@k: part of the k nearest in "
        "an index encoded wholly by mE5 that are among the k nearest found. Own row: "
        f"{OWN} indexed glosses that are no pairs, encoded by mE5, search for themselves; the "
        f"gate asks for {options.threshold:g} of them in ten. Half moved: every other row of the "
        "index is encoded by mE5 and the others are moved; fresh in ten is the part of the ten "
        "nearest that are so encoded, 0.5 by right. The spread of the new space is restored "
        f"(rescale) where a translator has that, but in the row `{PLAIN}`. "
        f"Mean ± sample deviation over {options.draws} choices of the pairs; seconds on one "
        "thread, the least of the draws.",
        f"Encoding the whole index again takes about {seconds:.0f} s ({TIMED} glosses were timed); "
        f"the pairs take that share of it which they are of {INDEXED}.",
        "## Without pairs",
        table(
            ["index", *HEADINGS],
            [[name, *(f"{r[m]:.3f}" for m in MEASURES)] for name, r in fixed.items()],
        ),
        "The row of the old model is the one to compare with: two good models agree on the "
        "nearest neighbours of a text only so far.",
        bullets(findings(found, fixed)),
    ]
    for count, scores in found.items():
        share = seconds * count / INDEXED
        parts.append(f"## {count} pairs, encoded in about {share:.0f} s")
        parts.append(scores_table(scores, options.threshold))
    return "\n\n".join(parts)


def picture(found: dict[int, dict[str, dict[str, Score]]], fixed: dict[str, Result]) -> Figure:
    """Recall over the number of pairs."""
    counts = list(found)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    titles = ("neighbours of a full re-encode, recall@10", "own row among the ten nearest")
    for axis, measure, title in zip(axes, ("recall_10", "own_10"), titles, strict=True):
        for number, way in enumerate(found[counts[0]]):
            scores = [found[count][way][measure] for count in counts]
            axis.errorbar(
                counts,
                [s.mean for s in scores],
                [s.std or 0 for s in scores],
                fmt=("o-", "s--", "^:")[number // 6],
                color=f"C{number % 6}",
                ms=3,
                lw=1,
                label=way if axis is axes[0] else None,
            )
        axis.axhline(
            fixed["old model for index and queries"][measure],
            color="black",
            lw=0.8,
            label="old model kept" if axis is axes[0] else None,
        )
        axis.set(xscale="log", xlabel="pairs", title=title, ylim=(0, None))
        axis.set_xticks(counts, [str(count) for count in counts], minor=False)
        axis.minorticks_off()
        axis.title.set_fontsize(10)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def command(options: Namespace) -> str:
    """What to type for the same results; where they go is left out."""
    counts = " ".join(map(str, options.num_pairs))
    return (
        f"python studies/migrate_index.py --draws {options.draws} --num-pairs {counts} "
        f"--threshold {options.threshold:g} --seed {options.seed}"
    )


def run(options: Namespace) -> None:
    """Measure everything; write migrate_index.{json,md,png}."""
    out = folder_path(str(options.out))
    for encoder in (MINILM, ME5):  # before minutes are spent on one of them
        encoder.require()
    with tempfile.TemporaryDirectory() as folder:
        spaces = load(Path(folder))
        start = time.perf_counter()
        compute(ME5, sample_glosses(INDEXED + TIMED)[-TIMED:])
        seconds = (time.perf_counter() - start) * INDEXED / TIMED
        fixed = references(spaces)
        found = measure(spaces, options, Path(folder))
    body = report(options, found, fixed, seconds)
    print(body)
    results = {
        **find_facts(command(options), options.seed, PACKAGES, wordnet_version()),
        "seconds_to_encode_all": round(seconds, 1),
        "without_pairs": {
            name: {key: round(value, 5) for key, value in result.items()}
            for name, result in fixed.items()
        },
        "pairs": found,
    }
    title = "An index moved from MiniLM to mE5"
    write_results(out, "migrate_index", title, body, results, picture(found, fixed))
