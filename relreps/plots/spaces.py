"""Spaces in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.optional import require
from relreps.plots.axes import check_axes, check_type, finish, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Basis = Literal["each", "first", "joint"]


def plot_spaces(
    spaces: Mapping[str, Tensor],
    labels: Tensor | None = None,
    axes: Sequence[Axes] | None = None,
    *,
    basis: Basis = "each",
    point_size: float = 6.0,
    cmap: str = "tab10",
) -> list[Axes]:
    """Spaces side by side, each in the plane of its two principal components.

    Args:
        spaces: Rows ``(N, D)`` of each space by name, at least two rows.
        labels: One integer a row, for the colour.
        axes: Where to draw, one for each space.
        basis: ``"each"`` finds the plane of each space by itself; ``"first"`` draws all in the
            plane of the first one, ``"joint"`` in that of all rows together, which shows whether
            they share coordinates (equal widths).
        point_size: Area of the points, in points squared.
        cmap: Name of a matplotlib colour map.
    """
    checks.check_choice("basis", basis, get_args(Basis))
    check_type("spaces", spaces, Mapping)
    if not spaces:
        raise ValueError("`spaces` must name at least one space, got none.")
    rows = {name: _rows(x, labels) for name, x in spaces.items()}
    planes = _planes(rows, basis)
    if axes is None:
        pyplot = require("matplotlib.pyplot", extra="plots", purpose="plot_spaces")
        _, grid = pyplot.subplots(1, len(spaces), figsize=(4 * len(spaces), 4), squeeze=False)
        axes = list(grid[0])
    if len(axes) != len(spaces):
        raise ValueError(
            f"`axes` must be one for each of the {len(spaces)} spaces, got {len(axes)}."
        )
    for ax in axes:
        check_axes("axes", ax)
    colours: Any = None if labels is None else labels.cpu().numpy()
    map_name = None if labels is None else cmap
    for ax, (name, x), (mean, directions) in zip(axes, rows.items(), planes, strict=True):
        across, up = ((x - mean) @ directions).mT.numpy()
        ax.scatter(across, up, c=colours, s=point_size, cmap=map_name, lw=0)
        _without_ticks(finish(ax, name))
    return list(axes)


def plot_anchors(
    x: Tensor,
    anchors: Tensor,
    labels: Tensor | None = None,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    point_size: float = 6.0,
    cmap: str = "tab10",
) -> Axes:
    """Anchors among the samples they are to describe, in the plane of the samples.

    The plane is that of the two principal components of the samples: what the anchors cover, and
    how far from the samples they lie, as far as two dimensions show it. Give unit rows to see what
    a cosine sees.

    Args:
        x: Samples ``(N, D)``, at least two.
        anchors: Anchors ``(A, D)``: rows of ``x``, or of anything else in the same space.
        labels: One integer a sample, for the colour.
        ax: Where to draw.
        title: Title of the axes.
        point_size: Area of the samples, in points squared; anchors are larger.
        cmap: Name of a matplotlib colour map.
    """
    checks.check_rows("x", x, minimum=2)
    checks.check_finite("x", x)
    checks.check_rows("anchors", anchors, x.shape[1])
    checks.check_finite("anchors", anchors)
    if labels is not None:
        checks.check_labels(labels, x.shape[0])
    ax = new_axes(ax, "plot_anchors")
    rows = x.detach().cpu().double()
    mean, directions = _principal_plane(rows)
    colours: Any = "0.7" if labels is None else labels.cpu().numpy()
    map_name = None if labels is None else cmap
    across, up = ((rows - mean) @ directions).mT.numpy()
    ax.scatter(across, up, c=colours, s=point_size, cmap=map_name, lw=0, alpha=0.6)
    across, up = ((anchors.detach().cpu().double() - mean) @ directions).mT.numpy()
    size = 4 * point_size
    ax.scatter(across, up, c="black", s=size, marker="x", lw=0.8, label="anchors")
    _without_ticks(ax)
    return finish(ax, title)


def _without_ticks(ax: Axes) -> None:
    """Coordinates in a plane mean nothing by themselves, only distances do."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")


def _rows(x: Tensor, labels: Tensor | None) -> Tensor:
    """Rows of one space, checked, in float64 on the CPU."""
    checks.check_rows("spaces", x, minimum=2)
    checks.check_finite("spaces", x)
    if labels is not None:
        checks.check_labels(labels, x.shape[0])
    return x.detach().cpu().double()


def _planes(spaces: Mapping[str, Tensor], basis: Basis) -> list[tuple[Tensor, Tensor]]:
    """The plane in which each space is drawn."""
    if basis == "each":
        return [_principal_plane(x) for x in spaces.values()]
    first = next(iter(spaces.values()))
    for name, x in spaces.items():
        if x.shape[1] != first.shape[1]:
            raise ValueError(
                f"`basis={basis!r}` needs spaces of one width, got {first.shape[1]} and "
                f"{x.shape[1]} (in {name!r}). Use basis='each'."
            )
    plane = _principal_plane(first if basis == "first" else torch.cat(list(spaces.values())))
    return [plane] * len(spaces)


def _principal_plane(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and two principal directions (D, 2); the sign makes the largest entry positive."""
    mean = rows.mean(0)
    directions = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:2]
    directions = torch.nn.functional.pad(directions, (0, 0, 0, 2 - directions.shape[0]))
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return mean, (directions * torch.where(largest < 0, -1, 1)).mT
