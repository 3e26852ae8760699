"""How many rows to take at once: the one place that knows the sizes of caches and devices.

On the CPU a block stays in the cache, which makes long sums and products faster than one call; what
is left over of a large tensor is then never copied whole. Another device wants few and large calls:
where the one of the rows is given, blocks fill it.
"""

from __future__ import annotations

import torch

#: Bytes of a block that is read once or twice, and of a table of scores of rows against others.
_ROWS_CPU, _TABLE_CPU = 1 << 22, 1 << 24
_ROWS_DEVICE, _TABLE_DEVICE = 1 << 26, 1 << 28
#: Most and fewest rows of a block: their product has to cost far more than adding it up.
_MOST, _LEAST = 2048, 256
#: Entries of a table that many operations read: what a core's own cache holds, and what keeps a
#: device busy.
_CACHE_CPU, _CACHE_DEVICE = 1 << 15, 1 << 24
#: Entries of a table that a few operations pass over in turn, in a cache that holds more.
_PASSES_CPU = 1 << 18


def rows_at_once(width: int, dtype: torch.dtype, device: torch.device | None = None) -> int:
    """Rows ``(rows, width)`` whose sums and products are taken in one step."""
    row = max(width * dtype.itemsize, 1)
    if device is not None and device.type != "cpu":
        return max(_LEAST, _ROWS_DEVICE // row)
    return max(_LEAST, min(_MOST, _ROWS_CPU // row))


def rows_of_table(columns: int, dtype: torch.dtype, device: torch.device | None = None) -> int:
    """Rows of a table ``(rows, columns)``, such as one of distances, that is held at once."""
    table = _TABLE_DEVICE if _elsewhere(device) else _TABLE_CPU
    return max(1, table // max(columns * dtype.itemsize, 1))


def rows_in_cache(columns: int, device: torch.device) -> int:
    """Rows of a table ``(rows, columns)`` that is made and read several times over.

    At least so many that their product repays reading all that the columns stand for.
    """
    entries = _CACHE_DEVICE if _elsewhere(device) else _CACHE_CPU
    return max(_LEAST, entries // max(columns, 1))


def rows_in_passes(columns: int, device: torch.device) -> int:
    """Rows of a table ``(rows, columns)`` that exists and is changed in place several times."""
    return max(1, (_CACHE_DEVICE if _elsewhere(device) else _PASSES_CPU) // max(columns, 1))


def _elsewhere(device: torch.device | None) -> bool:
    return device is not None and device.type != "cpu"
