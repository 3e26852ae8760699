"""Similarity of two spaces: each measure and the products or decompositions it rests on.

Peers take numbers of the same type, and PyTorch's own products and decompositions: those of NumPy
and SciPy, which may come with another BLAS, say so in their names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from cases import Call, Comparison, normal
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


def cka(debiased: bool) -> Callable[[bool], dict[str, Call]]:
    def build(quick: bool) -> dict[str, Call]:
        x, y = pair(5000 if quick else 50_000, 512)
        x_np, y_np = x.numpy(), y.numpy()
        return {
            "relreps": lambda: linear_cka(x, y, debiased),
            "the three products": lambda: (x.T @ y, x.T @ x, y.T @ y),
            "the formula in NumPy, biased": lambda: numpy_cka(x_np, y_np),
        }

    return build


def cka_of_rows(quick: bool) -> dict[str, Call]:
    x, y = pair(512, 4096)
    calls: dict[str, Call] = {
        "relreps": lambda: linear_cka(x, y, debiased=True),
        "the two products": lambda: (x @ x.T, y @ y.T),
    }
    if all(map(importlib.util.find_spec, ("ckatorch", "seaborn"))):  # it imports its plots
        from ckatorch.core import cka_base

        calls["ckatorch"] = lambda: cka_base(x, y, unbiased=True)
    return calls


def rbf_cka(quick: bool) -> dict[str, Call]:
    x, y = pair(1000 if quick else 4000, 128)
    return {
        "relreps": lambda: kernel_cka(x, y),
        "two kernels of given width": lambda: [
            (-(z.square().sum(1)[:, None] + z.square().sum(1) - 2 * z @ z.T) / 256).exp()
            for z in (x, y)
        ],
    }


def batched_cka(quick: bool) -> dict[str, Call]:
    x, y = pair(5000 if quick else 50_000, 512)
    return {
        "relreps": lambda: minibatch_cka(x, y, 256),
        "linear_cka of all rows": lambda: linear_cka(x, y, debiased=True),
    }


def procrustes(quick: bool) -> dict[str, Call]:
    x, y = (side.double() for side in pair(2000 if quick else 20_000, 256))
    return {
        "relreps": lambda: procrustes_distance(x, y),
        "the product and its SVD": lambda: torch.linalg.svd(x.T @ y),
    }


def cca(quick: bool) -> dict[str, Call]:
    x, y = (side.double() for side in pair(2000 if quick else 20_000, 128))

    def decompositions() -> None:
        u, v = (torch.linalg.svd(side, full_matrices=False).U for side in (x, y))
        torch.linalg.svdvals(u.T @ v)

    return {"relreps": lambda: mean_cca(x, y), "three SVDs": decompositions}


def distances(quick: bool) -> dict[str, Call]:
    x, y = (side.double() for side in pair(500 if quick else 2000, 64))
    x_np, y_np = x.numpy(), y.numpy()
    return {
        "relreps": lambda: rsa(x, y),
        "SciPy pdist and spearmanr": lambda: spearmanr(pdist(x_np), pdist(y_np)),
    }


def distance_covariance(quick: bool) -> dict[str, Call]:
    x, y = (side.double() for side in pair(500 if quick else 2000, 64))
    x_np, y_np = x.numpy(), y.numpy()
    return {
        "relreps": lambda: distance_correlation(x, y),
        "SciPy pdist, twice": lambda: (pdist(x_np), pdist(y_np)),
    }


def codes(quick: bool) -> dict[str, Call]:
    x, y = pair(2000 if quick else 20_000, 256)
    anchors = normal(300, 3).argsort(0)[:, 0]
    return {
        "relreps": lambda: latent_similarity(x, y, anchors),
        "the two products": lambda: (x @ x[anchors].T, y @ y[anchors].T),
    }


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
