"""Similarity of two spaces: each measure and the products or decompositions it rests on.

Peers take numbers of the same type, and PyTorch's own products and decompositions: those of NumPy
and SciPy, which may come with another BLAS, say so in their names.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from cases import Build, Call, Comparison, calls, normal
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from torch import Tensor

from relreps.metrics import (
    distance_correlation,
    kernel_cka,
    latent_similarity,
    linear_cka,
    mean_cca,
    minibatch_cka,
    procrustes_distance,
    rsa,
)


def pair(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Two spaces of one width."""
    return normal(n, d), normal(n, d + 1)[:, :d].contiguous()


def numpy_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA as one writes it in NumPy."""
    x, y = x - x.mean(0), y - y.mean(0)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / norms)


def cka(debiased: bool) -> Build:
    @calls("relreps", "the three products", "the formula in NumPy, biased")
    def build(quick: bool) -> tuple[Call, ...]:
        x, y = pair(5000 if quick else 50_000, 512)
        x_np, y_np = x.numpy(), y.numpy()
        return (
            lambda: linear_cka(x, y, debiased),
            lambda: (x.T @ y, x.T @ x, y.T @ y),
            lambda: numpy_cka(x_np, y_np),
        )

    return build


# It imports its plots.
CKATORCH = "ckatorch" if all(map(find_spec, ("ckatorch", "seaborn"))) else None


@calls("relreps", "the two products", *filter(None, [CKATORCH]))
def cka_of_rows(quick: bool) -> tuple[Call, ...]:
    x, y = pair(512, 4096)
    found = lambda: linear_cka(x, y, debiased=True), lambda: (x @ x.T, y @ y.T)
    if not CKATORCH:
        return found
    from ckatorch.core import cka_base

    return *found, lambda: cka_base(x, y, unbiased=True)


@calls("relreps", "two kernels of given width")
def rbf_cka(quick: bool) -> tuple[Call, ...]:
    x, y = pair(1000 if quick else 4000, 128)

    def kernels() -> None:
        for z in (x, y):
            squares = z.square().sum(1)
            (-(squares[:, None] + squares - 2 * z @ z.T) / 256).exp()

    return lambda: kernel_cka(x, y), kernels


@calls("relreps", "linear_cka of all rows")
def batched_cka(quick: bool) -> tuple[Call, ...]:
    x, y = pair(5000 if quick else 50_000, 512)
    return (
        lambda: minibatch_cka(x, y, 256),
        lambda: linear_cka(x, y, debiased=True),
    )


@calls("relreps", "the product and its SVD")
def procrustes(quick: bool) -> tuple[Call, ...]:
    x, y = (side.double() for side in pair(2000 if quick else 20_000, 256))
    return (
        lambda: procrustes_distance(x, y),
        lambda: torch.linalg.svd(x.T @ y),
    )


@calls("relreps", "three SVDs")
def cca(quick: bool) -> tuple[Call, ...]:
    x, y = (side.double() for side in pair(2000 if quick else 20_000, 128))

    def decompositions() -> None:
        u, v = (torch.linalg.svd(side, full_matrices=False).U for side in (x, y))
        torch.linalg.svdvals(u.T @ v)

    return lambda: mean_cca(x, y), decompositions


@calls("relreps", "SciPy pdist and spearmanr")
def distances(quick: bool) -> tuple[Call, ...]:
    x, y = (side.double() for side in pair(500 if quick else 2000, 64))
    x_np, y_np = x.numpy(), y.numpy()
    return (
        lambda: rsa(x, y),
        lambda: spearmanr(pdist(x_np), pdist(y_np)),
    )


@calls("relreps", "SciPy pdist, twice")
def distance_covariance(quick: bool) -> tuple[Call, ...]:
    x, y = (side.double() for side in pair(500 if quick else 2000, 64))
    x_np, y_np = x.numpy(), y.numpy()
    return (
        lambda: distance_correlation(x, y),
        lambda: (pdist(x_np), pdist(y_np)),
    )


@calls("relreps", "the two products")
def codes(quick: bool) -> tuple[Call, ...]:
    x, y = pair(2000 if quick else 20_000, 256)
    anchors = normal(300, 3).argsort(0)[:, 0]
    return (
        lambda: latent_similarity(x, y, anchors),
        lambda: (x @ x[anchors].T, y @ y[anchors].T),
    )


SIMILARITY = [
    Comparison("linear_cka, 50 000 x 512", cka(False), 1.5, "linear_cka, 5000 x 512"),
    Comparison("linear_cka, debiased", cka(True), 1.5, "linear_cka, debiased, 5000 x 512"),
    Comparison("linear_cka, debiased, 512 x 4096", cka_of_rows),
    Comparison("kernel_cka, 4000 x 128", rbf_cka, small="kernel_cka, 1000 x 128"),
    Comparison("minibatch_cka, 50 000 x 512", batched_cka, small="minibatch_cka, 5000 x 512"),
    Comparison("procrustes_distance, 20 000 x 256", procrustes, small="procrustes, 2000 x 256"),
    Comparison("mean_cca, 20 000 x 128", cca, small="mean_cca, 2000 x 128"),
    Comparison("rsa, 2000 x 64", distances, small="rsa, 500 x 64"),
    Comparison("distance_correlation, 2000 x 64", distance_covariance, small="the same, 500 x 64"),
    Comparison("latent_similarity, 20 000 x 256", codes, small="latent_similarity, 2000 x 256"),
]
