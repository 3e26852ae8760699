"""Anchors from elsewhere: letters and noise instead of digits, between networks for digits.

Anchors only have to be the same samples for every network; nothing says that they must come from
the data the networks work on. Two classifiers of MNIST digits, A and B, are trained apart on their
relative codes, once for each kind of anchors:

- digits: 300 of the training digits, balanced over the classes;
- letters: 300 printed letters, turned and shifted, which neither network was ever trained on;
- noise: 300 smooth random pictures.

The encoder of A is then joined to the head of B with no further training. The same anchors also
move the latents of two ordinary classifiers onto each other by a Procrustes map: there the encoders
were done before any anchor was chosen. It prints one table for 1000 held-out digits, draws the
anchors among them, and takes about a minute.

    python studies/out_of_domain_anchors.py --seed 1 --anchors 100
"""

import math
import random
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from _digits import CLASSIFY, STEPS_PER_EPOCH, Digits, load_digits, make_encoder, train
from _run import Study, bullets, progress, run, table, whole_number
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import relreps
from relreps.plots import plot_anchors, plot_image_rows

LATENT = 64
CHANNELS = {"A": 16, "B": 24}
LETTERS = "ABCDEFGHJKLMNPQRTUVWXYabcdefhjkmnpqrtuvwxy"  # without those that pass for a digit
FONTS = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf"]


class Row(NamedTuple):
    """What is measured for one kind of anchors: accuracies in percent, and retrieval."""

    own: float
    stitched: float
    mrr: float
    moved: float
    moved_mrr: float
    radius: float


def draw_letters(number: int, seed: int) -> Tensor:
    """White letters ``(number, 1, 28, 28)`` of about the size of the digits."""
    choose = random.Random(seed)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pictures = []
    for _ in range(number):
        font = ImageFont.truetype(str(folder / choose.choice(FONTS)), choose.randint(22, 28))
        picture = Image.new("L", (28, 28))
        at = (14 + choose.uniform(-2, 2), 14 + choose.uniform(-2, 2))
        ImageDraw.Draw(picture).text(at, choose.choice(LETTERS), 255, font, anchor="mm")
        picture = picture.rotate(choose.uniform(-20, 20), Image.Resampling.BILINEAR)
        pictures.append(torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8))
    return torch.stack(pictures).reshape(-1, 1, 28, 28).float() / 255


def draw_noise(number: int, generator: torch.Generator) -> Tensor:
    """Clouds ``(number, 1, 28, 28)`` with strokes of about the width of a pen, in [0, 1]."""
    coarse = torch.rand(number, 1, 8, 8, generator=generator)
    clouds = F.interpolate(coarse, size=28, mode="bicubic", align_corners=False)
    return (4 * (clouds - 0.6)).clamp(0, 1)


