"""A teacher that never saw a label shows a student how digits relate, and nothing else.

The teacher is a small convolutional network that learned by contrast alone: two distorted views of
a digit belong together, views of different digits do not. It is then frozen. The student is a
perceptron with a latent space of another width. All it is ever told is the `latent_similarity`
between its latents and the teacher's, in batches whose first rows serve as anchors: no labels, no
coordinates of the teacher. Gradients flow through the samples and through the anchors.

    python studies/guided_student.py

It prints how well digits can be told apart in each space (the nearest neighbours of a test digit
among the training digits, and a linear classifier on frozen latents), before and after, over three
seeds, and saves the spaces of the first as a picture. Less than a minute.
"""

import math
from statistics import mean

import torch
from _digits import NUM_TRAIN, Digits, load_digits, make_encoder
from _run import Study, progress, run, table, whole_number
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from relreps.metrics import latent_similarity, linear_cka, mutual_knn
from relreps.plots import plot_spaces

Spaces = dict[str, tuple[Tensor, Tensor]]  # latents of the training digits, and of the others

TEACHER_LATENT, STUDENT_LATENT, HIDDEN = 32, 12, 128
BATCH_SIZE, ANCHORS = 256, 64
NEIGHBOURS = 5


def distorted(images: Tensor) -> Tensor:
    """Each image turned, scaled, sheared and shifted at random."""
    n = len(images)
    angle = (torch.rand(n) - 0.5) * math.radians(50)
    scale = 1 + (torch.rand(n) - 0.5) * 0.4
    shear = (torch.rand(n) - 0.5) * 0.5
    cos, sin = scale * angle.cos(), scale * angle.sin()
    shift = (torch.rand(2, n) - 0.5) * 0.4
    rows = (torch.stack((cos, shear - sin, shift[0]), 1), torch.stack((sin, cos, shift[1]), 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def contrast(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """Cross-entropy of finding the other view of each digit among all views of the batch."""
    views = F.normalize(torch.cat((first, second)), dim=1)
    logits = views @ views.T / temperature
    logits.fill_diagonal_(-math.inf)
    n = len(first)
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


def train_teacher(images: Tensor, steps: int, bar: tqdm) -> nn.Module:
    encoder = make_encoder(16, TEACHER_LATENT)
    head = nn.Sequential(nn.GELU(), nn.Linear(TEACHER_LATENT, TEACHER_LATENT))
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    for _ in range(steps):
        batch = images[torch.randperm(len(images))[:BATCH_SIZE]]
        first, second = (head(encoder(distorted(batch))) for _ in range(2))
        optimizer.zero_grad()
        contrast(first, second).backward()
        optimizer.step()
        bar.update()
    return encoder.eval().requires_grad_(False)


def make_student() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, STUDENT_LATENT),
    )


def guide(student: nn.Module, target: Tensor, images: Tensor, steps: int, bar: tqdm) -> None:
    """Pull the relative codes of the student to those of the latents ``target``."""
    optimizer = torch.optim.Adam(student.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    anchors = torch.arange(ANCHORS)
    for _ in range(steps):
        rows = torch.randperm(NUM_TRAIN)[:BATCH_SIZE]
        # Centred: codes share a large mean, and agreeing on it is easy and teaches little.
        similarity = latent_similarity(student(images[rows]), target[rows], anchors, centered=True)
        optimizer.zero_grad()
        (1 - similarity).backward()
        optimizer.step()
        schedule.step()
        bar.update()


def by_neighbours(train: Tensor, test: Tensor, seen: Digits, held_out: Digits) -> float:
    """Accuracy in per cent of a vote among the nearest training digits, by cosine."""
    similar = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    votes = seen.labels[similar.topk(NEIGHBOURS).indices]
    return 100 * float((votes.mode(1).values == held_out.labels).float().mean())


def by_probe(train: Tensor, test: Tensor, seen: Digits, held_out: Digits) -> float:
    """Accuracy in per cent of a linear classifier on frozen latents."""
    center, spread = train.mean(0), train.std(0)
    train, test = (train - center) / spread, (test - center) / spread
    probe = nn.Linear(train.shape[1], 10)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        decay = 1e-4 * probe.weight.square().sum()
        loss = F.cross_entropy(probe(train), seen.labels) + decay
        loss.backward()
        return loss

    optimizer.step(closure)
    return 100 * float((probe(test).argmax(1) == held_out.labels).float().mean())


def train_pair(
    seed: int, steps: tuple[int, int], seen: Digits, held_out: Digits, bar: tqdm
) -> Spaces:
    """A teacher and its student, both from nothing: training and test digits in their spaces."""
    torch.manual_seed(seed)

    def look(model: nn.Module) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return model(seen.images), model(held_out.images)

    student = make_student()
    before = look(student)
    teacher = look(train_teacher(seen.images, steps[0], bar))
    guide(student, teacher[0], seen.images, steps[1], bar)
    return {"teacher": teacher, "student, before": before, "student, after": look(student)}


def score(spaces: Spaces, seen: Digits, held_out: Digits) -> dict[str, tuple[float, ...]]:
    """Each space by what it knows of classes, and by how near it is to the teacher's."""
    target = spaces["teacher"][1]
    anchors = torch.arange(0, len(target), 10)
    return {
        name: (
            by_neighbours(train, test, seen, held_out),
            by_probe(train, test, seen, held_out),
            float(latent_similarity(target, test, anchors, centered=True)),
            float(linear_cka(target, test, debiased=True)),
            float(mutual_knn(target, test, calibrated=True)),
        )
        for name, (train, test) in spaces.items()
    }


def report(runs: list[dict[str, tuple[float, ...]]]) -> str:
    """The mean over the seeds, and the least and the greatest."""
    columns = (("kNN %", 1), ("probe %", 1), ("similarity", 3), ("CKA", 3), ("mutual kNN", 3))
    rows = []
    for name in runs[0]:
        row = [name]
        for i, (_, digits) in enumerate(columns):
            values = [found[name][i] for found in runs]
            middle, least, greatest = (f"{f(values):.{digits}f}" for f in (mean, min, max))
            row.append(f"{middle} [{least}, {greatest}]")
        rows.append(row)
    return f"""\
{len(runs)} seeds, 1000 test digits: mean [least, greatest]

{table(["", *(title for title, _ in columns)], rows)}

The student saw no label, and no coordinate of the teacher: {TEACHER_LATENT} numbers a digit \
there, {STUDENT_LATENT} here.
Similarity is the centred latent similarity to the teacher, on digits that neither has seen."""


def draw(spaces: Spaces, held_out: Digits) -> Figure:
    """The test digits in each space."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    shown = {name: F.normalize(test, dim=1) for name, (_, test) in spaces.items()}
    plot_spaces(shown, held_out.labels, figure.subplots(1, len(shown)))
    return figure


def main() -> None:
    study = Study(__file__, __doc__, packages=("mlxtend",))
    number = whole_number(1, 10**5)
    study.option("--repeats", number, 3, "teachers and students, each with the next seed", quick=1)
    study.option("--teacher-steps", number, 400, "batches for the teacher", quick=30)
    study.option("--student-steps", number, 800, "batches for the student", quick=30)
    options = study.parse()
    seen, held_out = load_digits()
    steps = options.teacher_steps, options.student_steps
    with progress(total=options.repeats * sum(steps), unit="step") as bar:
        spaces = [
            train_pair(options.seed + i, steps, seen, held_out, bar) for i in range(options.repeats)
        ]
    runs = [score(each, seen, held_out) for each in spaces]
    title = "A student guided by relative similarity"
    study.write(title, report(runs), {"runs": runs}, draw(spaces[0], held_out))


if __name__ == "__main__":
    run(main)
