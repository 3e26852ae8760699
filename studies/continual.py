"""Class after class: does it help to keep what was learnt in separate parts?

A network learns ten digits in five tasks of two classes, one task after the other, and is always
asked for all classes it has seen. From each past class it keeps a few digits, 200 together, and
replays them. Compared are

- no replay: the new digits alone;
- replay: cross-entropy on the new digits and on a batch from the buffer, as many of each class;
- replay, spectral: the same, plus the spectral gap loss on the latents of that very batch, which
  asks its neighbour graph to fall into as many parts as it has classes (CaSpeR, arXiv 2301.03345;
  there it gets a batch of its own, of a few of the classes).

All start from the same weights and see the same digits in the same order for as many steps. The
graph and the weight of the loss are chosen on other seeds and other digits.

    make topology STUDY=continual
    python studies/continual.py --out results

A few minutes on one thread; with --quick, some seconds that show nothing but that it runs.
"""

from argparse import Namespace
from collections.abc import Iterator
from itertools import chain, repeat
from statistics import fmean
from typing import NamedTuple

import torch
from _digits import CLASSES, Digits, Pool
from _paired import compare, plot_pairs
from _run import Score, Study, progress, run, table, whole_number
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import relreps

CLASSES_PER_TASK = 2
TASKS = CLASSES // CLASSES_PER_TASK
BUFFER = 200
BATCH = 64  # new digits in a step, and replayed ones, or slightly fewer
LATENT = 64
LEARNING_RATE = 3e-3
NEIGHBOURS = 5

# Ranges of the 500 digits of each class: to learn from, to choose on, to test on.
TRAINING, VALIDATION, TEST = (0, 300), (300, 400), (400, 500)

GRAPHS = ("knn", "heat")
WEIGHTS = (0.001, 0.01, 0.1)


class Recipe(NamedTuple):
    """What is replayed, and what is asked of it."""

    buffer: int = BUFFER
    weight: float = 0.0
    graph: str = "knn"


# ------------------------------------------------------------------------------------- the training


