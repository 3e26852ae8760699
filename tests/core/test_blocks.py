"""How many rows at once: in a cache on the CPU, few and large calls elsewhere."""

import pytest
import torch

from relreps._core import blocks

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize("rows", [blocks.rows_at_once, blocks.rows_of_table])
def test_blocks_are_larger_off_the_cpu_and_never_empty(rows):
    assert rows(100, torch.float32) == rows(100, torch.float32, CPU)
    assert rows(100, torch.float32, ELSEWHERE) > 4 * rows(100, torch.float32)
    assert rows(1 << 40, torch.float64) >= 1
    assert rows(0, torch.float64) >= 1


def test_a_table_in_cache_keeps_enough_rows():
    assert blocks.rows_in_cache(1 << 20, CPU) == 256
    assert blocks.rows_in_cache(16, CPU) == 2048
    assert blocks.rows_in_cache(16, ELSEWHERE) == 1 << 20
