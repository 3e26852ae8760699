"""Which samples should be anchors? The samplers compared on glosses and on words.

- Glosses: MiniLM and mE5 encode 5000 glosses of WordNet nouns; 1000 are held out.
- Words: GloVe (50 dimensions) and the input embeddings of MiniLM (384 dimensions) share 20 000
  words; 2000 are held out.

Anchors come from what is not held out. The held-out items are retrieved across the two spaces by
their relative codes, cosines after subtracting the mean of the anchors.

    pip install transformers==5.23.0 tokenizers==0.23.3 pyarrow==26.0.1
    pip install --no-deps -r studies/requirements.txt
    sudo apt-get install wordnet-base
    python studies/compare_samplers.py --out results

It writes compare_samplers.{json,md,png}.

It showed (MRR, mean of both directions, 5 draws; uniform draws of 300: 0.78 on glosses, 0.56 on
words):

- farthest points are ahead of uniform draws in both pairs, at 300 anchors by 0.04 and 0.07 on
  glosses, by 0.06 and 0.04 on words (chosen in the first and the second space); in Jaccard@10 they
  gain little, or lose;
- k-means gains most where anchors are few, and in Jaccard@10 as well, but by how much depends on
  the space that is clustered;
- leverage, topics and a round robin over clusters are about level with uniform draws (topics
  lose in Jaccard@10);
- typical or frequent samples are worse: words out of the 1000 most frequent lose 0.10, as they
  were the worst in the paper, and so do the glosses nearest to the centres of clusters, 0.05;
- the oracle is far ahead on glosses, but on words farthest points and k-means beat it.

Four to five minutes on one thread, once the glosses are encoded.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from _encoders import (
    GLOVE_PACKAGE,
    ME5,
    MINILM,
    PACKAGES,
    encode,
    read_topics,
    sample_glosses,
    shared_words,
    wordnet_version,
)
from _relative import MEASURES, NEIGHBOURS, Pairs, measures, relative
from _run import Score, Study, bullets, progress, run, table, whole_number
from matplotlib.figure import Figure
from torch import Tensor

import relreps

GLOSSES_TEST, WORDS_TEST = 1000, 2000
CLUSTERS = 42  # of the round robin, as in the code of the paper
ORACLE = "best aligned (oracle)"

# ---------------------------------------------------------------------------------------- the data


class Spaces(NamedTuple):
    """Two encodings of the same items, row by row, and which items are held out."""

    key: str
    title: str
    names: tuple[str, str]
    x: Tensor
    y: Tensor
    test: Tensor  # rows to be retrieved
    pool: Tensor  # rows to choose anchors from
    labels: Tensor | None  # one for each row of the pool


def load_glosses(seed: int) -> Spaces:
    """MiniLM and mE5 on the glosses of `real_encoders.py`, with its held-out items."""
    texts = sample_glosses()
    topics = read_topics()
    labels = torch.tensor([topics[text] for text in texts])
    rows = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
    test, pool = rows[:GLOSSES_TEST], rows[GLOSSES_TEST:]
    x, y = encode(MINILM, texts), encode(ME5, texts)
    return Spaces("glosses", "Glosses", ("MiniLM", "mE5"), x, y, test, pool, labels[pool])


def load_words(seed: int) -> Spaces:
    """GloVe and the tokens of MiniLM."""
    x, y = shared_words()
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, pool = rows[:WORDS_TEST], rows[WORDS_TEST:].sort().values
    return Spaces("words", "Words", ("GloVe", "MiniLM"), x, y, test, pool, None)


# ------------------------------------------------------------------------------------ the samplers


@dataclass(frozen=True)
class Sampler:
    """A way to choose anchors from a pool.

    ``make`` takes the number of anchors and a generator. The sampler sees the rows of one space,
    ``space`` 0 or 1. With ``nested`` fewer anchors are the first of more.
    """

    name: str
    make: Callable[[int, torch.Generator], Callable[..., Tensor]]
    space: int = 0
    nested: bool = True
    random: bool = True
    colour: str = "black"
    line: str = "-"


def centred_pool(spaces: Spaces) -> tuple[Tensor, Tensor]:
    """The rows that samplers see: less the mean of the pool, since the code is centred as well."""
    x, y = (space[spaces.pool] for space in (spaces.x, spaces.y))
    return x - x.mean(0), y - y.mean(0)


def samplers(spaces: Spaces) -> list[Sampler]:
    """Those that make sense for the pair; frequencies are known for words, topics for glosses."""

    def seeded(
        sampler: type, *arguments: object, **options: object
    ) -> Callable[..., Callable[..., Tensor]]:
        return lambda count, generator: sampler(count, *arguments, **options, generator=generator)

    def oracle(count: int, _: torch.Generator) -> Callable[..., Tensor]:
        return relreps.anchors.BestAlignedAnchors(count, centred_pool(spaces)[1])

    found = [Sampler("uniform", seeded(relreps.UniformAnchors))]
    for space, name in enumerate(spaces.names):
        line = "-" if space == 0 else "--"
        farthest = seeded(relreps.FarthestAnchors)
        found.append(Sampler(f"farthest in {name}", farthest, space, colour="C3", line=line))
        kmeans = seeded(relreps.KMeansAnchors)
        found.append(Sampler(f"k-means in {name}", kmeans, space, False, colour="C0", line=line))
    first = spaces.names[0]
    leverage = seeded(relreps.LeverageAnchors)
    found.append(Sampler(f"leverage in {first}", leverage, colour="C1"))
    robin = seeded(relreps.anchors.ClusterAnchors, CLUSTERS)
    found.append(Sampler(f"round robin in {first}", robin, colour="C4"))
    if spaces.labels is not None:
        central = seeded(relreps.anchors.ClusterAnchors, CLUSTERS, order="center")
        found.append(Sampler(f"round robin by centre in {first}", central, colour="C4", line=":"))
        stratified = seeded(relreps.StratifiedAnchors)
        found.append(Sampler("stratified by topic", stratified, colour="C2"))
    else:
        frequency = -torch.arange(len(spaces.pool), dtype=torch.float)  # the pool is in order
        frequent = seeded(relreps.anchors.ClusterAnchors, CLUSTERS, order=frequency)
        found.append(
            Sampler(f"round robin by frequency in {first}", frequent, colour="C4", line=":")
        )
        for pool, line in ((1000, "-"), (5000, "--"), (10_000, ":")):
            top = seeded(relreps.TopKAnchors, frequency, pool)
            found.append(Sampler(f"top-{pool} by frequency", top, colour="C2", line=line))
    found.append(Sampler(ORACLE, oracle, random=False, colour="C7", line="-."))
    return found


def choose(sampler: Sampler, spaces: Spaces, counts: list[int], seed: int) -> dict[int, Tensor]:
    """Rows of the anchors for each count, in the order of the pool."""
    rows = centred_pool(spaces)[sampler.space]

    def pick(count: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sampler.make(count, generator)(rows, spaces.labels)

    most = pick(max(counts)) if sampler.nested else None
    picked = {count: pick(count) if most is None else most[:count] for count in counts}
    return {count: spaces.pool[chosen] for count, chosen in picked.items()}


# ---------------------------------------------------------------------------------- the experiment

#: For each number of anchors, a score for each measure.
Curve = dict[int, dict[str, Score]]


def measure(spaces: Spaces, anchors: Tensor) -> dict[str, float]:
    """All measures of the centred code, and the MRR of the plain one."""
    pairs = Pairs(
        spaces.x[spaces.test], spaces.y[spaces.test], spaces.x[anchors], spaces.y[anchors]
    )
    scores = relreps.metrics.retrieval_scores(*relative(pairs, relreps.Center), k=NEIGHBOURS)
    there, back = relative(pairs)
    mrr = relreps.metrics.mean_reciprocal_rank
    return {
        **{name: getattr(scores, name).item() for name in MEASURES},
        "plain_mrr_xy": mrr(there, back).item(),
        "plain_mrr_yx": mrr(back, there).item(),
    }


def measure_all(spaces: Spaces, counts: list[int], draws: int, seed: int) -> dict[str, Curve]:
    """The curve of each sampler."""
    found = samplers(spaces)
    curves = {}
    total = sum(draws if sampler.random else 1 for sampler in found)
    with progress(total=total, desc=spaces.title, unit="draw") as bar:
        for sampler in found:
            measured: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
            for draw in range(draws if sampler.random else 1):
                for count, anchors in choose(sampler, spaces, counts, seed + draw).items():
                    measured[count].append(measure(spaces, anchors))
                bar.update()
            curves[sampler.name] = {
                count: {name: Score([m[name] for m in each]) for name in each[0]}
                for count, each in measured.items()
            }
    return curves


def both_ways(scores: dict[str, Score], measure: str = "mrr") -> Score:
    """Mean of both directions, draw by draw."""
    there, back = scores[f"{measure}_xy"].values, scores[f"{measure}_yx"].values
    return Score([(a + b) / 2 for a, b in zip(there, back, strict=True)])


# -------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Published:
    """Jaccard@5 and MRR@5 from fastText to word2vec and back, 300 anchors out of 20 000 words."""

    name: str
    ours: dict[str, str]  # the sampler that matches, by the key of the pair
    jaccard: tuple[float, float]
    mrr: tuple[float, float]


PAPER = (
    Published("uniform", {"glosses": "uniform", "words": "uniform"}, (0.38, 0.44), (0.93, 0.97)),
    Published(
        "farthest",
        {"glosses": "farthest in MiniLM", "words": "farthest in GloVe"},
        (0.38, 0.47),
        (0.94, 0.98),
    ),
    Published(
        "k-means",
        {"glosses": "k-means in MiniLM", "words": "k-means in GloVe"},
        (0.39, 0.43),
        (0.94, 0.97),
    ),
    Published("top-1000", {"words": "top-1000 by frequency"}, (0.30, 0.40), (0.84, 0.97)),
    Published("top-5000", {"words": "top-5000 by frequency"}, (0.36, 0.43), (0.91, 0.97)),
    Published("top-10000", {"words": "top-10000 by frequency"}, (0.37, 0.44), (0.93, 0.97)),
)


def compare(first: Score, second: Score) -> tuple[float, bool]:
    """By how much the first leads, and whether that is more than three standard errors."""
    lead = first.mean - second.mean
    error = sum((score.std or 0) ** 2 / len(score.values) for score in (first, second)) ** 0.5
    return lead, abs(lead) > 3 * error


def standing(curves: dict[str, Curve], count: int, measure: str) -> str:
    """Who is ahead of uniform draws, level with them, and behind, best first."""
    groups: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
    scores = {name: both_ways(curve[count], measure) for name, curve in curves.items()}
    leads = {name: compare(score, scores["uniform"]) for name, score in scores.items()}
    for name, (lead, clear) in sorted(leads.items(), key=lambda item: -item[1][0]):
        if name != "uniform":
            group = ("ahead" if lead > 0 else "behind") if clear else "level"
            groups[group].append(f"{name} ({lead:+.3f})")
    parts = [f"{group}: {', '.join(names)}" for group, names in groups.items() if names]
    return f"{count} anchors, uniform {scores['uniform']}; {'; '.join(parts)}."


def above_oracle(curves: dict[str, Curve], count: int) -> list[str]:
    """Samplers whose MRR, mean of both directions, is above that of the oracle."""
    means = {name: both_ways(curve[count]).mean for name, curve in curves.items()}
    return [name for name, mean in means.items() if mean > means[ORACLE]]


def tables(spaces: Spaces, curves: dict[str, Curve]) -> list[str]:
    """A table for each measure."""
    counts = list(curves["uniform"])
    found = []
    for name, title in zip(MEASURES, measures(spaces.names), strict=True):
        cells = [
            [sampler, *(str(curve[count][name]) for count in counts)]
            for sampler, curve in curves.items()
        ]
        found.append(table([title, *(f"{count} anchors" for count in counts)], cells))
    return found


def beside_paper(curves: dict[str, dict[str, Curve]], count: int) -> str:
    """There and back, the paper first."""

    def measured(key: str, row: Published, name: str) -> str:
        if key not in row.ours:
            return "–"
        scores = curves[key][row.ours[key]][count]
        return f"{scores[f'{name}_xy'].mean:.3f} / {scores[f'{name}_yx'].mean:.3f}"

    header, rows = ["", "paper, Jaccard@5", "paper, MRR"], []
    for key in ("words", "glosses"):
        header += [f"{key}, Jaccard@{NEIGHBOURS}", f"{key}, MRR"]
    for row in PAPER:
        cells = [f"{there:.2f} / {back:.2f}" for there, back in (row.jaccard, row.mrr)]
        for key in ("words", "glosses"):
            cells += [measured(key, row, name) for name in ("jaccard", "mrr")]
        rows.append([row.name, *cells])
    return table(header, rows)


def report(options: Namespace, pairs: list[Spaces], curves: dict[str, dict[str, Curve]]) -> str:
    parts = [
        "Which samples should be anchors? Held-out items are retrieved across two spaces by their "
        "relative codes: cosines to the anchors, after subtracting the mean of the anchors. Mean ± "
        f"sample deviation over {options.draws} draws of anchors; the held-out items stay the "
        "same, so that chance in *them* is not in the deviation. Samplers look at the pool less "
        "its mean, in one of the two spaces, which is named; the samples are anchors in both. "
        f"Round robin walks over {CLUSTERS} k-means clusters, in random order within them, or "
        "those near the centre or frequent first. The oracle compares all distances of both "
        "spaces, which takes the pairs that anchors are there to replace. With 1000 anchors "
        "top-1000 has nothing left to draw.",
    ]
    for spaces in pairs:
        found = curves[spaces.key]
        chance = sum(1 / rank for rank in range(1, len(spaces.test) + 1)) / len(spaces.test)
        widths = " and ".join(
            f"{name} ({space.shape[1]} dimensions)"
            for name, space in zip(spaces.names, (spaces.x, spaces.y), strict=True)
        )
        parts += [
            f"## {spaces.title}: {spaces.names[0]} and {spaces.names[1]}",
            f"{widths}, {len(spaces.test)} held-out {spaces.key}, anchors from {len(spaces.pool)} "
            f"others. By chance: MRR {chance:.4f}, "
            f"Jaccard@{NEIGHBOURS} {NEIGHBOURS / 2 / len(spaces.test):.4f}.",
            *tables(spaces, found),
            "MRR, mean of both directions, less that of uniform draws; ahead and behind are more "
            "than three standard errors of the draws away, level is not:",
            bullets([standing(found, count, "mrr") for count in options.anchors]),
            f"The same for Jaccard@{NEIGHBOURS}:",
            bullets([standing(found, count, "jaccard") for count in options.anchors]),
        ]
        better = {
            count: names for count in options.anchors if (names := above_oracle(found, count))
        }
        if better:
            listed = "; ".join(f"{count} anchors: {', '.join(n)}" for count, n in better.items())
            parts.append(f"The oracle is no bound here. Above its MRR, with {listed}.")
    parts += [
        "## Beside the paper",
        "[arXiv:2209.15430](https://arxiv.org/abs/2209.15430) compared anchors on words: fastText "
        "and word2vec, both 300 wide, 300 anchors, plain cosines, 10 draws, anchors among the "
        "20 000 words that are searched. The numbers are those saved in its repository, "
        "lucmos/relreps (`visualize_quantitative_analysis.ipynb`); top-1000 means anchors drawn at "
        "random from the 1000 most frequent words. Each cell: from the first space to the second "
        "/ back. Spaces, lists (5 and 10 long) and protocol differ, so that only the order within "
        "a column compares. Here farthest and k-means look at the first space, and there are "
        f"{paper_count(options)} anchors.",
        beside_paper(curves, paper_count(options)),
        verdict(curves["words"], paper_count(options)),
    ]
    return "\n\n".join(parts)


def paper_count(options: Namespace) -> int:
    """The number of anchors to set beside the 300 of the paper."""
    return min(options.anchors, key=lambda count: abs(count - 300))


def verdict(curves: dict[str, Curve], count: int) -> str:
    """Whether what the paper found on its words holds on these."""
    uniform = curves["uniform"][count]

    def lead(name: str) -> str:
        parts = []
        for label, key in ((f"Jaccard@{NEIGHBOURS}", "jaccard"), ("MRR", "mrr")):
            value, clear = compare(both_ways(curves[name][count], key), both_ways(uniform, key))
            note = "" if clear else ", within three standard errors"
            parts.append(f"{label} {value:+.3f}{note}")
        return "; ".join(parts)

    tops = [f"top-{pool} by frequency" for pool in (1000, 5000, 10_000)]
    jaccard = {name: both_ways(curve[count], "jaccard").mean for name, curve in curves.items()}
    rivals = [name for name in jaccard if "oracle" not in name]
    last = min(rivals, key=lambda name: jaccard[name])
    rising = jaccard[tops[0]] < jaccard[tops[1]] < jaccard[tops[2]]
    lines = [
        "In the paper anchors out of the 1000 most frequent words do worst. Here the lowest "
        f"Jaccard@{NEIGHBOURS} on words is that of `{last}` (oracle aside), and top-1000 is at "
        f"{lead(tops[0])} from uniform draws.",
        "In the paper a larger pool is better, up to uniform draws. Here "
        + ("that holds" if rising else "it does not hold")
        + f": Jaccard@{NEIGHBOURS} {', '.join(f'{jaccard[name]:.3f}' for name in tops)}, "
        f"uniform {jaccard['uniform']:.3f}.",
        "In the paper farthest points and k-means differ little from uniform draws, "
        "by at most 0.03. Here, in the first space: "
        f"farthest {lead('farthest in GloVe')}; k-means {lead('k-means in GloVe')}.",
    ]
    return bullets(lines)


def picture(pairs: list[Spaces], curves: dict[str, dict[str, Curve]], draws: int) -> Figure:
    """MRR over the number of anchors, and below it what sets the samplers apart."""
    figure = Figure(figsize=(9.5, 8), layout="constrained")
    axes = figure.subplots(2, len(pairs), sharex=True, height_ratios=(3, 4))
    for (top, bottom), spaces in zip(axes.T, pairs, strict=True):
        found = curves[spaces.key]
        counts = list(found["uniform"])
        uniform = [both_ways(found["uniform"][count]) for count in counts]
        for sampler in samplers(spaces):
            scores = [both_ways(found[sampler.name][count]) for count in counts]
            style = {"color": sampler.colour, "ls": sampler.line, "lw": 1.4, "label": sampler.name}
            top.plot(counts, [s.mean for s in scores], **style)
            leads = [s.mean - u.mean for s, u in zip(scores, uniform, strict=True)]
            bottom.errorbar(counts, leads, [s.std or 0 for s in scores], elinewidth=0.6, **style)
        top.set(title=f"{spaces.title}: {' / '.join(spaces.names)}", ylim=(0, 1))
        bottom.set(xscale="log", xlabel="anchors")
        bottom.set_xticks(counts, [str(count) for count in counts])
        bottom.minorticks_off()
        bottom.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=7.5, frameon=False
        )
        for axis in (top, bottom):
            axis.grid(alpha=0.25)
    axes[0, 0].set_ylabel("MRR, mean of both directions")
    axes[1, 0].set_ylabel(f"difference from uniform (deviation of {draws} draws)")
    return figure


def main() -> None:
    packages = (*PACKAGES, GLOVE_PACKAGE, "pyarrow", "matplotlib")
    study, counts = Study(__file__, __doc__, packages), [50, 100, 300, 1000]
    draws, most = whole_number(2, 100), whole_number(2, 1000)
    study.option("--draws", draws, 5, "draws of each random sampler", quick=2)
    study.option("--anchors", most, counts, "numbers of anchors", quick=[30, 50], nargs="+")
    options = study.parse()
    options.anchors = sorted(set(options.anchors))
    if len(options.anchors) < 2:
        study.parser.error("--anchors must hold two different numbers at least, for a curve")
    pairs = [load_glosses(options.seed), load_words(options.seed)]
    curves = {
        spaces.key: measure_all(spaces, options.anchors, options.draws, options.seed)
        for spaces in pairs
    }
    results = {
        spaces.key: {
            "x": spaces.names[0],
            "y": spaces.names[1],
            "test": len(spaces.test),
            "pool": len(spaces.pool),
            "samplers": curves[spaces.key],
        }
        for spaces in pairs
    }
    body, figure = report(options, pairs, curves), picture(pairs, curves, options.draws)
    study.write("Samplers compared", body, {"pairs": results}, figure, wordnet_version())


if __name__ == "__main__":
    run(main)
