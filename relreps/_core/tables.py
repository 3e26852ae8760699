"""Scores in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def markdown_grid(
    corner: str, rows: Sequence[str], columns: Sequence[str], scores: Tensor, digits: int
) -> str:
    """A Markdown table with aligned columns; NaN reads ``n/a``."""
    table = [[corner, *columns]]
    for name, values in zip(rows, scores.tolist(), strict=True):
        table.append([name, *("n/a" if v != v else f"{v:.{digits}f}" for v in values)])
    table = [[cell.replace("|", "\\|") for cell in row] for row in table]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    aligned = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in table
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (aligned[0], rule, *aligned[1:]))
