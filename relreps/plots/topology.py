"""How connected clouds of points are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relreps._core import checks
from relreps.plots.axes import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_barcode(
    deaths: Mapping[str, Tensor],
    ax: Axes | None = None,
    *,
    scale: float | None = None,
    title: str | None = None,
    cmap: str = "tab10",
) -> Axes:
    """Barcodes of connected components: a bar from 0 to each death time, shortest first.

    Args:
        deaths: Death times ``(m,)`` by name, such as a class, before and after training; infinite
            ones are left out. Groups are stacked upwards in this order, each in its colour.
        ax: Where to draw.
        scale: Where to mark a length, such as the scale of a loss.
        title: Title of the axes.
        cmap: Name of a matplotlib colour map.
    """
    bars = {name: rows[0].sort().values for name, rows in _by_name(deaths, axes=(1,)).items()}
    ax = new_axes(ax, "plot_barcode")
    bottom, ticks = 0, []
    for i, d in enumerate(bars.values()):
        height = torch.arange(bottom, bottom + len(d), device="cpu").numpy()
        ax.hlines(height, 0, d.numpy(), colors=_colour(cmap, i), lw=1.2)
        ticks.append(bottom + (len(d) - 1) / 2)
        bottom += len(d) + 1
    ax.set_yticks(ticks, list(bars))
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(left=0)
    return _finish_deaths(ax, scale, title)


def plot_death_times(
    deaths: Mapping[str, Tensor],
    ax: Axes | None = None,
    *,
    bins: int = 30,
    scale: float | None = None,
    title: str | None = None,
    cmap: str = "tab10",
) -> Axes:
    """Histograms of death times, one outline for each class, in the colour of its group.

    All share their bins, from 0 to the longest death time. Outlines are densities, so groups of
    different sizes compare.

    Args:
        deaths: Death times by name, such as "before" and "after": ``(m,)``, or ``(C, m)`` for
            several classes. Infinite ones are left out, so that classes of different sizes can be
            filled up with them.
        ax: Where to draw.
        bins: Number of bins.
        scale: Where to mark a length, such as the scale of a loss.
        title: Title of the axes.
        cmap: Name of a matplotlib colour map.
    """
    bins = checks.check_size("bins", bins)
    groups = _by_name(deaths, axes=(1, 2))
    ax = new_axes(ax, "plot_death_times")
    longest = max((float(d.max()) for rows in groups.values() for d in rows if len(d)), default=0.0)
    edges = torch.linspace(0, longest or 1.0, bins + 1, dtype=torch.float64, device="cpu")
    for i, (name, rows) in enumerate(groups.items()):
        colour = _colour(cmap, i)
        known = [d for d in rows if len(d)]
        for j, d in enumerate(known):
            heights = torch.histogram(d, edges, density=True).hist
            style: dict[str, Any] = {"color": colour, "alpha": 1 if len(known) == 1 else 0.5}
            label = name if j == 0 else None
            ax.stairs(heights.numpy(), edges.numpy(), lw=1.2, label=label, **style)
    ax.set_ylabel("density")
    ax.set_ylim(bottom=0)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return _finish_deaths(ax, scale, title)


def _by_name(deaths: Mapping[str, Tensor], axes: tuple[int, ...]) -> dict[str, list[Tensor]]:
    """Finite death times of each class, by name."""
    if not isinstance(deaths, Mapping):
        raise TypeError(
            f"`deaths` must be death times by name, got {type(deaths).__name__}. "
            "Name them, as in `{'before': deaths}`."
        )
    return {name: _death_times(d, axes) for name, d in deaths.items()}


def _death_times(d: Tensor, axes: tuple[int, ...]) -> list[Tensor]:
    """Finite death times of each class."""
    checks.check_floating("deaths", d)
    if d.dim() not in axes:
        wanted = " or ".join({1: "(m,)", 2: "(C, m)"}[axis] for axis in axes)
        raise ValueError(f"`deaths` must have shape {wanted}, got {tuple(d.shape)}.")
    rows = torch.atleast_2d(d.detach().cpu().double())
    if not bool((rows >= 0).all()):
        raise ValueError("`deaths` must not be negative or NaN. Take them from `death_times`.")
    return [row[row.isfinite()] for row in rows]


def _colour(cmap: str, i: int) -> Any:
    from matplotlib import colormaps

    colours = colormaps[cmap]
    return colours(i % colours.N)


def _finish_deaths(ax: Axes, scale: float | None, title: str | None) -> Axes:
    if scale is not None:
        checks.check_number("scale", scale, 0, float("inf"))
        ax.axvline(scale, color="black", lw=0.8, ls="--")
    ax.set_xlabel("death time")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if title is not None:
        ax.set_title(title)
    return ax
