"""Where pictures are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relreps._optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def new_axes(ax: Axes | None, purpose: str) -> Axes:
    """``ax``, or the axes of a new figure; ``purpose`` is who needs matplotlib."""
    if ax is not None:
        return ax
    pyplot = require("matplotlib.pyplot", extra="plots", purpose=purpose)
    figure = pyplot.figure(layout="constrained")
    new: Axes = figure.add_subplot()
    return new
