"""A few numbers by which inputs are known again: the same samples, in the same order."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from relreps._core.linalg import as_float64

#: Number of sums, and of how many entries of a tensor each is taken.
_SUMS, _ENTRIES = 16, 1 << 20
#: Numbers of a fingerprint: the sums, the length that they are measured by, and the rounding.
SIZE = _SUMS + 2


@torch.no_grad()
def fingerprint(inputs: Any) -> Tensor:
    """The numbers ``(SIZE,)`` in float64, on the host; NaN where there are no values to look at.

    Sums of the entries, weighed by waves of different lengths: another row changes them, and
    another order of rows. Of wide rows some columns stand for all. What is no tensor enters by its
    text, if that is the same in every process.
    """
    sums = torch.zeros(_SUMS, dtype=torch.float64)
    square, eps = 0.0, torch.finfo(torch.float32).eps
    for place, leaf in enumerate(tree_leaves(inputs), 1):
        if isinstance(leaf, str | bytes | int | float):
            digest = hashlib.sha256(repr(leaf).encode()).digest()
            entries = torch.tensor(list(digest), dtype=torch.float64) / 256
        elif isinstance(leaf, Tensor):
            entries = _some_of(leaf.detach())
            if leaf.is_floating_point():
                eps = max(eps, torch.finfo(leaf.dtype).eps)
        else:
            continue
        sums += _waves(entries, place)
        square += float(entries.square().sum())
    return torch.cat((sums, torch.tensor([math.sqrt(square), eps], dtype=torch.float64)))


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two fingerprints differ by no more than the rounding of the types of their inputs."""
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return True  # nothing is known
    length, eps = torch.maximum(a, b)[_SUMS:]
    return bool((a - b)[: _SUMS + 1].abs().amax() <= 4 * eps * length)


def _some_of(x: Tensor) -> Tensor:
    """Entries of all rows, from the same columns of each, as one vector in float64."""
    if x.is_meta:
        return torch.full((1,), math.nan, dtype=torch.float64)
    rows = x.reshape(len(x), -1) if x.dim() > 1 and len(x) else x.reshape(-1, 1)
    return as_float64(rows[:, :: 1 + rows.numel() // _ENTRIES]).flatten().cpu()


def _waves(entries: Tensor, place: int) -> Tensor:
    """Sums of the entries times waves whose steps have no common measure."""
    i = torch.arange(1, len(entries) + 1, dtype=torch.float64) + math.e * place
    return torch.stack([(i * math.sqrt(1 + k * k)).sin() @ entries for k in range(1, _SUMS + 1)])
