"""Few labels: does it help to draw each class together at a chosen scale?

A small network learns MNIST from 250 digits, 25 a class. Every step takes 16 digits of each of 8
classes. The topological densification loss looks at the 8 clouds of 16 latents and pulls the edges
of each cloud's minimum spanning tree (its death times) towards one length, the scale. Compared are

- shuffled: cross-entropy, on ordinary shuffled batches of the same size;
- class batches: cross-entropy, on the batches that the loss needs;
- densified: the same batches, cross-entropy plus the loss.

All three start from the same weights, and have the same number of steps, optimiser and weight
decay, on ten training sets that share no digit. Weight decay, weight and scale are chosen on other
digits, which are neither trained on later nor tested on: the weight decay without the loss, then
weight and scale of the loss at that weight decay.

    make topology STUDY=densification
    python studies/densification.py --out results

Some ten minutes on one thread; with --quick, half a minute that shows nothing but that it runs.
"""

from argparse import Namespace
from itertools import chain, islice, product, repeat
from statistics import fmean
from textwrap import fill
from typing import Any, NamedTuple

import torch
from _digits import CLASSES, Digits, Pool, accuracy
from _paired import Paired, compare, plot_pairs
from _run import Score, Study, bullets, progress, run, table, whole_number
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import relreps
from relreps.plots import plot_death_times

SAMPLES = 16  # of a class in a batch
CLASSES_PER_BATCH = 8
BATCH = SAMPLES * CLASSES_PER_BATCH
PER_CLASS = 25  # training digits
LATENT = 64
LEARNING_RATE = 0.1
SHIFT = 2  # pixels each way, where digits are shifted

# Ranges of the 500 digits of each class: training sets, digits to choose on, digits to test on.
MAX_SPLITS = 10
CHOICE_SETS = 3
CHOICE = MAX_SPLITS * PER_CLASS
VALIDATION = (CHOICE + CHOICE_SETS * PER_CLASS, 400)
TEST = (400, 500)

PUBLISHED_DECAY = 1e-3
WEIGHT_DECAYS = (PUBLISHED_DECAY, 3e-3, 1e-2, 3e-2, 1e-1)
WEIGHTS = (0.01, 0.03, 0.1)
SCALES = (0.5, 1.0, 2.0)
PUBLISHED = "92.53 ± 0.76 without the loss and 94.10 ± 0.30 with it"


class Recipe(NamedTuple):
    """All that a training depends on, besides its digits and its seed."""

    class_batches: bool = True
    weight: float = 0.0
    scale: float = 0.0
    weight_decay: float = 0.0
    shift: int = 0
    steps: int = 200


# ------------------------------------------------------------------------------------- the training


