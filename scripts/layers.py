"""The layers of the package, drawn from what its files import, and the rule that they keep.

Run from anywhere; nothing is installed or imported for it:

    python scripts/layers.py           # draw docs/assets/layers.svg
    python scripts/layers.py --check   # is the picture there the one that would be drawn?

Both end with 1 and say where, if an import points upwards, if folders import each other in a
circle, or if one reaches into the private room of another: a module or a name that begins with an
underscore. Every import counts, whether it runs when the file is loaded, inside a function when it
is called, or for the type checker alone: a reader has to follow each of them. Where none of the
first kind joins two folders, the arrow is dashed.

Folders of one layer may import each other, one way. ``relreps/__init__.py`` is left out: it gathers
names from everywhere, and nothing may import from it but folders and files.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "relreps"
PICTURE = ROOT / "docs" / "assets" / "layers.svg"

Edge = tuple[str, str]
Point = tuple[float, float]

#: From the bottom to the top. A part is a folder, or a file beside the folders.
LAYERS = (
    ("_core",),
    ("similarity", "moments", "topo_loss", "sampling"),
    ("normalization", "anchors", "metrics", "spectral_loss"),
    ("correspondence", "projection", "translate"),
    ("stitching", "aggregation", "asif", "parity"),
    ("plots", "testing", "integrations"),
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}


# What is imported.


class Import(NamedTuple):
    """A name that one part takes from another."""

    file: str
    line: int
    source: str
    target: str  # "" is the package itself
    private: bool
    at_once: bool  # when the file is loaded, not when a function runs

    def __str__(self) -> str:
        target = self.target or "relreps itself"
        return f"{self.file}:{self.line}: {self.source} imports from {target}"


def read_imports(package: Path = PACKAGE) -> list[Import]:
    """What each file takes from other parts of the package that it lies in."""
    files = [file for file in sorted(package.rglob("*.py")) if file != package / "__init__.py"]
    found = (each for file in files for each in _imports_of(file, package))
    return [each for each in found if each.source != each.target]


def _imports_of(file: Path, package: Path) -> Iterator[Import]:
    name, *place = file.relative_to(package.parent).with_suffix("").parts
    source, where = place[0], str(file.relative_to(package.parent))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    at_once, known = set(map(id, tree.body)), dict[str, str]()
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr)]
    for node in nodes:
        for path, alias in _names(node, [name, *place]):
            if path[0] == name:
                target, *rest = path[1:]
                if not any((package / part).exists() for part in (target, f"{target}.py")):
                    target = ""
                known[alias] = target
                private = any(part.startswith("_") for part in rest)
                yield Import(where, node.lineno, source, target, private, id(node) in at_once)
    for node in nodes:  # `module._name`, of a module or a class that was imported
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target = known.get(node.value.id, source)
            if node.attr.startswith("_") and not node.attr.startswith("__"):
                yield Import(where, node.lineno, source, target, True, False)


def _names(node: ast.AST, place: list[str]) -> Iterator[tuple[list[str], str]]:
    """Whole name of all that a statement imports, and what it is called here."""
    if isinstance(node, ast.Import):
        for each in node.names:
            path = [*each.name.split("."), ""]
            yield path, each.asname or each.name
    elif isinstance(node, ast.ImportFrom):
        above = place[: len(place) - node.level] if node.level else []
        module = [*above, *(node.module.split(".") if node.module else [])]
        yield from (([*module, each.name], each.asname or each.name) for each in node.names)


# What is wrong.


def faults(imports: Iterable[Import]) -> list[str]:
    """Imports that break the rule, each as a line that says where and how."""
    found = []
    for each in imports:
        if each.target not in HEIGHT or each.source not in HEIGHT:
            found.append(f"{each}, which has no place in LAYERS")
        elif is_upward(each):
            found.append(f"{each}, upwards")
        elif each.private:
            found.append(f"{each} what is private there")
    circle = find_circle({(each.source, each.target) for each in imports})
    return found + ([f"in a circle: {' -> '.join(circle)}"] if circle else [])


def is_upward(each: Import) -> bool:
    """Whether the target lies in a layer above that of the source."""
    return HEIGHT[each.target] > HEIGHT[each.source]


def find_circle(edges: set[Edge]) -> list[str]:
    """Parts along a circle, the first once more at the end; nothing if there is none."""
    left = set(edges)
    while True:  # what nothing leaves is on no circle
        leaving = {source for source, _ in left}
        fewer = {(source, target) for source, target in left if target in leaving}
        if fewer == left:
            break
        left = fewer
    after = dict(sorted(left))
    path = list(after)[:1]
    while path and path[-1] not in path[:-1]:
        path.append(after[path[-1]])
    return path[path.index(path[-1]) :] if path else []


# The picture.

WIDTH, STEP, TOP, BOX, LEFT = 960, 112, 20, 34, 20
#: Middle tones, to be read on white and on black; an arrow has the colour of where it begins.
COLORS = ("#8a94a6", "#3f8f5f", "#2f86b5", "#8a63c9", "#b5762f", "#b0568f")
RED = "#e03131"


class Box(NamedTuple):
    x: float  # of the middle
    y: float  # of the upper edge
    half: float  # of the width


def draw(imports: list[Import], package: Path = PACKAGE) -> str:
    """The picture as SVG: a row a layer, an arrow for each part that another imports from."""
    there = {path.stem for path in package.iterdir()}
    boxes = place([[part for part in layer if part in there] for layer in LAYERS])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP * 2 + STEP * 5 + BOX}"'
        ' font-family="system-ui, sans-serif" font-size="15">',
        "<title>Layers of relreps: each imports from those below it</title>",
        *(marker(color) for color in (*COLORS, RED)),
    ]
    loaded = {(each.source, each.target) for each in imports if each.at_once}
    edges = sorted({(e.source, e.target) for e in imports if {e.source, e.target} <= set(boxes)})
    for (source, target), points in route(edges, boxes).items():
        upward = HEIGHT[target] > HEIGHT[source]
        dashes = "" if (source, target) in loaded else ' stroke-dasharray="5 4"'
        lines.append(arrow(points, RED if upward else COLORS[HEIGHT[source]], dashes))
    lines += [box(part, boxes[part]) for part in boxes]
    return "\n".join([*lines, "</svg>", ""])


def place(rows: list[list[str]]) -> dict[str, Box]:
    """Boxes in rows, those of the first row at the bottom; one alone is as wide as the picture."""
    boxes: dict[str, Box] = {}
    for height, row in enumerate(rows):
        y, each = TOP + STEP * (len(rows) - 1 - height), (WIDTH - 2 * LEFT) / max(len(row), 1)
        half = each / 2 if len(row) == 1 else 72
        boxes |= {part: Box(LEFT + each * (n + 0.5), y, half) for n, part in enumerate(row)}
    return boxes


def route(edges: list[Edge], boxes: dict[str, Box]) -> dict[Edge, list[Point]]:
    """Points of each arrow; those that meet at one are set side by side, in the order they come."""
    paths = {edge: path(boxes[edge[0]], boxes[edge[1]], boxes) for edge in edges}
    meeting: dict[Point, list[tuple[float, Edge]]] = {}
    for edge, points in paths.items():
        for n, point in enumerate(points):
            before, after = points[max(n - 1, 0)], points[min(n + 1, len(points) - 1)]
            meeting.setdefault(point, []).append((before[0] + after[0], edge))
    beside = {}
    for point, found in meeting.items():
        for n, (_, edge) in enumerate(sorted(found)):
            beside[point, edge] = (n - (len(found) - 1) / 2) * min(12, 120 / len(found))
    return {edge: [(x + beside[(x, y), edge], y) for x, y in paths[edge]] for edge in edges}


def path(source: Box, target: Box, boxes: dict[str, Box]) -> list[Point]:
    """From the lower edge of a box down to another, through the rows between them."""
    x, low, high = source.x, target.x - target.half, target.x + target.half
    to = x if low < x < high else target.x  # straight down to a wide box
    points = [(x, source.y + BOX)]
    for y in sorted({box.y for box in boxes.values() if source.y < box.y < target.y}):
        straight = x + (to - x) * (y - source.y) / (target.y - source.y)
        gap = min(gaps(y, boxes), key=lambda at: abs(at - straight))
        points.append((gap, y))
    return [*points, (to, target.y if target.y > source.y else target.y + BOX)]


def gaps(y: float, boxes: dict[str, Box]) -> list[float]:
    """Middles of what is free in a row, its two ends included."""
    row = [(box.x - box.half, box.x + box.half) for box in boxes.values() if box.y == y]
    ends = [(0.0, 0.0), *sorted(row), (float(WIDTH), float(WIDTH))]
    return [(a[1] + b[0]) / 2 for a, b in pairwise(ends)]


def arrow(points: list[Point], color: str, dashes: str) -> str:
    (x, y), *rest = points
    line = f"M{x:.0f} {y:.0f}"
    for to, bottom in rest:
        bend = abs(bottom - y) / 2 or 40  # to a box of the same row: a bow below it
        end = bottom - bend if bottom > y else bottom + bend
        line += f" C{x:.0f} {y + bend:.0f} {to:.0f} {end:.0f} {to:.0f} {bottom:.0f}"
        x, y = to, bottom
        if (to, bottom) != rest[-1]:  # past a row of boxes
            y += BOX
            line += f" V{y:.0f}"
    return (
        f'<path d="{line}" fill="none" stroke="{color}" stroke-width="1.4"{dashes} '
        f'marker-end="url(#{color[1:]})"/>'
    )


def marker(color: str) -> str:
    return (
        f'<marker id="{color[1:]}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{color}"/></marker>'
    )


def box(name: str, at: Box) -> str:
    color, left, width = COLORS[HEIGHT[name]], at.x - at.half, at.half * 2
    return (
        f'<rect x="{left:.0f}" y="{at.y:.0f}" width="{width:.0f}" height="{BOX}" rx="6" '
        f'fill="#ffffff" stroke="{color}" stroke-width="2"/><text x="{at.x:.0f}" '
        f'y="{at.y + 22:.0f}" text-anchor="middle" fill="#1f2530">{name}</text>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare instead of drawing")
    options = parser.parse_args()
    imports = read_imports()
    wrong, picture = faults(imports), draw(imports)
    if not options.check:
        PICTURE.write_text(picture, encoding="utf-8")
    elif not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture:
        name = PICTURE.relative_to(ROOT)
        wrong.append(f"{name} is not what is imported now: run `python scripts/layers.py`")
    print(*wrong, sep="\n", end="\n" * bool(wrong), file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
