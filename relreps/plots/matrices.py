"""Scores of everything with everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relreps._core.tables import ScoreTable
from relreps.metrics import LayerComparison
from relreps.plots.axes import check_type, finish, new_axes
from relreps.stitching import StitchingMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Limits = tuple[float, float]


def plot_stitching_matrix(
    matrix: StitchingMatrix,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    digits: int = 2,
    limits: Limits | None = None,
    cmap: str = "viridis",
) -> Axes:
    """Heat map of the scores, encoders down, decoders across; missing cells are grey.

    Args:
        matrix: What `relreps.stitching_matrix` returned.
        ax: Where to draw.
        title: Title of the axes.
        digits: Decimals in the cells.
        limits: Scores at the ends of the colour scale; those of the matrix by default. Give the
            same ones to matrices that are to be compared.
        cmap: Name of a matplotlib colour map.
    """
    check_type("matrix", matrix, StitchingMatrix)
    _check(matrix, limits)
    ax = new_axes(ax, "plot_stitching_matrix")
    _heat_map(ax, matrix, digits, limits, cmap)
    ax.set_xlabel("decoder")
    ax.set_ylabel("encoder")
    return finish(ax, title)


def plot_layers(
    comparison: LayerComparison,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    digits: int | None = 2,
    limits: Limits | None = None,
    cmap: str = "magma",
) -> Axes:
    """Heat map of a comparison of layers, from the first layers at the lower left; NaN is grey.

    Args:
        comparison: What `relreps.compare_layers` returned.
        ax: Where to draw.
        title: Title of the axes.
        digits: Decimals in the cells; None for no numbers, if there are many layers.
        limits: Scores at the ends of the colour scale; those of the comparison by default. Give the
            same ones to comparisons that are to be compared.
        cmap: Name of a matplotlib colour map.
    """
    check_type("comparison", comparison, LayerComparison)
    _check(comparison, limits)
    ax = new_axes(ax, "plot_layers")
    _heat_map(ax, comparison, digits, limits, cmap)
    ax.invert_yaxis()
    ax.tick_params(axis="x", rotation=90)
    ax.set_xlabel("layers of b")
    ax.set_ylabel("layers of a")
    return finish(ax, title)


def _check(table: ScoreTable, limits: Limits | None) -> None:
    scores, _, _ = table.table
    if not scores.numel():
        raise ValueError(
            f"`scores` must have at least one row and one column, got shape {tuple(scores.shape)}."
        )
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"`limits` must be the lower score and the higher one, got {limits}.")


def _heat_map(
    ax: Axes, table: ScoreTable, digits: int | None, limits: Limits | None, cmap: str
) -> None:
    """Colours of all scores, their names, and numbers of so many digits if any."""
    scores, rows, columns = table.table
    scores = scores.detach().cpu().double()
    known = scores[scores.isfinite()]
    low, high = limits or ((float(known.min()), float(known.max())) if len(known) else (0.0, 1.0))
    image = ax.imshow(scores.numpy(), vmin=low, vmax=high, cmap=cmap, aspect="equal")
    ax.set_facecolor("0.9")
    for i, row in enumerate(scores.tolist() if digits is not None else ()):
        for j, score in enumerate(row):
            missing = score != score
            red, green, blue, _ = (0.9, 0.9, 0.9, 1.0) if missing else image.cmap(image.norm(score))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = "n/a" if missing else f"{score:.{digits}f}"
            ax.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
