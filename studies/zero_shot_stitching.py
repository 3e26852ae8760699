"""Networks trained apart, plugged into each other with no further training, on real digits.

Three auto-encoders and three classifiers learn from the same 4000 MNIST digits, each alone: A and
B differ in seed and width, C also has a larger latent. Every encoder is then joined to every head:

- absolute: the head gets the latent of a foreign encoder as it is;
- relative: encoders and heads were trained on cosines to 300 shared anchor digits instead;
- translated: the absolute latent is moved to the head's space by a Procrustes map, which is fitted
  on the same 300 digits encoded by both networks.

It prints accuracy, reconstruction error and retrieval on 1000 held-out digits, says whether the
relative code did what it promises and where translation did better, and draws one picture. It
takes a bit more than a minute.

    python studies/zero_shot_stitching.py --seed 1 --sampler kmeans
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from _digits import (
    CLASSIFY,
    NUM_TRAIN,
    RECONSTRUCT,
    STEPS_PER_EPOCH,
    Digits,
    Task,
    load_digits,
    make_encoder,
    train,
)
from _run import Study, bullets, progress, run, table, whole_number
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import relreps
from relreps.plots import plot_image_rows, plot_stitching_matrix


class Size(NamedTuple):
    """What distinguishes the networks, besides their seeds."""

    channels: int
    latent: int


SIZES = {"A": Size(16, 128), "B": Size(24, 128), "C": Size(20, 160)}
SAMPLERS = {
    "uniform": relreps.UniformAnchors,
    "stratified": relreps.StratifiedAnchors,
    "farthest": relreps.FarthestAnchors,
    "kmeans": relreps.KMeansAnchors,
}
Models = dict[str, relreps.StitchedModel]  # an encoder and its own head, by name


def make_relative(encoder: nn.Module, latent: int, anchor_images: Tensor) -> nn.Module:
    """The same encoder, read through its cosines to the anchors.

    Gradients reach the encoder through the anchors too: it costs a backward pass over them, and
    makes independent networks agree much better.
    """
    projection = relreps.RelativeProjection(latent, len(anchor_images))
    return relreps.RelativeEncoder(encoder, projection, anchor_images, detach_anchors=False)


def train_three(
    task: Task, digits: Digits, anchor_images: Tensor | None, seed: int, epochs: int, bar: tqdm
) -> Models:
    """A, B and C, each alone: absolute without anchors, relative with them."""
    models = {}
    for i, (name, size) in enumerate(SIZES.items()):
        torch.manual_seed(seed + i)
        encoder, width = make_encoder(size.channels, size.latent), size.latent
        if anchor_images is not None:
            encoder, width = make_relative(encoder, size.latent, anchor_images), len(anchor_images)
        models[name] = relreps.StitchedModel(encoder, task.make_head(width, size.channels))
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

    scores: dict[str, relreps.stitching.StitchingMatrix]
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


def own(matrix: relreps.stitching.StitchingMatrix) -> float:
    """Mean score of the networks as they were trained."""
    return matrix.scores.diagonal().mean().item()


def stitched(matrix: relreps.stitching.StitchingMatrix, names: str = "ABC") -> float:
    """Mean score of the pairs of different networks that fit, among those of these names."""
    rows = [matrix.encoders.index(name) for name in names]
    foreign = ~torch.eye(len(rows), dtype=torch.bool)
    return matrix.scores[rows][:, rows][foreign].nanmean().item()


def tables(classify: Result, reconstruct: Result) -> Iterator[str]:
    """Accuracies, errors, and retrieval from A to B."""
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
            yield f"{title}: {caption}"
            yield result.scores[kind].to_markdown(digits=1)
    yield "Retrieval: is a digit, encoded by A, nearest to itself among all digits encoded by B?"
    rows = [
        [kind, *(f"{value:.3f}" for r in found for value in (r.mrr_xy, r.jaccard_xy))]
        for kind in captions
        for found in [(reconstruct.retrieval[kind], classify.retrieval[kind])]
    ]
    header = ["latents", "auto-encoders MRR", "Jaccard@10", "classifiers MRR", "Jaccard@10"]
    yield table(header, rows)


def verdict(classify: Result, reconstruct: Result) -> Iterator[str]:
    """What relative codes promise, against what was measured; their price; who wins."""
    accuracy, error = classify.scores, reconstruct.scores
    rel_own, rel_foreign = own(accuracy["relative"]), stitched(accuracy["relative"])
    abs_own, abs_foreign = own(accuracy["absolute"]), stitched(accuracy["absolute"])
    rel_error, abs_error = stitched(error["relative"], "AB"), stitched(error["absolute"], "AB")
    checks = [
        (
            rel_own - rel_foreign <= 3,
            f"Relative accuracy, {rel_own:.1f} with the own head, {rel_foreign:.1f} with a "
            "foreign one. Target: at most 3 points lower",
        ),
        (
            abs_own - abs_foreign >= 50,
            f"Absolute accuracy, {abs_own:.1f} with the own head, {abs_foreign:.1f} with a "
            "foreign one. Expected: at least 50 points lower",
        ),
        (
            abs_error >= 4 * rel_error,
            f"Error between A and B, relative {rel_error:.1f}, absolute {abs_error:.1f}: "
            f"{abs_error / rel_error:.1f} times as much. Target: at least 4 times",
        ),
    ]
    yield "Verdict, on the means of these tables"
    lines = [f"{text}: {'met' if met else 'MISSED'}." for met, text in checks]
    if not all(met for met, _ in checks):
        lines[-1] += "\n  (Fewer epochs or far fewer anchors than the defaults make a miss likely.)"
    lines.append(
        f"The price of relative codes: error {own(error['relative']):.1f} with the own decoder, "
        f"where absolute latents have {own(error['absolute']):.1f}."
    )
    for measure, scores, sign in (("Accuracy", accuracy, 1), ("Error", error, -1)):
        moved, code = (round(stitched(scores[kind]), 1) for kind in ("translated", "relative"))
        winner = "Procrustes wins" if sign * moved > sign * code else "relative codes win"
        winner = "a tie" if moved == code else winner
        lines.append(
            f"{measure} between all networks: Procrustes {moved}, relative {code}: {winner}."
        )
    yield bullets(lines)
    yield (
        "Procrustes is fitted for each pair of networks and takes their heads as they are;\n"
        "relative codes need no fit between networks, but heads that were trained on them."
    )


@torch.no_grad()
def draw(classify: Result, reconstruct: Result, test: Digits) -> Figure:
    """One digit a class through the auto-encoders, and the accuracy of every classifier pair."""
    images = test.images[:: len(test.images) // 10]
    rows = {"original": images}
    for text, models, kind, head in (
        ("own decoder, absolute", reconstruct.own, "absolute", "A"),
        ("own decoder, relative", reconstruct.own, "relative", "A"),
        ("foreign decoder, absolute", reconstruct.stitched, "absolute", "B"),
        ("foreign decoder, relative", reconstruct.stitched, "relative", "B"),
        ("foreign decoder, translated", reconstruct.stitched, "translated", "B"),
    ):
        matrix = reconstruct.scores[kind]
        error = matrix.scores[matrix.encoders.index("A"), matrix.decoders.index(head)]
        rows[f"{text}\nerror {error:.1f}"] = models[kind](images)

    figure = Figure(figsize=(11.5, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(5.2, 1))
    left.suptitle(
        "Auto-encoders trained apart: encoder A with its own decoder and with that of B",
        weight="bold",
    )
    right.suptitle("Classifiers, %", weight="bold")
    shown = {label: row.squeeze(1).clamp(0, 1) for label, row in rows.items()}
    plot_image_rows(shown, left.subplots())
    axes = right.subplots(len(classify.scores), 1, sharex=True)
    for ax, (kind, matrix) in zip(axes, classify.scores.items(), strict=True):
        plot_stitching_matrix(matrix, ax, title=kind, digits=0, limits=(0, 100))
        ax.label_outer()
    return figure


def main() -> None:
    study = Study(__file__, __doc__, packages=("mlxtend",))
    anchors = whole_number(2, NUM_TRAIN)  # a Procrustes map needs two pairs at least
    study.option("--anchors", anchors, 300, "number of anchor digits")
    study.option("--sampler", str, "stratified", "how anchors are chosen", choices=SAMPLERS)
    study.option("--epochs", whole_number(1, 10**4), 8, "of each of the twelve trainings", quick=1)
    options = study.parse()
    digits, test = load_digits()
    generator = torch.Generator().manual_seed(options.seed)
    sampler = SAMPLERS[options.sampler](options.anchors, generator=generator)
    anchor_images = digits.images[sampler(digits.images.flatten(1), digits.labels)]

    found = []
    steps = 4 * len(SIZES) * options.epochs * STEPS_PER_EPOCH
    with progress(total=steps, unit="step") as bar:
        for i, task in enumerate((CLASSIFY, RECONSTRUCT)):
            seed = 100 * options.seed + 10 * i  # no two networks of a run share one
            absolute = train_three(task, digits, None, seed, options.epochs, bar)
            relative = train_three(task, digits, anchor_images, seed + 5, options.epochs, bar)
            found.append(evaluate(task, absolute, relative, anchor_images, test))
        bar.set_description("trained 12 networks")

    body = "\n\n".join((*tables(*found), *verdict(*found)))
    scores = {
        title: {kind: matrix.scores.tolist() for kind, matrix in result.scores.items()}
        for title, result in zip(("accuracy", "error"), found, strict=True)
    }
    study.write("Networks trained apart, stitched", body, scores, draw(*found, test))


if __name__ == "__main__":
    run(main)
