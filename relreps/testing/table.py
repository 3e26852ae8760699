"""The invariance table: every similarity after every normaliser, declared and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from relreps._core.draws import normal
from relreps._core.invariance import TRANSFORMATIONS
from relreps.normalization import (
    Center,
    Normalizer,
    NormalizerChain,
    StandardScale,
    UnitNorm,
    Whiten,
)
from relreps.projection import RelativeProjection
from relreps.similarity import SIMILARITIES, Basis, Parseval, Rescaled, SimilarityLike
from relreps.testing.intertwiners import NORMALIZERS as SINGLE
from relreps.testing.intertwiners import symmetry_table
from relreps.testing.invariance import deviation

#: The similarities of the table.
ROWS: dict[str, SimilarityLike] = {
    **{name: name for name in SIMILARITIES},
    "basis, ridge": Basis(ridge=0.1),
    "basis, rcond": Basis(rcond=0.9),
    "Parseval": Parseval(),
    "Rescaled euclidean": Rescaled("euclidean"),
    "Rescaled l1": Rescaled("l1"),
    "Rescaled linf": Rescaled("linf"),
}

#: The normalisers of the table, each for a number of features.
NORMALIZERS: dict[str, Callable[[int], Normalizer | None]] = {
    **SINGLE,
    "Whiten, shrunk": lambda features: Whiten(features, shrinkage=0.3),
    "Center, UnitNorm": lambda features: NormalizerChain(Center(features), UnitNorm()),
    "StandardScale, UnitNorm": lambda features: NormalizerChain(
        StandardScale(features), UnitNorm()
    ),
    "UnitNorm, Whiten": lambda features: NormalizerChain(UnitNorm(), Whiten(features)),
}


class Entry(NamedTuple):
    """One cell: what a module declares about a transformation, and what was measured.

    Attributes:
        similarity: Row of the table.
        normalizer: Which part of the table.
        transformation: Column of the table.
        declared: Whether the projection says that it is invariant.
        deviation: Largest relative change of the code over the draws, in float64.
    """

    similarity: str
    normalizer: str
    transformation: str
    declared: bool
    deviation: float


def measure(module: nn.Module, anchors: int, features: int, draws: int = 2) -> dict[str, float]:
    """Largest relative change of a module's code under each transformation, in float64."""
    generator = torch.Generator().manual_seed(0)
    shift = normal((features,), generator)

    def space(rows: int) -> torch.Tensor:
        # Off the origin and of unequal spread, so that no invariance holds by accident.
        z = normal((rows, features), generator)
        return z * torch.linspace(0.5, 2, features, device=z.device) + shift

    x, a = space(20), space(anchors)
    return {
        name: deviation(module, name, x, a, draws=draws, generator=generator)
        for name in TRANSFORMATIONS
    }


def invariance_table(features: int = 5, anchors: int = 15) -> Iterator[Entry]:
    """Every similarity after every normaliser under every transformation.

    Args:
        features: Width of the space.
        anchors: Number of anchors; more than ``features``, or `Whiten` cannot be fitted.
    """
    for normalizer, make in NORMALIZERS.items():
        for similarity, rule in ROWS.items():
            module = RelativeProjection(features, anchors, rule, pre=make(features))
            for name, change in measure(module, anchors, features).items():
                yield Entry(similarity, normalizer, name, name in module.invariant_to, change)


def invariance_markdown() -> str:
    """The invariance table as Markdown, one part for each normaliser."""
    entries = list(invariance_table())
    lines: list[str] = []
    for normalizer in NORMALIZERS:
        heading = "no normaliser" if normalizer == "none" else normalizer
        lines += [f"**{heading}**", ""]
        lines += _header("similarity", *(name.replace("_", " ") for name in TRANSFORMATIONS))
        for similarity in ROWS:
            cells = [e for e in entries if (e.similarity, e.normalizer) == (similarity, normalizer)]
            lines += [_row(similarity, *("yes" if cell.declared else "·" for cell in cells))]
        lines += [""]
    holds = max(e.deviation for e in entries if e.declared)
    fails = min(e.deviation for e in entries if not e.declared)
    return "\n".join(
        [
            *lines,
            f"Of {len(entries)} cells, each `yes` holds to {holds:.0e} of the largest entry in "
            f"float64, and each dot fails by at least {fails:.0e}.",
        ]
    )


def symmetry_markdown() -> str:
    """The table of activation symmetries as Markdown."""
    table = symmetry_table()
    lines = _header("activation", *next(iter(table.values())))
    for activation, changes in table.items():
        cells = ("yes" if change < 1e-9 else f"{change:.2f}" for change in changes.values())
        lines += [_row(activation, *cells)]
    return "\n".join(lines)


def _header(first: str, *others: str) -> list[str]:
    return [_row(first, *others), "| --- " + "| :-: " * len(others) + "|"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
