"""Measures against what they depend on, or against what they are to tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.rounding import rounding_of
from relreps.metrics.paired import varies
from relreps.plots.axes import check_type, finish, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of a curve.
_POINTS = 200


def plot_retrieval_curve(
    ranks: Mapping[str, Tensor],
    ax: Axes | None = None,
    *,
    max_k: int | None = None,
    title: str | None = None,
) -> Axes:
    """Share of the right answers among the k nearest keys, recall@k, over all k; chance is dashed.

    Args:
        ranks: For each name, what `relreps.metrics.retrieval_ranks` returned, over as many keys.
        ax: Where to draw.
        max_k: Last k, at most the number of keys, which it is by default.
        title: Title of the axes.
    """
    check_type("ranks", ranks, Mapping)
    for name, r in ranks.items():
        checks.check_floating("ranks", r)
        if r.dim() != 1 or not len(r):
            raise ValueError(
                f"`ranks` must hold one rank a query, shape (n,), got {tuple(r.shape)} in {name!r}."
            )
    if len({len(r) for r in ranks.values()}) != 1:
        sizes = {name: len(r) for name, r in ranks.items()}
        raise ValueError(
            f"`ranks` must name at least one set of ranks, all over as many keys, got {sizes}. "
            "Chance depends on the number of keys: draw those of another number elsewhere."
        )
    for r in ranks.values():
        checks.check_finite("ranks", r)
    n = len(next(iter(ranks.values())))
    last = n if max_k is None else max_k
    last = checks.check_size("max_k", last)
    if last > n:
        raise ValueError(f"`max_k` must be at most the number of keys, {n}, got {last}.")
    ax = new_axes(ax, "plot_retrieval_curve")
    top = math.log10(last)
    ks = torch.logspace(0, top, _POINTS, dtype=torch.float64, device="cpu")
    ks = ks.round().unique()
    for name, r in ranks.items():
        ordered = r.detach().cpu().double().sort().values
        ax.plot(ks.numpy(), (torch.searchsorted(ordered, ks, right=True) / n).numpy(), label=name)
    ax.plot(ks.numpy(), (ks / n).numpy(), color="0.5", ls="--", lw=0.8, label="chance")
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("k")
    ax.set_ylabel("recall@k")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(ax, title)


def plot_proxy(
    similarity: Tensor,
    accuracy: Tensor,
    labels: Tensor | None = None,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    point_size: float = 16.0,
    cmap: str = "tab10",
) -> Axes:
    """Similarity of models to a reference against their accuracy, with the correlation.

    The correlation is Pearson's, over all points drawn; it reads n/a where either side is constant.

    Args:
        similarity: One number a model, ``(n,)``, at least two.
        accuracy: The accuracy of each, ``(n,)``.
        labels: One integer a model, for the colour.
        ax: Where to draw.
        title: Title of the axes.
        point_size: Area of the points, in points squared.
        cmap: Name of a matplotlib colour map.
    """
    sides = {"similarity": similarity, "accuracy": accuracy}
    for name, side in sides.items():
        checks.check_floating(name, side)
        if side.dim() != 1 or len(side) < 2:
            raise ValueError(
                f"`{name}` must have one number for each of at least two models, shape (n,), "
                f"got {tuple(side.shape)}."
            )
        checks.check_finite(name, side)
    checks.check_paired(similarity, accuracy, ("similarity", "accuracy"))
    if labels is not None:
        checks.check_labels(labels, len(similarity))
    ax = new_axes(ax, "plot_proxy")
    points = torch.stack([side.detach().cpu().double() for side in sides.values()])
    colours: Any = None if labels is None else labels.cpu().numpy()
    map_name = None if labels is None else cmap
    across, up = points.numpy()
    ax.scatter(across, up, c=colours, s=point_size, cmap=map_name, lw=0)
    vary = all(bool(varies(side[:, None], rounding_of(side.dtype))) for side in sides.values())
    r = f"{float(torch.corrcoef(points)[0, 1]):.3f}" if vary else "n/a"
    ax.text(0.03, 0.97, f"r = {r}, n = {len(similarity)}", transform=ax.transAxes, va="top")
    ax.set_xlabel("similarity to the reference")
    ax.set_ylabel("accuracy")
    ax.spines[["top", "right"]].set_visible(False)
    return finish(ax, title)