def make_network() -> nn.Sequential:
    """Nothing in it looks at more than one digit: there are no statistics of past batches."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=8, stride=4, padding=2),
        nn.GELU(),
        nn.Conv2d(16, 16, kernel_size=3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, LATENT),
    )
    return nn.Sequential(encoder, nn.GELU(), nn.Linear(LATENT, CLASSES))


def pick(images: Tensor, order: Tensor, classes: slice, count: int) -> Digits:
    """The first ``count`` digits of some of the classes, which stand in the order of learning."""
    labels = order[classes].repeat_interleave(count)
    return Digits(images[classes, :count].flatten(0, 1), labels)


def replayed(buffer: Digits, seed: int) -> Iterator[list[int]]:
    """Endless batches with as many digits of each class in the buffer."""
    per_class = BATCH // len(buffer.labels.unique())
    sampler = relreps.ClassBatchSampler(buffer.labels, per_class, seed=seed)
    return chain.from_iterable(repeat(sampler))


@torch.no_grad()
def task_accuracies(network: nn.Sequential, test: Digits, order: Tensor, seen: int) -> list[float]:
    """In percent, of each task so far, among the classes seen so far."""
    images = test.images.unflatten(0, (CLASSES, -1))[order[: seen * CLASSES_PER_TASK]]
    labels = order[: seen * CLASSES_PER_TASK]
    logits = network(images.flatten(0, 1))[:, labels].unflatten(0, images.shape[:2])
    right = logits.argmax(-1) == torch.arange(len(labels))[:, None]
    return (100 * right.double().mean(1)).unflatten(0, (seen, -1)).mean(1).tolist()


def train(digits: Digits, test: Digits, recipe: Recipe, seed: int, steps: int) -> list[list[float]]:
    """Accuracies of each task seen, after each task."""
    torch.manual_seed(seed)
    network = make_network()
    encoder, activation, head = network
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(CLASSES, generator=generator)
    per_class = len(digits.labels) // CLASSES
    within = torch.randperm(per_class, generator=generator)
    learnt = digits.images.unflatten(0, (CLASSES, -1))[order][:, within]
    loss = relreps.SpectralGapLoss(NEIGHBOURS, graph=recipe.graph)
    history = []
    for task in range(TASKS):
        first = task * CLASSES_PER_TASK
        new = pick(learnt, order, slice(first, first + CLASSES_PER_TASK), per_class)
        replays = task > 0 and recipe.buffer > 0
        if replays:
            buffer = pick(learnt, order, slice(first), recipe.buffer // first)
            batches = replayed(buffer, seed=10**5 * seed + 10**4 * task)
        # A new optimiser: the moments of the last task are no use to this one.
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        for _ in range(steps):
            rows = torch.randint(len(new.labels), (BATCH,), generator=generator)
            images, labels = new.images[rows], new.labels[rows]
            if replays:
                old = next(batches)
                images = torch.cat((images, buffer.images[old]))
                labels = torch.cat((labels, buffer.labels[old]))
            z = encoder(images)
            logits = head(activation(z)).split(BATCH)
            targets = labels.split(BATCH)
            objective = sum(F.cross_entropy(*pair) for pair in zip(logits, targets, strict=True))
            if replays and recipe.weight:
                objective = objective + recipe.weight * loss(z[BATCH:], labels[BATCH:])
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
        history.append(task_accuracies(network, test, order, task + 1))
    return history


# --------------------------------------------------------------------------------------- the scores


class Outcome(NamedTuple):
    """Mean accuracy over all tasks at the end, and how far past tasks fell from their best."""

    accuracy: float
    forgetting: float


def score(history: list[list[float]]) -> Outcome:
    last = history[-1]
    falls = [
        max(after[task] for after in history[task:-1]) - last[task] for task in range(TASKS - 1)
    ]
    return Outcome(fmean(last), fmean(falls))


def choose(
    pool: Pool, seeds: range, steps: int, bar: tqdm
) -> tuple[Recipe, dict[tuple[str, float], list[float]]]:
    """Graph and weight of the loss with the best accuracy, and all accuracies."""
    digits, validation = pool.take(*TRAINING), pool.take(*VALIDATION)
    tried = {("none", 0.0): Recipe()}
    tried |= {(graph, w): Recipe(BUFFER, w, graph) for graph in GRAPHS for w in WEIGHTS}
    grid: dict[tuple[str, float], list[float]] = {key: [] for key in tried}
    for key, recipe in tried.items():
        for seed in seeds:
            grid[key].append(score(train(digits, validation, recipe, seed, steps)).accuracy)
            bar.update()
    best = max((key for key in grid if key[1]), key=lambda key: fmean(grid[key]))
    return tried[best], grid


NONE, REPLAY, SPECTRAL = "no replay", "replay", "replay, spectral"
Histories = dict[str, list[list[list[float]]]]  # by recipe: seeds, after each task, of each task


def run_all(pool: Pool, spectral: Recipe, seeds: range, steps: int, bar: tqdm) -> Histories:
    """Every recipe on every seed, which fixes the order of classes and digits."""
    digits, test = pool.take(*TRAINING), pool.take(*TEST)
    recipes = {NONE: Recipe(buffer=0), REPLAY: Recipe(), SPECTRAL: spectral}
    histories: Histories = {name: [] for name in recipes}
    for seed in seeds:
        for name, recipe in recipes.items():
            histories[name].append(train(digits, test, recipe, seed, steps))
            bar.update()
    return histories


# --------------------------------------------------------------------------------------- the report


def scores_report(histories: Histories) -> str:
    scores = {name: [score(h) for h in runs] for name, runs in histories.items()}
    header = ["training", "accuracy, %", "forgetting", "less replay: accuracy [95 %]"]
    rows = []
    for name, row in scores.items():
        against = [""] * 4
        if name != REPLAY:
            paired, fall = (
                compare([s[i] for s in row], [s[i] for s in scores[REPLAY]]) for i in range(2)
            )
            against = [*paired.cells, str(fall)]
        accuracies, falls = zip(*row, strict=True)
        rows.append([name, *(f"{Score(values):.2f}" for values in (accuracies, falls)), *against])
    return table([*header, "t-test p", "Wilcoxon p", "forgetting [95 %]"], rows)


def report(
    options: Namespace,
    spectral: Recipe,
    grid: dict[tuple[str, float], list[float]],
    histories: Histories,
) -> str:
    header = ["graph \\ weight", *(f"{weight:g}" for weight in WEIGHTS)]
    rows = [[graph, *(f"{fmean(grid[graph, w]):.1f}" for w in WEIGHTS)] for graph in GRAPHS]
    accuracies = {name: [score(h).accuracy for h in runs] for name, runs in histories.items()}
    verdict = compare(accuracies[SPECTRAL], accuracies[REPLAY]).verdict()
    return f"""\
