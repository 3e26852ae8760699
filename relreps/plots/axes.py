"""Where pictures are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relreps._core.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check_axes(name: str, ax: Any) -> None:
    """Refuse what cannot be drawn into, such as an array of axes."""
    if not hasattr(ax, "imshow"):
        raise TypeError(
            f"`{name}` must be matplotlib Axes, got {type(ax).__name__}. Of an array of them, give "
            "single ones."
        )


def check_type(name: str, value: Any, *wanted: type) -> None:
    """Refuse what is of no wanted type."""
    if not isinstance(value, wanted):
        names = " or ".join(kind.__name__ for kind in wanted)
        raise TypeError(f"`{name}` must be a {names}, got {type(value).__name__}.")


def new_axes(ax: Axes | None, purpose: str) -> Axes:
    """``ax``, or the axes of a new figure; ``purpose`` is who needs matplotlib."""
    if ax is not None:
        check_axes("ax", ax)
        return ax
    pyplot = require("matplotlib.pyplot", extra="plots", purpose=purpose)
    figure = pyplot.figure(layout="constrained")
    new: Axes = figure.add_subplot()
    return new


def finish(ax: Axes, title: str | None) -> Axes:
    """The same axes with their title, if there is one."""
    if title is not None:
        ax.set_title(title)
    return ax
