"""Samplers against scikit-learn, fpsample and the bare products that they rest on.

    python -m pytest benchmarks/bench_anchors.py      with the other benchmarks: 20 000 rows
    python benchmarks/bench_anchors.py                interleaved ratios, then a million rows

A million rows: seconds, and peak memory beyond the data, each in a fresh process. A copy of the
data is 488 MiB, a table of rows by 100 anchors would be another 381 MiB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import memory
import pytest
import torch
from cases import Call, Comparison, measure, normal, parameters, prepare
from ratios import compare, machine, row
from sklearn.cluster import KMeans

from relreps import FarthestAnchors, KMeansAnchors, LeverageAnchors, UniformAnchors
from relreps.anchors import BestAlignedAnchors, lloyd

WIDTH = 128
ITERATIONS, TOLERANCE = 100, 1e-4  # scikit-learn's own tolerance


def blobs(n: int) -> torch.Tensor:
    """Rows about 300 centres, so that k-means has something to find."""
    centres = 1.5 * normal(300, WIDTH)
    members = torch.arange(n) * 7919 % 300
    return normal(n, WIDTH) + centres[members]


def k_means(quick: bool) -> dict[str, Call]:
    """From the same start, to the same tolerance; both stop after the same iterations."""
    x = blobs(20_000)
    x -= x.mean(0)
    start = lloyd.plus_plus(x, 100, torch.Generator().manual_seed(0))
    theirs = KMeans(
        100, init=start.numpy(), n_init=1, max_iter=ITERATIONS, tol=TOLERANCE, algorithm="lloyd"
    )
    rows = x.numpy()
    return {
        "relreps": lambda: lloyd.iterated(x, start, ITERATIONS, TOLERANCE),
        "sklearn KMeans, Lloyd": lambda: theirs.fit(rows),
    }


def k_means_noise(quick: bool) -> dict[str, Call]:
    """The same without structure: many iterations."""
    x = normal(20_000, WIDTH)
    start = x[:100].clone()
    theirs = KMeans(
        100, init=start.numpy(), n_init=1, max_iter=ITERATIONS, tol=TOLERANCE, algorithm="lloyd"
    )
    rows = x.numpy()
    return {
        "relreps": lambda: lloyd.iterated(x, start, ITERATIONS, TOLERANCE),
        "sklearn KMeans, Lloyd": lambda: theirs.fit(rows),
    }


def farthest(normalize: bool) -> Callable[[bool], dict[str, Call]]:
    def build(quick: bool) -> dict[str, Call]:
        x = blobs(20_000)
        sampler = FarthestAnchors(300, normalize=normalize, generator=torch.Generator())

        def products() -> None:
            for i in range(300):
                x @ x[i]

        calls: dict[str, Call] = {"relreps": lambda: sampler(x), "300 products x @ v": products}
        if not normalize and find_spec("fpsample"):
            import fpsample

            rows = x.numpy()
            calls["fpsample"] = lambda: fpsample.fps_sampling(rows, 300, start_idx=0)
        return calls

    return build


def leverage(quick: bool) -> dict[str, Call]:
    x = blobs(20_000)
    sampler, wide = LeverageAnchors(300, generator=torch.Generator()), x.double()
    return {"relreps": lambda: sampler(x), "x.T @ x in float64": lambda: wide.T @ wide}


def best_aligned(quick: bool) -> dict[str, Call]:
    n = 4000
    x, y = normal(n, WIDTH), normal(n, WIDTH + 1)
    sampler = BestAlignedAnchors(300, y)
    return {
        "relreps": lambda: sampler(x),
        "two torch.cdist": lambda: (torch.cdist(x, x), torch.cdist(y, y)),
    }


COMPARISONS = [
    Comparison("k-means, 100 of 20 000 x 128, clustered", k_means, 1.5),
    Comparison("k-means, 100 of 20 000 x 128, noise", k_means_noise, 1.5),
    Comparison("farthest, 300 of 20 000 x 128, directions", farthest(True), 1.5),
    Comparison("farthest, 300 of 20 000 x 128, positions", farthest(False), 1.5),
    Comparison("leverage, 300 of 20 000 x 128", leverage),
    Comparison("best aligned, 300 of 4000 x 128", best_aligned),
]


@pytest.mark.parametrize(("group", "name", "call"), parameters(COMPARISONS))
def test_anchors(benchmark, group, name, call):
    measure(benchmark, group, name, call)


def million(make: Callable[[], Call]) -> memory.Sized:
    def build(tiny: bool) -> Call:
        x, sampler = normal(*(300, 3) if tiny else (1_000_000, WIDTH)), make()
        return lambda: sampler(x)

    return build


#: A million rows: the sampler, and the most it may take in MiB beside the data.
MILLION = {
    "uniform, 100": (lambda: UniformAnchors(100), 64),
    "farthest, 100, directions": (lambda: FarthestAnchors(100), 64),
    "farthest, 100, positions": (lambda: FarthestAnchors(100, normalize=False), 576),
    "k-means, 100, directions": (lambda: KMeansAnchors(100), 576),
    "k-means, 100, positions": (lambda: KMeansAnchors(100, normalize=False), 576),
    "leverage, 100, directions": (lambda: LeverageAnchors(100), 192),
}
memory.CASES.update({name: (million(make), limit) for name, (make, limit) in MILLION.items()})


def one_million(name: str) -> None:
    """Seconds and MiB of one case, in this process."""
    mib = memory.measure(name)
    build, _ = memory.CASES[name]
    call = build(False)
    start = time.perf_counter()
    call()
    print(json.dumps([time.perf_counter() - start, mib]))


def main() -> None:
    prepare()
    print(", ".join(f"{key} {value}" for key, value in machine().items()), end="\n\n")
    print("| what | peer | ours, ms | peer, ms | ratio | quartiles | target | |")
    print("|---|---|--:|--:|--:|--:|--:|---|")
    for comparison in COMPARISONS:
        print(*map(row, compare(comparison, quick=False)), sep="\n", flush=True)
    print("\n| a million rows x 128 | seconds | peak beside the data | limit |")
    print("|---|--:|--:|--:|")
    for name, (_, limit) in MILLION.items():
        command = [sys.executable, __file__, name]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, mib = json.loads(out)
        print(f"| {name} | {seconds:.1f} | {mib:.0f} MiB | {limit} MiB |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one_million(sys.argv[1])
    else:
        main()
