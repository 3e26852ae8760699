"""Tables of scores: everything of one kind against everything of another."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor


class _Fields(NamedTuple):
    scores: Tensor
    rows: list[str]
    columns: list[str]


class ScoreTable(_Fields):
    """Scores with names.

    Attributes:
        scores: ``(rows, columns)``; NaN where there is none.
        rows: Names of the rows.
        columns: Names of the columns.
    """

    __slots__ = ()

    #: What the rows and the columns are.
    heads: ClassVar[tuple[str, str]] = ("row", "column")

    def to_markdown(self, digits: int = 3) -> str:
        """A Markdown table with aligned columns; scores that are NaN read ``n/a``."""
        table = [[" \\ ".join(self.heads), *self.columns]]
        for name, values in zip(self.rows, self.scores.tolist(), strict=True):
            table.append([name, *("n/a" if v != v else f"{v:.{digits}f}" for v in values)])
        table = [[cell.replace("|", "\\|") for cell in row] for row in table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
        head, *body = (
            [f"{first:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(rest, widths[1:], strict=True))]
            for first, *rest in table
        )
        return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
