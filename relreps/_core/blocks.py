"""How many rows to take at once: the one place that knows the sizes of caches and devices.

On the CPU a block stays in the cache, which makes long sums and products faster than one call; what
is left over of a large tensor is then never copied whole.
"""

from __future__ import annotations

import torch

#: Bytes of a block that is read once or twice, and of a table of scores of rows against others.
_ROWS_CPU, _TABLE_CPU = 1 << 22, 1 << 24
#: Most and fewest rows of a block: their product has to cost far more than adding it up.
_MOST, _LEAST = 2048, 256
#: Entries of a table that many operations read: what a core's own cache holds, and what keeps a
#: device busy.
_CACHE_CPU, _CACHE_DEVICE = 1 << 15, 1 << 24


def rows_at_once(width: int, dtype: torch.dtype) -> int:
    """Rows ``(rows, width)`` whose sums and products are taken in one step."""
    return max(_LEAST, min(_MOST, _ROWS_CPU // max(width * dtype.itemsize, 1)))


def rows_of_table(columns: int, dtype: torch.dtype) -> int:
    """Rows of a table ``(rows, columns)``, such as one of distances, that is held at once."""
    return max(1, _TABLE_CPU // max(columns * dtype.itemsize, 1))


def rows_in_cache(columns: int, device: torch.device) -> int:
    """Rows of a table ``(rows, columns)`` that is made and read several times over.

    At least so many that their product repays reading all that the columns stand for.
    """
    entries = _CACHE_CPU if device.type == "cpu" else _CACHE_DEVICE
    return max(_LEAST, entries // max(columns, 1))
