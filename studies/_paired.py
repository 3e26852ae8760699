"""Paired runs: the difference that a change makes, its interval, and what that says in words."""

import warnings
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from scipy import stats

#: Pairs below which nothing is said: with four, Wilcoxon's test cannot come below 0.125.
FEWEST = 5


class Paired(NamedTuple):
    """Differences between paired runs: mean, 95 % interval, p-values of two tests, their number."""

    mean: float
    low: float
    high: float
    t_test: float
    wilcoxon: float
    runs: int

    def __str__(self) -> str:
        if self.runs < FEWEST:
            return ""
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    @property
    def cells(self) -> list[str]:
        """For a table: the difference, and the p-values of the t-test and of Wilcoxon's test."""
        if self.runs < FEWEST:
            return ["", "", ""]
        return [str(self), f"{self.t_test:.2g}", f"{self.wilcoxon:.2g}"]

    def verdict(self) -> str:
        """In words, by the interval; of a few runs nothing is said."""
        if self.runs < FEWEST:
            return f"nothing that {self.runs} runs could tell from chance"
        if self.low > 0:
            return f"a gain of {self.mean:.2f} points"
        if self.high < 0:
            return f"a loss of {-self.mean:.2f} points"
        return f"no difference that these runs can tell from chance ({self.mean:+.2f} points)"


def compare(treated: Sequence[float], control: Sequence[float]) -> Paired:
    """Paired two-sided t-test (with its interval) and Wilcoxon signed-rank test."""
    differences = [a - b for a, b in zip(treated, control, strict=True)]
    average, runs, nan = fmean(differences), len(differences), float("nan")
    if len(set(differences)) == 1:  # no spread, nothing to test
        return Paired(average, average, average, nan, nan, runs)
    t_test = stats.ttest_1samp(differences, 0.0)
    low, high = t_test.confidence_interval(0.95)
    with warnings.catch_warnings():
        # Ties and zeros: SciPy says that it turns to the normal approximation.
        warnings.simplefilter("ignore")
        ranks = stats.wilcoxon(differences).pvalue
    return Paired(average, float(low), float(high), float(t_test.pvalue), float(ranks), runs)


def plot_pairs(ax: Axes, before: Sequence[float], after: Sequence[float]) -> None:
    """A line a pair, by whether it rises, falls, or does neither."""
    for pair in zip(before, after, strict=True):
        colour = "C2" if pair[1] > pair[0] else "C3" if pair[1] < pair[0] else "C7"
        ax.plot((0, 1), pair, "o-", color=colour)
    ax.set_xlim(-0.5, 1.5)
