"""Similarity of spaces against the products and decompositions it rests on."""

import pytest
from cases import measure, parameters
from cases_similarity import SIMILARITY


@pytest.mark.parametrize(("group", "name", "call"), parameters(SIMILARITY))
def test_similarity(benchmark, group, name, call):
    measure(benchmark, group, name, call)
