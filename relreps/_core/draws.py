"""Draws from a generator, on its own device, so that they are the same whatever data are on."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core.checks import check_generator


def device_of(generator: torch.Generator | None) -> torch.device:
    """Where a generator draws; torch's default one is that of the CPU."""
    check_generator(generator)
    return torch.device("cpu") if generator is None else generator.device


def shuffled(n: int, generator: torch.Generator | None) -> Tensor:
    """The numbers from 0 to n - 1 in a random order."""
    return torch.randperm(n, generator=generator, device=device_of(generator))


def uniform(n: int, generator: torch.Generator | None) -> Tensor:
    """Independent float64 numbers in [0, 1)."""
    return torch.rand(n, generator=generator, device=device_of(generator), dtype=torch.float64)


def normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Independent float64 numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=generator, device=device_of(generator), dtype=torch.float64)