Ten digits in {TASKS} tasks of {CLASSES_PER_TASK} classes, in an order drawn for each seed; \
{TRAINING[1] - TRAINING[0]} digits a class, {options.steps} steps a task of {BATCH} new digits and \
as many from a buffer of {BUFFER}, class-balanced. Accuracy among all ten classes at the end, on \
{(TEST[1] - TEST[0]) * CLASSES} test digits, and forgetting: how far past tasks fell from their \
best, on average. The loss sees the replayed batch, which holds all past classes. With it came \
{verdict}. ± is the sample deviation over {options.seeds} seeds, differences are paired by seed.

{scores_report(histories)}

Graph and weight of the loss were chosen on other seeds and digits: "{spectral.graph}" and \
{spectral.weight:g}. Accuracies there ({fmean(grid["none", 0.0]):.1f} without the loss):

{table(header, rows)}
"""


def draw(histories: Histories) -> Figure:
    """Accuracy as tasks come, and at the end, seed by seed."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for i, (name, runs) in enumerate(histories.items()):
        means = torch.tensor([[fmean(after) for after in history] for history in runs])
        seen = range(CLASSES_PER_TASK, CLASSES + 1, CLASSES_PER_TASK)
        left.errorbar(seen, means.mean(0), means.std(0), color=f"C{i}", capsize=3, label=name)
    left.set_xlabel("classes seen")
    left.set_ylabel("accuracy among them, %")
    left.legend()
    ends = ([score(h).accuracy for h in histories[name]] for name in (REPLAY, SPECTRAL))
    plot_pairs(right, *ends)
    right.set_xticks((0, 1), (REPLAY, SPECTRAL))
    right.set_ylabel("accuracy at the end, %")
    return figure


def main() -> None:
    study = Study(__file__, __doc__, packages=("mlxtend",))
    study.option("--seeds", whole_number(2, 100), 10, "of weights, order and batches", quick=2)
    study.option("--steps", whole_number(1, 10**5), 100, "of each task", quick=10)
    options = study.parse()
    pool, first = Pool(), options.seed
    seeds = range(first, first + options.seeds)
    choice_seeds = range(first + 1000, first + 1000 + (1 if options.quick else 3))
    total = len(choice_seeds) * (1 + len(GRAPHS) * len(WEIGHTS)) + 3 * options.seeds
    with progress(total=total, unit="training") as bar:
        spectral, grid = choose(pool, choice_seeds, options.steps, bar)
        histories = run_all(pool, spectral, seeds, options.steps, bar)
    results = {
        "chosen": spectral._asdict(),
        "grid": [[*key, *values] for key, values in grid.items()],
        "histories": histories,
    }
    body = report(options, spectral, grid, histories)
    study.write("Replay with a spectral gap", body, results, draw(histories))


if __name__ == "__main__":
    run(main)