def make_anchors(number: int, digits: Digits, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sampler = relreps.StratifiedAnchors(number, generator=generator)
    return {
        "digits": digits.images[sampler(digits.images.flatten(1), digits.labels)],
        "letters": draw_letters(number, seed),
        "noise": draw_noise(number, generator),
    }


def train_pair(
    digits: Digits, anchor_images: Tensor | None, seed: int, epochs: int, bar: tqdm
) -> dict[str, relreps.StitchedModel]:
    """A and B, each alone; through a relative code if there are anchors."""
    models = {}
    for i, (name, channels) in enumerate(CHANNELS.items()):
        torch.manual_seed(seed + i)
        encoder, width = make_encoder(channels, LATENT), LATENT
        if anchor_images is not None:
            width = len(anchor_images)
            projection = relreps.RelativeProjection(LATENT, width)
            encoder = relreps.RelativeEncoder(
                encoder, projection, anchor_images, detach_anchors=False
            )
        models[name] = relreps.StitchedModel(encoder, CLASSIFY.make_head(width, channels))
        train(models[name], digits, CLASSIFY, epochs, bar)
        models[name].eval()
    return models


@torch.no_grad()
def accuracy(encoder: nn.Module, head: nn.Module, test: Digits) -> float:
    return CLASSIFY.score(head(encoder(test.images)), test.labels).item()


@torch.no_grad()
def evaluate(
    relative: dict[str, relreps.StitchedModel],
    absolute: dict[str, relreps.StitchedModel],
    anchor_images: Tensor,
    test: Digits,
) -> Row:
    """Both directions between A and B, averaged."""
    a, b = relative["A"], relative["B"]
    codes = relreps.metrics.retrieval_scores(a.encoder(test.images), b.encoder(test.images))
    old_a, old_b = absolute["A"], absolute["B"]
    x, y = old_a.encoder(anchor_images), old_b.encoder(anchor_images)
    fit = relreps.ProcrustesTranslator
    there = fit(LATENT, LATENT, scale="umeyama").fit(x, y)
    back = fit(LATENT, LATENT, scale="umeyama").fit(y, x)
    latents = old_a.encoder(test.images), old_b.encoder(test.images)
    moved = relreps.metrics.retrieval_scores(there(latents[0]), latents[1])
    return Row(
        own=(accuracy(a.encoder, a.decoder, test) + accuracy(b.encoder, b.decoder, test)) / 2,
        stitched=(accuracy(a.encoder, b.decoder, test) + accuracy(b.encoder, a.decoder, test)) / 2,
        mrr=float(codes.mrr_xy + codes.mrr_yx) / 2,
        moved=(
            accuracy(old_a.encoder, nn.Sequential(there, old_b.decoder), test)
            + accuracy(old_b.encoder, nn.Sequential(back, old_a.decoder), test)
        )
        / 2,
        moved_mrr=float(moved.mrr_xy + moved.mrr_yx) / 2,
        radius=float(relreps.anchor_report(x, latents[0]).coverage_radius),
    )


def report(rows: dict[str, Row], own: float) -> str:
    """The table, and what the numbers of this run say in words."""
    header = ["anchors", "own head", "foreign head", "MRR", "Procrustes", "its MRR", "radius"]
    digits = (1, 1, 3, 1, 3, 2)
    cells = [
        [name, *(f"{value:.{places}f}" for value, places in zip(row, digits, strict=True))]
        for name, row in rows.items()
    ]
    home = rows["digits"]
    changes = [
        f"{name.capitalize()}: stitching through the code changes by "
        f"{row.stitched - home.stitched:+.1f} points against digits as anchors, Procrustes by "
        f"{row.moved - home.moved:+.1f}."
        for name, row in rows.items()
        if row is not home
    ]
    return f"""\
{table(header, cells)}

Accuracy in percent, of relative networks with their own and with a foreign head, and
of ordinary ones (own head: {own:.1f}) whose latents were moved by a Procrustes map.
MRR: is a digit, encoded by A, nearest to itself among all digits encoded by B? Radius:
the coverage radius of the anchors among the test digits, in the ordinary network A; a
right angle is {math.sqrt(2):.2f}.

{bullets(changes)}

Anchors have to be parallel, the same for both networks; they need not be data.
Retrieval is another matter: classifiers pull each class together, and an MRR of 0.05
is what one gets by knowing the class alone."""


@torch.no_grad()
def draw(
    anchors: dict[str, Tensor], rows: dict[str, Row], encoder: nn.Module, test: Digits
) -> Figure:
    """Some anchors of each kind, and all of them among the test digits."""
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 2.4))
    examples = {name: images[:20].squeeze(1).clamp(0, 1) for name, images in anchors.items()}
    plot_image_rows(examples, top.subplots(), title="Anchors")
    latents = F.normalize(encoder(test.images), dim=1)
    for ax, (name, images) in zip(bottom.subplots(1, len(anchors)), anchors.items(), strict=True):
        title = f"{name}: stitched {rows[name].stitched:.0f} %, Procrustes {rows[name].moved:.0f} %"
        directions = F.normalize(encoder(images), dim=1)
        plot_anchors(latents, directions, test.labels, ax, title=title)
    bottom.suptitle("Anchors (crosses) among the test digits, directions in ordinary network A")
    return figure


def main() -> None:
    study = Study(__file__, __doc__, packages=("mlxtend", "pillow", "matplotlib"))
    study.option("--anchors", whole_number(2, 4000), 300, "number of anchors of each kind")
    study.option("--epochs", whole_number(1, 10**4), 5, "of each of the eight trainings", quick=1)
    options = study.parse()
    digits, test = load_digits()
    anchors = make_anchors(options.anchors, digits, options.seed)
    seed, epochs = 100 * options.seed, options.epochs
    with progress(total=2 * (1 + len(anchors)) * epochs * STEPS_PER_EPOCH, unit="step") as bar:
        absolute = train_pair(digits, None, seed, epochs, bar)
        rows = {}
        for i, (name, images) in enumerate(anchors.items()):
            relative = train_pair(digits, images, seed + 10 * (i + 1), epochs, bar)
            rows[name] = evaluate(relative, absolute, images, test)
    own = sum(accuracy(m.encoder, m.decoder, test) for m in absolute.values()) / len(absolute)
    results = {"own": own, "anchors": {name: row._asdict() for name, row in rows.items()}}
    picture = draw(anchors, rows, absolute["A"].encoder, test)
    study.write("Anchors from elsewhere", report(rows, own), results, picture)


if __name__ == "__main__":
    run(main)