def make_network() -> nn.Sequential:
    """An encoder to a batch-normalised latent, and a linear head."""
    layers: list[nn.Module] = []
    for width, channels in ((1, 8), (8, 16), (16, 32)):
        layers += [
            nn.Conv2d(width, channels, kernel_size=3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    latent = nn.Linear(32 * 3 * 3, LATENT, bias=False)
    encoder = nn.Sequential(*layers, nn.Flatten(), latent, nn.BatchNorm1d(LATENT))
    return nn.Sequential(encoder, nn.Linear(LATENT, CLASSES))


def moved(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each image by up to ``shift`` pixels, on its own."""
    size = images.shape[-1]
    windows = F.pad(images, (shift,) * 4).unfold(2, size, 1).unfold(3, size, 1)
    i, j = torch.randint(2 * shift + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, i, j]


def train(digits: Digits, recipe: Recipe, seed: int) -> nn.Sequential:
    """SGD with momentum on a cosine schedule; the initial weights depend on the seed alone."""
    torch.manual_seed(seed)
    network = make_network()
    encoder, head = network
    loss = relreps.TopologicalDensificationLoss(recipe.scale)
    generator = torch.Generator().manual_seed(seed)
    # Batches of epoch e are drawn from seed + e: seeds far apart share none.
    sampler = relreps.ClassBatchSampler(
        digits.labels, SAMPLES, CLASSES_PER_BATCH, seed=10**4 * seed
    )
    batches = islice(chain.from_iterable(repeat(sampler)), recipe.steps)
    optimizer = torch.optim.SGD(
        network.parameters(),
        LEARNING_RATE,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    for batch in batches:
        rows = torch.tensor(batch)
        if not recipe.class_batches:
            rows = torch.randperm(len(digits.labels), generator=generator)[:BATCH]
        images = digits.images[rows]
        z = encoder(moved(images, recipe.shift, generator) if recipe.shift else images)
        objective = F.cross_entropy(head(z), digits.labels[rows])
        if recipe.weight:
            # One group of rows a class: a batch of clouds, mean over the clouds.
            objective = objective + recipe.weight * loss(z.unflatten(0, (-1, SAMPLES)))
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()
    return network


@torch.no_grad()
def class_deaths(network: nn.Sequential, digits: Digits) -> Tensor:
    """Death times ``(CLASSES, clouds * (SAMPLES - 1))`` of clouds as large as those trained on."""
    network.eval()
    z = network[0](digits.images).unflatten(0, (CLASSES, -1))
    whole = z.shape[1] // SAMPLES * SAMPLES
    clouds = z[:, :whole].unflatten(1, (-1, SAMPLES))
    return relreps.death_times(clouds).flatten(1)


# --------------------------------------------------------------------------------------- the choice


Grid = dict[tuple[float, float], list[float]]  # by weight and scale: accuracies, one a set


class Choice(NamedTuple):
    """Validation accuracies, one a training set, of everything that was tried."""

    weight_decays: dict[float, list[float]]  # without the loss
    grids: dict[float, Grid]  # with it, by weight decay

    def loss(self, weight_decay: float) -> tuple[float, float]:
        """Weight and scale that were best at this weight decay."""
        return best(self.grids[weight_decay])


def best(scores: dict[Any, list[float]]) -> Any:
    """The key with the highest mean."""
    return max(scores, key=lambda key: fmean(scores[key]))


def choose(pool: Pool, sets: int, options: Namespace, bar: tqdm) -> Choice:
    """Weight decay for the network without the loss; weight and scale of the loss after that."""
    validation = pool.take(*VALIDATION)

    def score(recipe: Recipe) -> list[float]:
        scores = []
        for i in range(sets):
            start = CHOICE + i * PER_CLASS
            network = train(pool.take(start, start + PER_CLASS), recipe, options.seed + 1000 + i)
            scores.append(accuracy(network, validation))
            bar.update()
        return scores

    decays = {
        decay: score(Recipe(weight_decay=decay, steps=options.steps)) for decay in WEIGHT_DECAYS
    }
    grids = {
        decay: {
            (weight, scale): score(Recipe(True, weight, scale, decay, steps=options.steps))
            for weight, scale in product(WEIGHTS, SCALES)
        }
        for decay in dict.fromkeys((PUBLISHED_DECAY, best(decays)))
    }
    return Choice(decays, grids)


# ----------------------------------------------------------------------------------- the comparison

SHUFFLED, PLAIN, DENSIFIED = "shuffled batches", "class batches", "class batches, densified"


class Setting(NamedTuple):
    """What the three recipes have in common, and what came out."""

    name: str
    weight_decay: float
    weight: float
    scale: float
    accuracies: dict[str, list[float]]  # on the test digits, one a split
    within: dict[str, list[float]]  # mean death times of test digits, one a split
    deaths: dict[str, Tensor]  # all of them, first split

    def gain(self) -> Paired:
        return compare(self.accuracies[DENSIFIED], self.accuracies[PLAIN])


def run_one(
    pool: Pool, choice: Choice, decay: float, shift: int, options: Namespace, bar: tqdm
) -> Setting:
    """The three recipes on every split, each split from the same initial weights."""
    test = pool.take(*TEST)
    weight, scale = choice.loss(decay)
    base = Recipe(weight_decay=decay, shift=shift, steps=options.steps)
    recipes = {
        SHUFFLED: base._replace(class_batches=False),
        PLAIN: base,
        DENSIFIED: base._replace(weight=weight, scale=scale),
    }
    moves = f", digits shifted by up to {shift} pixels" if shift else ""
    origin = "published" if decay == PUBLISHED_DECAY else "best without the loss"
    name = f"Weight decay {decay:g} ({origin}){moves}"
    accuracies: dict[str, list[float]] = {recipe: [] for recipe in recipes}
    within: dict[str, list[float]] = {recipe: [] for recipe in recipes}
    setting = Setting(name, decay, weight, scale, accuracies, within, {})
    for split in range(options.splits):
        digits = pool.take(split * PER_CLASS, (split + 1) * PER_CLASS)
        for key, recipe in recipes.items():
            network = train(digits, recipe, options.seed + split)
            deaths = class_deaths(network, test)
            accuracies[key].append(accuracy(network, test))
            within[key].append(deaths.mean().item())
            setting.deaths.setdefault(key, deaths)
            bar.update()
    return setting


def run_all(pool: Pool, choice: Choice, options: Namespace, bar: tqdm) -> list[Setting]:
    """At the published weight decay; at the best one; at the best one with shifted digits."""
    chosen = best(choice.weight_decays)
    pairs = dict.fromkeys(((PUBLISHED_DECAY, 0), (chosen, 0), (chosen, SHIFT)))
    return [run_one(pool, choice, decay, shift, options, bar) for decay, shift in pairs]


# --------------------------------------------------------------------------------------- the report


def choice_report(choice: Choice) -> str:
    header = ["weight \\ scale", *(f"{scale:g}" for scale in SCALES)]
    parts = []
    for decay, grid in choice.grids.items():
        rows = [
            [f"{weight:g}", *(f"{fmean(grid[weight, scale]):.1f}" for scale in SCALES)]
            for weight in WEIGHTS
        ]
        without = fmean(choice.weight_decays[decay])
        parts.append(f"At weight decay {decay:g} ({without:.1f} without the loss):\n\n")
        parts.append(f"{table(header, rows)}\n\n")
    return "".join(parts).strip()


def setting_report(setting: Setting) -> str:
    plain = setting.accuracies[PLAIN]
    rows = []
    for name, accuracies in setting.accuracies.items():
        against = ["", "", ""] if name == PLAIN else compare(accuracies, plain).cells
        rows.append(
            [name, f"{Score(accuracies):.2f}", *against, f"{Score(setting.within[name]):.2f}"]
        )
    header = ["training", "accuracy, %", "less class batches [95 %]", "t-test p", "Wilcoxon p"]
    return table([*header, "death time"], rows)


def report(options: Namespace, choice: Choice, sets: int, settings: list[Setting]) -> str:
    decays = ", ".join(
        f"{key:g}: {fmean(value):.1f}" for key, value in choice.weight_decays.items()
    )
    verdicts = bullets([f"{setting.name}: {setting.gain().verdict()}." for setting in settings])
    tables = "\n\n".join(
        f"{setting.name}; loss of weight {setting.weight:g} and scale {setting.scale:g}:\n\n"
        f"{setting_report(setting)}"
        for setting in settings
    )
    return f"""\
A small network on MNIST, {CLASSES * PER_CLASS} labelled digits ({PER_CLASS} a class), \
{options.splits} training sets that share no digit, {(TEST[1] - TEST[0]) * CLASSES} other digits \
to test on. {options.steps} steps of {BATCH} digits: {SAMPLES} of each of {CLASSES_PER_BATCH} \
classes or, for the shuffled batches, any. Same initial weights, optimiser, number of steps and \
weight decay on a split. Published for 250 labels, with another network and other splits: \
{PUBLISHED}. Here the loss brought, against the same class batches without it,

{verdicts}

Mean ± sample deviation over the splits; the test digits are the same for all of them, so chance \
in *them* is not in the tests. Death time: mean edge of the minimum spanning tree of {SAMPLES} \
test digits of one class, in the latent.

{tables}

Chosen on {sets} other training sets, by their mean accuracies on \
{(VALIDATION[1] - VALIDATION[0]) * CLASSES} digits, none of which occurs above. Weight decay, \
without the loss: {decays}. Weight and scale of the loss, for digits that are not shifted:

{choice_report(choice)}
"""


def draw(settings: list[Setting]) -> Figure:
    """Accuracy split by split, and death times a class, without and with the loss."""
    figure = Figure(figsize=(4 * len(settings), 6), layout="constrained")
    top, bottom = figure.subplots(2, len(settings), squeeze=False)
    for ax, below, setting in zip(top, bottom, settings, strict=True):
        plot_pairs(ax, setting.accuracies[PLAIN], setting.accuracies[DENSIFIED])
        ax.set_xticks((0, 1), ("without", "with the loss"))
        ax.set_title(fill(setting.name, width=40))
        deaths = {"without": setting.deaths[PLAIN], "with the loss": setting.deaths[DENSIFIED]}
        plot_death_times(deaths, below, scale=setting.scale)
        below.set_xlabel("death time, test digits, a line a class")
    top[0].set_ylabel("test accuracy, %")
    return figure


def main() -> None:
    study = Study(__file__, __doc__, packages=("mlxtend",))
    splits, steps = whole_number(2, MAX_SPLITS), whole_number(1, 10**5)
    study.option("--splits", splits, MAX_SPLITS, "training sets", quick=2)
    study.option("--steps", steps, 200, "of each training", quick=40)
    options = study.parse()
    pool = Pool()
    sets = 1 if options.quick else CHOICE_SETS
    tried = len(WEIGHT_DECAYS) + 2 * len(WEIGHTS) * len(SCALES)
    with progress(total=sets * tried + 9 * options.splits, unit="training") as bar:
        choice = choose(pool, sets, options, bar)
        settings = run_all(pool, choice, options, bar)
    results = {
        "weight_decays": {f"{key:g}": value for key, value in choice.weight_decays.items()},
        "grids": {
            f"weight decay {decay:g}": [[*key, *scores] for key, scores in grid.items()]
            for decay, grid in choice.grids.items()
        },
        "settings": {
            setting.name: {
                "weight": setting.weight,
                "scale": setting.scale,
                "accuracies": setting.accuracies,
                "death_times": setting.within,
                "gain": setting.gain()._asdict(),
            }
            for setting in settings
        },
    }
    body = report(options, choice, sets, settings)
    study.write("Topological densification with few labels", body, results, draw(settings))


if __name__ == "__main__":
    run(main)
