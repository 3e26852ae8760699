"""Sparse codes of many anchors against a chunked product and selection."""

import pytest
from cases import SPARSE, measure, parameters


@pytest.mark.parametrize(("group", "name", "call"), parameters(SPARSE))
def test_sparse(benchmark, group, name, call):
    measure(benchmark, group, name, call)
