"""The benchmarks are listed without their data."""

import importlib
import sys

import pytest
from torch.utils._python_dispatch import TorchDispatchMode


class Made(TorchDispatchMode):
    """The operations that ran."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.append(func)
        return func(*args, **(kwargs or {}))


def test_listing_the_benchmarks_makes_no_tensor():
    # The benchmarks are in the repository alone, and their peers in the extra for development.
    for name in ("cases", "gudhi", "ripser", "sklearn"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"there is no {name} here")
    for name in [n for n in sys.modules if n == "bench" or n.split("_")[0] == "cases"]:
        del sys.modules[name]
    with Made() as made:
        bench = importlib.import_module("bench")
    assert made.operations == []
    assert len(bench.NAMED) == len({parameters.id for parameters in bench.NAMED}) > 100
    with made:
        bench.ALL[0].build(True)  # so that the count can fail
    assert made.operations
