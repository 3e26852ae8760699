"""Measures against the bare products and scikit-learn.

    python -m pytest benchmarks/bench_metrics.py      with the other benchmarks: 4000 rows
    python benchmarks/bench_metrics.py                interleaved ratios at 20 000 rows, then memory

Memory is the peak beyond the input, each measure in a fresh process. A table of 20 000 by 20 000
cosines would be 1526 MiB.
"""

from __future__ import annotations

import json
import subprocess
import sys

import memory
import pytest
from cases import measure, parameters, prepare
from cases_metrics import METRICS, spaces
from ratios import compare, machine, row

from relreps import metrics


@pytest.mark.parametrize(("group", "name", "call"), parameters(METRICS))
def test_metrics(benchmark, group, name, call):
    measure(benchmark, group, name, call)


def peak(name: str) -> memory.Sized:
    def build(tiny: bool):
        x, y = spaces(quick=tiny)
        return lambda: getattr(metrics, name)(x, y)

    return build


#: The measure, and the most it may take in MiB beside the data.
PEAKS = {
    "mean_reciprocal_rank": 700,
    "retrieval_scores": None,
    "mutual_knn": 700,
    "cknna": None,
}
memory.CASES.update({name: (peak(name), limit) for name, limit in PEAKS.items()})


def main() -> None:
    prepare()
    print(", ".join(f"{key} {value}" for key, value in machine().items()), end="\n\n")
    print("| what | peer | ours, ms | peer, ms | ratio | quartiles | target | |")
    print("|---|---|--:|--:|--:|--:|--:|---|")
    for comparison in METRICS:
        print(*map(row, compare(comparison, quick=False)), sep="\n", flush=True)
    results = []
    for name, limit in PEAKS.items():
        command = [sys.executable, __file__, name]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results.append({"case": name, "mib": json.loads(out), "limit_mib": limit})
    print("\n" + memory.table(results))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(memory.measure(sys.argv[1])))
    else:
        main()
