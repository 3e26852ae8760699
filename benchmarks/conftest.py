"""Every benchmark runs on one thread, from one seed, and in a warm allocator."""

from cases import prepare


def pytest_configure(config):
    prepare()
