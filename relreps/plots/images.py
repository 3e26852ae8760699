"""Images in rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relreps._core import checks
from relreps.plots.axes import check_type, finish, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    check_type("rows", rows, Mapping)
    gap = checks.check_size("gap", gap, minimum=0)
    for images in rows.values():
        checks.check_floating("rows", images)
    shapes = {label: tuple(images.shape) for label, images in rows.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 3 for shape in shapes.values()):
        raise ValueError(
            f"`rows` must hold images of one shape (n, height, width), got {shapes}. "
            "Give the same number and size of images in every row."
        )
    n, height, width = next(iter(shapes.values()))
    if not n * height * width:
        raise ValueError(f"`rows` must hold at least one image with pixels, got {shapes}.")
    for label, images in rows.items():
        low, high = (float(bound) for bound in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"`rows` must hold values in [0, 1], got {low:.3g} to {high:.3g} in {label!r}. "
                "Bring them there, or clip them if that is what you want: `.clamp(0, 1)`."
            )
    ax = new_axes(ax, "plot_image_rows")
    size = len(rows) * (height + gap) - gap, n * (width + gap) - gap
    canvas = torch.ones(size, dtype=torch.float32, device="cpu")
    for i, images in enumerate(rows.values()):
        for j, picture in enumerate(images.detach().cpu()):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = picture
    ax.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([i * (height + gap) + (height - 1) / 2 for i in range(len(rows))], list(rows))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return finish(ax, title)
