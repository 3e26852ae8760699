"""Ratios of ours to each peer, in interleaved pairs on one thread, against the targets.

    python benchmarks/ratios.py                      everything, about twenty minutes
    python benchmarks/ratios.py --quick              smaller sizes, about two minutes
    python benchmarks/ratios.py --only "Whiten"      comparisons whose name contains it

Times are processor time of the process, so that other work on the machine counts little. Both calls
of a pair run one after the other, in alternating order; the ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import memory
import numpy
import scipy
import sklearn
import torch
from bench import ALL
from cases import Call, Comparison, prepare

import relreps

PACKAGES = {m.__name__: m for m in (relreps, torch, numpy, scipy, sklearn)}


def seconds(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def pairs(ours: Call, peer: Call, budget: float) -> list[tuple[float, float]]:
    """Times of ours and of the peer, in turns, for about ``budget`` seconds."""
    once = 0.0
    for _ in range(2):
        once = seconds(ours) + seconds(peer)  # the first round warms up
    times = []
    for i in range(max(3, min(100, round(budget / once)))):
        if i % 2:
            theirs, own = seconds(peer), seconds(ours)
        else:
            own, theirs = seconds(ours), seconds(peer)
        times.append((own, theirs))
    return times


def compare(comparison: Comparison, quick: bool) -> list[dict[str, object]]:
    """One result a peer; the target belongs to the first, and to the full size."""
    smaller = comparison.small if quick else None
    ours, *peers = comparison.build(quick).items()
    results = []
    for i, (name, peer) in enumerate(peers):
        times = pairs(ours[1], peer, 2.0 if quick else 6.0)
        ratios = [own / theirs for own, theirs in times]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        target = comparison.target if i == 0 and smaller is None else None
        results.append(
            {
                "comparison": smaller or comparison.name,
                "peer": name,
                "ratio": median,
                "quartiles": [low, high],
                "pairs": len(times),
                "ours_ms": 1e3 * statistics.median(own for own, _ in times),
                "peer_ms": 1e3 * statistics.median(theirs for _, theirs in times),
                "target": target,
                "met": None if target is None else median <= target,
            }
        )
    return results


def row(r: dict) -> str:
    verdict = {None: "", True: "met", False: "**missed**"}[r["met"]]
    target = "" if r["target"] is None else f"{r['target']:.2f}"
    low, high = r["quartiles"]
    return (
        f"| {r['comparison']} | {r['peer']} | {r['ours_ms']:.1f} | {r['peer_ms']:.1f} "
        f"| {r['ratio']:.2f} | {low:.2f} to {high:.2f} | {target} | {verdict} |"
    )


def machine() -> dict[str, object]:
    """What the figures depend on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(
            [part.strip() for part in line.split(":", 1)]
            for line in info.read_text().splitlines()
            if ":" in line
        )
        model = (fields.get("cpu family"), fields.get("model"))
        cpu = f"{fields.get('model name', cpu)} (family {model[0]}, model {model[1]})"
    versions = {name: module.__version__ for name, module in PACKAGES.items()}
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer pairs")
    parser.add_argument("--only", default="", metavar="TEXT", help="comparisons with TEXT in them")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    args = parser.parse_args()
    prepare()
    print(", ".join(f"{key} {value}" for key, value in machine().items()), end="\n\n")
    print("| what | peer | ours, ms | peer, ms | ratio | quartiles | target | |")
    print("|---|---|--:|--:|--:|--:|--:|---|")
    results, memories = [], []
    for comparison in ALL:
        if args.only in comparison.name:
            new = compare(comparison, args.quick)
            print(*map(row, new), sep="\n", flush=True)
            results += new
    if not args.quick and not args.only:
        memories = memory.all_cases()
        print("\n" + memory.table(memories))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        contents = {"machine": machine(), "quick": args.quick, "ratios": results}
        args.out.write_text(json.dumps({**contents, "memory": memories}, indent=1) + "\n")


if __name__ == "__main__":
    main()
