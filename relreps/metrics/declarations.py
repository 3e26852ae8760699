"""What each measure promises: what leaves it unchanged, whether it is a loss, its range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from relreps._core.invariance import TRANSFORMATIONS, closure
from relreps.metrics.cca import mean_cca, pwcca, svcca
from relreps.metrics.cka import kernel_cka, linear_cka, minibatch_cka
from relreps.metrics.dissimilarity import distance_correlation, rsa
from relreps.metrics.divergence import rtd_lite
from relreps.metrics.neighbors import cknna, mutual_knn, neighborhood_jaccard
from relreps.metrics.proxy import latent_similarity
from relreps.metrics.regression import regression_r2
from relreps.metrics.retrieval import jaccard_at_k, mean_reciprocal_rank, recall_at_k
from relreps.metrics.shape import procrustes_distance, shape_distance


class Measure(NamedTuple):
    """One measure, and what holds for it.

    Names of transformations are those of the invariance table.

    Attributes:
        function: ``(x, y) -> scalar``; what else it takes is named in ``arguments``.
        x: Transformations of ``x`` alone that change nothing.
        y: Transformations of ``y`` alone that change nothing.
        alike: Transformations that change nothing if both sides undergo the same one.
        low: No value is less.
        high: No value is larger.
        equal: The value of equal spaces.
        higher_is_better: Whether it grows as spaces become alike.
        differentiable: Whether gradients flow to both sides.
        symmetric: Whether the sides may be swapped.
        arguments: Names of what has to be given next to ``x`` and ``y``.
    """

    function: Callable[..., Tensor]
    x: frozenset[str]
    y: frozenset[str]
    alike: frozenset[str]
    low: float = 0.0
    high: float = 1.0
    equal: float = 1.0
    higher_is_better: bool = True
    differentiable: bool = True
    symmetric: bool = True
    arguments: tuple[str, ...] = ()


def _unchanged_by(
    *each: str, x: Iterable[str] = (), y: Iterable[str] = (), alike: Iterable[str] = ()
) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """What may happen to either side, and besides to ``x``, to ``y``, or to both alike."""
    return closure({*each, *x}), closure({*each, *y}), closure({*each, *alike})


_SHAPE = _unchanged_by("rotation", "translation", "isotropic_scale")
_COSINE = _unchanged_by("rotation", "sample_scale")
_AFFINE = _unchanged_by("affine")
_RETRIEVAL = _unchanged_by("sample_scale", alike=("rotation",))

#: Every function of this package that gives one number for two spaces, at its defaults or as noted.
MEASURES: dict[str, Measure] = {
    "linear_cka": Measure(linear_cka, *_SHAPE),
    "linear_cka, debiased": Measure(partial(linear_cka, debiased=True), *_SHAPE, low=-1),
    "kernel_cka": Measure(kernel_cka, *_SHAPE),
    "minibatch_cka": Measure(minibatch_cka, *_SHAPE, low=-1),
    "mean_cca": Measure(mean_cca, *_AFFINE, differentiable=False),
    "svcca": Measure(svcca, *_SHAPE, differentiable=False),
    "pwcca": Measure(
        pwcca,
        *_unchanged_by("permutation", "translation", "isotropic_scale", y=("affine",)),
        differentiable=False,
        symmetric=False,
    ),
    "regression_r2": Measure(
        regression_r2,
        *_unchanged_by("rotation", "translation", "isotropic_scale", x=("affine",)),
        symmetric=False,
    ),
    "procrustes_distance": Measure(
        procrustes_distance, *_SHAPE, high=2, equal=0, higher_is_better=False
    ),
    "shape_distance": Measure(
        shape_distance, *_SHAPE, high=math.pi / 2, equal=0, higher_is_better=False
    ),
    "shape_distance, alpha=0": Measure(
        partial(shape_distance, alpha=0),
        *_AFFINE,
        high=math.pi / 2,
        equal=0,
        higher_is_better=False,
    ),
    "rsa": Measure(rsa, *_SHAPE, low=-1, differentiable=False),
    "rsa, Pearson": Measure(partial(rsa, compare="pearson"), *_SHAPE, low=-1),
    "rsa, cosine distance": Measure(
        partial(rsa, rdm="cosine"), *_COSINE, low=-1, differentiable=False
    ),
    "rsa, correlation distance": Measure(
        partial(rsa, rdm="correlation"),
        *_unchanged_by("permutation", "sample_scale"),
        low=-1,
        differentiable=False,
    ),
    "distance_correlation": Measure(distance_correlation, *_SHAPE, low=-1),
    "rtd_lite": Measure(rtd_lite, *_SHAPE, high=math.inf, equal=0, higher_is_better=False),
    "latent_similarity": Measure(latent_similarity, *_COSINE, low=-1, arguments=("anchors",)),
    "latent_similarity, centered": Measure(
        partial(latent_similarity, centered=True), *_COSINE, low=-1, arguments=("anchors",)
    ),
    "mutual_knn": Measure(mutual_knn, *_COSINE, differentiable=False),
    "neighborhood_jaccard": Measure(neighborhood_jaccard, *_COSINE, differentiable=False),
    "cknna": Measure(cknna, *_COSINE, low=-math.inf, high=math.inf, differentiable=False),
    "mean_reciprocal_rank": Measure(
        mean_reciprocal_rank, *_RETRIEVAL, differentiable=False, symmetric=False
    ),
    "jaccard_at_k": Measure(jaccard_at_k, *_RETRIEVAL, differentiable=False, symmetric=False),
    "recall_at_k": Measure(recall_at_k, *_RETRIEVAL, differentiable=False, symmetric=False),
}


def measures_markdown() -> str:
    """The declarations as two Markdown tables: what changes nothing, and the rest."""
    names = [name.replace("_", " ") for name in TRANSFORMATIONS]
    lines = _header("measure", names, ":-:")
    for name, measure in MEASURES.items():
        lines.append(_row(f"`{name}`", *(_cell(measure, change) for change in TRANSFORMATIONS)))
    lines += ["", *_header("measure", ["range", "equal spaces", "as a loss", "symmetric"], "---")]
    for name, measure in MEASURES.items():
        answers = (measure.differentiable, measure.symmetric)
        lines.append(
            _row(
                f"`{name}`",
                f"{_number(measure.low)} to {_number(measure.high)}",
                _number(measure.equal),
                *("yes" if answer else "·" for answer in answers),
            )
        )
    return "\n".join(lines)


def _cell(measure: Measure, change: str) -> str:
    cells = {"x": change in measure.x, "y": change in measure.y, "alike": change in measure.alike}
    if cells["x"] and cells["y"]:
        return "yes"
    return next((name for name, holds in cells.items() if holds), "·")


def _number(value: float) -> str:
    return {math.pi / 2: "π/2", math.inf: "∞", -math.inf: "-∞"}.get(value, f"{value:g}")


def _header(first: str, others: list[str], alignment: str) -> list[str]:
    return [_row(first, *others), "| --- " + f"| {alignment} " * len(others) + "|"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
