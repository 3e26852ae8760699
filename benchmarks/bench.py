"""All comparisons at their smaller sizes, timed by pytest-benchmark: `make bench`.

python -m pytest benchmarks -k "Whiten"      those whose name contains it
"""

import functools

import pytest
from cases import COMPARISONS
from cases_anchors import SAMPLERS
from cases_metrics import METRICS
from cases_similarity import SIMILARITY
from cases_topology import TOPOLOGY

ALL = (*COMPARISONS, *TOPOLOGY, *METRICS, *SIMILARITY, *SAMPLERS)
NAMED = [
    pytest.param(comparison, name, id=f"{comparison.small or comparison.name}: {name}")
    for comparison in ALL
    for name in comparison.build.names
]


@functools.lru_cache(maxsize=1)  # the calls of a comparison are timed one after the other
def built(comparison):
    return comparison.build(True)


@pytest.mark.parametrize(("comparison", "name"), NAMED)
def test_time(benchmark, comparison, name):
    call = built(comparison)[name]
    benchmark.group, benchmark.name = comparison.small or comparison.name, name
    call()
    benchmark(call)
