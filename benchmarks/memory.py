"""Peak memory beyond the input, each case in a fresh process. Needs Linux with glibc.

A copy of a million rows of 128 is 488 MiB; a table of 20 000 by 20 000 cosines would be 1526 MiB.

    python benchmarks/memory.py                         all cases
    python benchmarks/memory.py "k-means, positions"    one, in this process
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cases import ANCHORS, BATCH, WIDTH, chunked_topk, normal, prepare
from cases_metrics import spaces
from torch.nn import functional as F

from relreps import (
    AffineTranslator,
    FarthestAnchors,
    KMeansAnchors,
    LeverageAnchors,
    ProcrustesTranslator,
    RelativeProjection,
    SparseRelativeProjection,
    StandardScale,
    UniformAnchors,
    Whiten,
    death_times,
    metrics,
)

Sized = Callable[[bool], Callable[[], object]]


def projection(similarity: str, backward: bool = False) -> Sized:
    def build(tiny: bool) -> Callable[[], object]:
        x = normal(*(2, 3) if tiny else (BATCH, WIDTH)).requires_grad_(backward)
        anchors = normal(*(4, 3) if tiny else (ANCHORS, WIDTH))
        layer = RelativeProjection.from_anchors(anchors, similarity)
        return lambda: layer(x).sum().backward() if backward else layer(x)

    return build


def sparse(peer: bool = False) -> Sized:
    def build(tiny: bool) -> Callable[[], object]:
        x = normal(*(2, 3) if tiny else (1024, 64))
        anchors = F.normalize(normal(*(200, 3) if tiny else (200_000, 64)), dim=-1)
        if peer:
            return lambda: chunked_topk(x, anchors, 100)
        layer = SparseRelativeProjection(anchors.shape[1], len(anchors), 100).set_anchors(anchors)
        return lambda: layer(x)

    return build


def fit(take: Callable[[torch.Tensor], object]) -> Sized:
    def build(tiny: bool) -> Callable[[], object]:
        x = normal(*(20, 3) if tiny else (1_000_000, 384))
        return lambda: take(x)

    return build


def translator(make: type, n: int) -> Sized:
    def build(tiny: bool) -> Callable[[], object]:
        x = normal(*(20, 3) if tiny else (n, 384))
        y = x.flip(0)
        return lambda: make(x.shape[1], x.shape[1]).fit(x, y)

    return build


def deaths(tiny: bool) -> Callable[[], object]:
    x = normal(*(100, 3) if tiny else (20_000, 64)).requires_grad_()
    return lambda: death_times(x).sum().backward()


def cka(debiased: bool) -> Sized:
    def build(tiny: bool) -> Callable[[], object]:
        x = normal(*(20, 3) if tiny else (50_000, 512))
        y = x.roll(1, 0)
        return lambda: metrics.linear_cka(x, y, debiased)

    return build


def sampler(make: type, **options: bool) -> Sized:
    """100 anchors of a million rows."""

    def build(tiny: bool) -> Callable[[], object]:
        x, chosen = normal(*(300, 3) if tiny else (1_000_000, 128)), make(100, **options)
        return lambda: chosen(x)

    return build


def measure_of(name: str) -> Sized:
    def build(tiny: bool) -> Callable[[], object]:
        x, y = spaces(quick=tiny)
        return lambda: getattr(metrics, name)(x, y)

    return build


#: Call, and the most it may take in MiB.
CASES: dict[str, tuple[Sized, int | None]] = {
    "l1 forward": (projection("l1"), 64),
    "l1 forward + backward": (projection("l1", backward=True), 64),
    "linf forward": (projection("linf"), 64),
    "linf forward + backward": (projection("linf", backward=True), 64),
    "sparse top 100 of 200 000 anchors": (sparse(), 400),
    "chunked matmul + topk": (sparse(peer=True), None),
    "StandardScale.fit, 1 000 000 x 384": (fit(lambda x: StandardScale(x.shape[1]).fit(x)), 64),
    "x.square().sum(0)": (fit(lambda x: x.square().sum(0)), None),
    "Whiten.fit, 1 000 000 x 384": (fit(lambda x: Whiten(x.shape[1]).fit(x)), 64),
    "ProcrustesTranslator.fit, 100 000 x 384": (translator(ProcrustesTranslator, 100_000), 96),
    "ProcrustesTranslator.fit, 400 000 x 384": (translator(ProcrustesTranslator, 400_000), 96),
    "AffineTranslator.fit, 400 000 x 384": (translator(AffineTranslator, 400_000), 96),
    "x.T @ x": (fit(lambda x: x.T @ x), None),
    "death times of 20 000 x 64, forward + backward": (deaths, 1024),
    "linear_cka, 50 000 x 512": (cka(debiased=False), 100),
    "linear_cka, debiased": (cka(debiased=True), 100),
    "mean_reciprocal_rank, 20 000 x 300": (measure_of("mean_reciprocal_rank"), 700),
    "retrieval_scores": (measure_of("retrieval_scores"), None),
    "mutual_knn": (measure_of("mutual_knn"), 700),
    "cknna": (measure_of("cknna"), None),
    "uniform, 100 of 1 000 000 x 128": (sampler(UniformAnchors), 64),
    "farthest, directions": (sampler(FarthestAnchors), 64),
    "farthest, positions": (sampler(FarthestAnchors, normalize=False), 576),
    "k-means, directions": (sampler(KMeansAnchors), 576),
    "k-means, positions": (sampler(KMeansAnchors, normalize=False), 576),
    "leverage, directions": (sampler(LeverageAnchors), 192),
}


def measure(case: str) -> dict[str, object]:
    """MiB that this process grows by at its peak while the call runs, and seconds."""
    build, limit = CASES[case]
    prepare()
    build(True)()  # loads what it needs
    call = build(False)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    before, start = _status("VmRSS"), time.perf_counter()
    call()
    seconds, mib = time.perf_counter() - start, (_status("VmHWM") - before) / 1024
    return {"case": case, "mib": mib, "limit_mib": limit, "seconds": seconds}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def all_cases() -> list[dict[str, object]]:
    """Every case in a process of its own."""
    results = []
    for case in CASES:
        command = [sys.executable, __file__, case]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results.append(json.loads(out))
    return results


def table(results: list[dict[str, object]]) -> str:
    """The results in Markdown."""
    lines = ["| beyond the input | peak | limit | | seconds |", "|---|--:|--:|---|--:|"]
    for r in results:
        limit, mib = r["limit_mib"], r["mib"]
        verdict = "" if limit is None else "met" if mib < limit else "**missed**"
        shown = "" if limit is None else f"{limit} MiB"
        lines.append(f"| {r['case']} | {mib:.0f} MiB | {shown} | {verdict} | {r['seconds']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        print(table(all_cases()))
