"""Samplers against scikit-learn, fpsample and the bare products that they rest on."""

from __future__ import annotations

import torch
from cases import Build, Call, Comparison, calls, installed, normal
from sklearn.cluster import KMeans

from relreps import FarthestAnchors, LeverageAnchors
from relreps.anchors import BestAlignedAnchors, lloyd

WIDTH = 128
ITERATIONS, TOLERANCE = 100, 1e-4  # scikit-learn's own tolerance


def blobs(n: int) -> torch.Tensor:
    """Rows about 300 centres, so that k-means has something to find."""
    centres = 1.5 * normal(300, WIDTH)
    members = torch.arange(n) * 7919 % 300
    return normal(n, WIDTH) + centres[members]


@calls("relreps", "sklearn KMeans, Lloyd")
def k_means(quick: bool) -> tuple[Call, ...]:
    """From the same start, to the same tolerance; both stop after the same iterations."""
    x = blobs(20_000)
    x -= x.mean(0)
    start = lloyd.plus_plus(x, 100, torch.Generator().manual_seed(0))
    theirs = KMeans(
        100, init=start.numpy(), n_init=1, max_iter=ITERATIONS, tol=TOLERANCE, algorithm="lloyd"
    )
    rows = x.numpy()
    return (
        lambda: lloyd.iterated(x, start, ITERATIONS, TOLERANCE),
        lambda: theirs.fit(rows),
    )


@calls("relreps", "sklearn KMeans, Lloyd")
def k_means_noise(quick: bool) -> tuple[Call, ...]:
    """The same without structure: many iterations."""
    x = normal(20_000, WIDTH)
    start = x[:100].clone()
    theirs = KMeans(
        100, init=start.numpy(), n_init=1, max_iter=ITERATIONS, tol=TOLERANCE, algorithm="lloyd"
    )
    rows = x.numpy()
    return (
        lambda: lloyd.iterated(x, start, ITERATIONS, TOLERANCE),
        lambda: theirs.fit(rows),
    )


def farthest(normalize: bool) -> Build:
    fpsample = () if normalize else installed("fpsample", "fpsample")

    @calls("relreps", "300 products x @ v", *fpsample)
    def build(quick: bool) -> tuple[Call, ...]:
        x = blobs(20_000)
        sampler = FarthestAnchors(300, normalize=normalize, generator=torch.Generator())

        def products() -> None:
            for i in range(300):
                x @ x[i]

        if not fpsample:
            return lambda: sampler(x), products
        from fpsample import fps_sampling

        rows = x.numpy()
        return lambda: sampler(x), products, lambda: fps_sampling(rows, 300, start_idx=0)

    return build


@calls("relreps", "x.T @ x in float64")
def leverage(quick: bool) -> tuple[Call, ...]:
    x = blobs(20_000)
    sampler, wide = LeverageAnchors(300, generator=torch.Generator()), x.double()
    return lambda: sampler(x), lambda: wide.T @ wide


@calls("relreps", "two torch.cdist")
def best_aligned(quick: bool) -> tuple[Call, ...]:
    n = 4000
    x, y = normal(n, WIDTH), normal(n, WIDTH + 1)
    sampler = BestAlignedAnchors(300, y)
    return (
        lambda: sampler(x),
        lambda: (torch.cdist(x, x), torch.cdist(y, y)),
    )


SAMPLERS = [
    Comparison("k-means, 100 of 20 000 x 128, clustered", k_means, 1.5),
    Comparison("k-means, 100 of 20 000 x 128, noise", k_means_noise, 1.5),
    Comparison("farthest, 300 of 20 000 x 128, directions", farthest(True), 1.5),
    Comparison("farthest, 300 of 20 000 x 128, positions", farthest(False), 1.5),
    Comparison("leverage, 300 of 20 000 x 128", leverage),
    Comparison("best aligned, 300 of 4000 x 128", best_aligned),
]
