"""Pictures people look at first. Needs matplotlib: ``pip install 'relreps[plots]'``.

Every function draws into the axes it is given (or new ones), returns them, and saves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from relreps import _checks
from relreps._optional import require
from relreps.stitching import StitchingMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Basis = Literal["each", "first"]


def plot_stitching_matrix(
    matrix: StitchingMatrix,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    digits: int = 2,
    limits: tuple[float, float] | None = None,
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
    ax = _axes(ax, "plot_stitching_matrix")
    scores = matrix.scores.detach().cpu().double()
    known = scores[scores.isfinite()]
    low, high = limits or ((float(known.min()), float(known.max())) if len(known) else (0.0, 1.0))
    image = ax.imshow(scores.numpy(), vmin=low, vmax=high, cmap=cmap, aspect="equal")
    ax.set_facecolor("0.9")
    for i, row in enumerate(scores.tolist()):
        for j, score in enumerate(row):
            missing = score != score
            red, green, blue, _ = (0.9, 0.9, 0.9, 1.0) if missing else image.cmap(image.norm(score))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = "n/a" if missing else f"{score:.{digits}f}"
            ax.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    ax.set_xticks(range(len(matrix.decoders)), matrix.decoders)
    ax.set_yticks(range(len(matrix.encoders)), matrix.encoders)
    ax.set_xlabel("decoder")
    ax.set_ylabel("encoder")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title is not None:
        ax.set_title(title)
    return ax


def plot_image_rows(
    rows: Mapping[str, Tensor], ax: Axes | None = None, *, title: str | None = None, gap: int = 2
) -> Axes:
    """Rows of images under each other, each with its label: inputs, reconstructions, and so on.

    Args:
        rows: For each label, images ``(n, height, width)`` with values in [0, 1]; the same n.
        ax: Where to draw.
        title: Title of the axes.
        gap: White pixels between images.
    """
    ax = _axes(ax, "plot_image_rows")
    _checks.check_size("gap", gap, minimum=0)
    for images in rows.values():
        _checks.check_floating("rows", images)
    shapes = {label: tuple(images.shape) for label, images in rows.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 3 for shape in shapes.values()):
        raise ValueError(
            f"`rows` must hold images of one shape (n, height, width), got {shapes}. "
            "Give the same number and size of images in every row."
        )
    n, height, width = next(iter(shapes.values()))
    canvas = torch.ones(len(rows) * (height + gap) - gap, n * (width + gap) - gap)
    for i, images in enumerate(rows.values()):
        for j, picture in enumerate(images.detach().cpu().float()):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = picture.clamp(0, 1)
    ax.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([i * (height + gap) + (height - 1) / 2 for i in range(len(rows))], list(rows))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title is not None:
        ax.set_title(title)
    return ax


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
            plane of the first one, which shows whether they share coordinates (equal widths).
        point_size: Area of the points, in points squared.
        cmap: Name of a matplotlib colour map.
    """
    _checks.check_choice("basis", basis, get_args(Basis))
    if not spaces:
        raise ValueError("`spaces` must name at least one space, got none.")
    if axes is None:
        pyplot = require("matplotlib.pyplot", extra="plots", purpose="plot_spaces")
        _, grid = pyplot.subplots(1, len(spaces), figsize=(4 * len(spaces), 4), squeeze=False)
        axes = list(grid[0])
    if len(axes) != len(spaces):
        raise ValueError(
            f"`axes` must be one for each of the {len(spaces)} spaces, got {len(axes)}."
        )
    plane: tuple[Tensor, Tensor] | None = None
    for ax, (name, x) in zip(axes, spaces.items(), strict=True):
        _checks.check_rows("spaces", x, minimum=2)
        _checks.check_finite("spaces", x)
        if labels is not None:
            _checks.check_labels(labels, x.shape[0])
        rows = x.detach().cpu().double()
        if plane is None or basis == "each":
            plane = _principal_plane(rows)
        if plane[0].shape[0] != rows.shape[1]:
            raise ValueError(
                f"`basis='first'` needs spaces of one width, got {plane[0].shape[0]} and "
                f"{rows.shape[1]} (in {name!r}). Use basis='each'."
            )
        points = (rows - plane[0]) @ plane[1]
        colours: Any = None if labels is None else labels.cpu().numpy()
        map_name = None if labels is None else cmap
        across, up = points.mT.numpy()
        ax.scatter(across, up, c=colours, s=point_size, cmap=map_name, lw=0)
        ax.set_title(name)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_aspect("equal", adjustable="datalim")
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
    _checks.check_rows("x", x, minimum=2)
    _checks.check_finite("x", x)
    _checks.check_rows("anchors", anchors, x.shape[1])
    _checks.check_finite("anchors", anchors)
    if labels is not None:
        _checks.check_labels(labels, x.shape[0])
    ax = _axes(ax, "plot_anchors")
    rows = x.detach().cpu().double()
    mean, directions = _principal_plane(rows)
    colours: Any = "0.7" if labels is None else labels.cpu().numpy()
    map_name = None if labels is None else cmap
    across, up = ((rows - mean) @ directions).mT.numpy()
    ax.scatter(across, up, c=colours, s=point_size, cmap=map_name, lw=0, alpha=0.6)
    across, up = ((anchors.detach().cpu().double() - mean) @ directions).mT.numpy()
    size = 4 * point_size
    ax.scatter(across, up, c="black", s=size, marker="x", lw=0.8, label="anchors")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")
    if title is not None:
        ax.set_title(title)
    return ax


def _principal_plane(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and two principal directions (D, 2); the sign makes the largest entry positive."""
    mean = rows.mean(0)
    directions = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:2]
    directions = torch.nn.functional.pad(directions, (0, 0, 0, 2 - directions.shape[0]))
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return mean, (directions * torch.where(largest < 0, -1, 1)).mT


def _axes(ax: Axes | None, purpose: str) -> Axes:
    if ax is not None:
        return ax
    pyplot = require("matplotlib.pyplot", extra="plots", purpose=purpose)
    figure = pyplot.figure(layout="constrained")
    new: Axes = figure.add_subplot()
    return new
