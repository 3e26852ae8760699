"""Every benchmark runs on one thread, from one seed, and in a warm allocator."""

import pytest
from cases import prepare


@pytest.fixture(autouse=True, scope="session")
def _prepared():
    prepare()
