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


def rows_at_once(width: int, dtype: torch.dtype) -> int:
    """Rows ``(rows, width)`` whose sums and products are taken in one step."""
    return max(_LEAST, min(_MOST, _ROWS_CPU // max(width * dtype.itemsize, 1)))


def rows_of_table(columns: int, dtype: torch.dtype) -> int:
    """Rows of a table ``(rows, columns)``, such as one of distances, that is held at once."""
    return max(1, _TABLE_CPU // max(columns * dtype.itemsize, 1))
