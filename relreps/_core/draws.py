"""Draws from a generator, on its own device, so that they are the same whatever data are on."""

from __future__ import annotations

import torch
from torch import Tensor


def device_of(generator: torch.Generator | None) -> torch.device:
    """Where a generator draws; torch's default one is that of the CPU."""
    return torch.device("cpu") if generator is None else generator.device


def shuffled(n: int, generator: torch.Generator | None) -> Tensor:
    """The numbers from 0 to n - 1 in a random order."""
    return torch.randperm(n, generator=generator, device=device_of(generator))


def uniform(n: int, generator: torch.Generator | None) -> Tensor:
    """Independent float64 numbers in [0, 1)."""
    return torch.rand(n, generator=generator, device=device_of(generator), dtype=torch.float64)
