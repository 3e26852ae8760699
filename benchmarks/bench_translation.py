"""Translation and retrieval against their bare products."""

import pytest
from cases import TRANSLATION, measure, parameters


@pytest.mark.parametrize(("group", "name", "call"), parameters(TRANSLATION))
def test_translation(benchmark, group, name, call):
    measure(benchmark, group, name, call)
