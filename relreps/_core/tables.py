"""Tables of scores: everything of one kind against everything of another."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor


class ScoreTable:
    """Scores ``(rows, columns)``, the names of the rows, and those of the columns.

    Each kind of table is a named tuple of these three, in this order and under its own names, and
    this. Scores are NaN where there is none.
    """

    __slots__ = ()

    #: What the rows and the columns are.
    heads: ClassVar[tuple[str, str]] = ("row", "column")

    @property
    def table(self) -> tuple[Tensor, list[str], list[str]]:
        """Scores, names of the rows, names of the columns."""
        return cast("tuple[Tensor, list[str], list[str]]", self)

    def best(self, *, lowest: bool = False) -> tuple[str, str, float]:
        """The row and the column of the best score, and that score; the first of equals.

        Args:
            lowest: Whether less is better, as of a distance.

        Raises:
            ValueError: There is no score but NaN.
        """
        scores, rows, columns = self.table
        some = scores == scores
        if not bool(some.any()):
            raise ValueError("The table has no best score: all of them are NaN, or there is none.")
        places = some.flatten().nonzero().flatten()
        values = scores.flatten()[places]
        place = int(places[values.argmin() if lowest else values.argmax()])
        i, j = divmod(place, len(columns))
        return rows[i], columns[j], float(scores[i, j])

    def to_markdown(self, digits: int = 3) -> str:
        """A Markdown table with aligned columns; scores that are NaN read ``n/a``."""
        scores, rows, columns = self.table
        table = [[" \\ ".join(self.heads), *columns]]
        for name, values in zip(rows, scores.tolist(), strict=True):
            table.append([name, *("n/a" if v != v else f"{v:.{digits}f}" for v in values)])
        table = [[cell.replace("|", "\\|") for cell in row] for row in table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
        head, *body = (
            [f"{first:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(rest, widths[1:], strict=True))]
            for first, *rest in table
        )
        return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
