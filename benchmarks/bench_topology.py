"""Death times against the distances they rest on and against named libraries."""

import pytest
from cases import measure, parameters
from cases_topology import TOPOLOGY


@pytest.mark.parametrize(("group", "name", "call"), parameters(TOPOLOGY))
def test_topology(benchmark, group, name, call):
    measure(benchmark, group, name, call)
