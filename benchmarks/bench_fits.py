"""Streaming fits against one pass over the same rows."""

import pytest
from cases import FITS, measure, parameters


@pytest.mark.parametrize(("group", "name", "call"), parameters(FITS))
def test_fits(benchmark, group, name, call):
    measure(benchmark, group, name, call)
