"""Dense projections against the bare product and against named libraries."""

import pytest
from cases import PROJECTION, measure, parameters


@pytest.mark.parametrize(("group", "name", "call"), parameters(PROJECTION))
def test_projection(benchmark, group, name, call):
    measure(benchmark, group, name, call)
