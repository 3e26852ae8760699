"""How far a reader travels through the package's own code in one eager call, and the house.

Run from the root of a checkout; the package is the one that lies there:

    python scripts/trips.py                    # the trips, as a Markdown table
    python scripts/trips.py --peers            # and those through other packages
    python scripts/trips.py --show procrustes  # call by call, those with this in their name
    python scripts/trips.py --house            # files, lines, names

Each trip is made once before it is followed, so what is loaded or kept at the first is not counted.
One named ``Class(...).method`` makes the object too; in the others it is made before. Counted are

- calls: starts of Python functions whose file lies in the package. Frames of torch and others in
  between do not count, nor do comprehensions, generator expressions, lambdas and what the dataclass
  decorator writes. A generator function counts each time it is entered again.
- functions: different (file, name); methods of one name in one file are one.
- files: those of these calls.
- changes: calls in another file than the call before. Returns are not counted.
- depth: the most frames of the package that stand at once, comprehensions, generator expressions
  and lambdas included. From Python 3.12 on, comprehensions have no frame of their own.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import pkgutil
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from io import StringIO
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import FrameType, SimpleNamespace
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path.cwd()))
import relreps

Call = Callable[[], object]
FOLDER = Path(relreps.__file__).parent


class Step(NamedTuple):
    depth: int  # frames of the package that stand, this one included
    file: str
    line: int
    name: str


def public_objects() -> Iterator[tuple[str, object]]:
    """Name and object of each entry of ``__all__``, over the modules without an underscore."""
    parts = pkgutil.walk_packages([str(FOLDER)], "relreps.")
    for name in ("relreps", *(part.name for part in parts)):
        if "._" not in name:
            module = importlib.import_module(name)
            yield from ((entry, getattr(module, entry)) for entry in getattr(module, "__all__", ()))


def own_trips() -> dict[str, Call]:
    """The trips through the package. Found by public name, whichever module now offers it."""
    api = SimpleNamespace(**dict(reversed([*public_objects()])))  # the first of a name has it
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 8, generator=generator)
    y = x @ torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    anchors, labels, seeds = x[:16], torch.arange(100) % 4, torch.arange(16)
    projection = api.RelativeProjection(8, 16).set_anchors(anchors)
    scale = api.StandardScale(8).fit(x)
    scaled = api.RelativeProjection(8, 16, pre=scale).set_anchors(anchors)
    translator, loss = api.ProcrustesTranslator(8, 8), api.TopologicalDensificationLoss(1.0)
    return {
        "RelativeProjection.forward": lambda: projection(x),
        "ProcrustesTranslator(...).fit": lambda: api.ProcrustesTranslator(8, 8).fit(x, y),
        "TopologicalDensificationLoss.forward": lambda: loss(x, labels),
        "linear_cka": lambda: api.linear_cka(x, y),
        "StandardScale.fit": lambda: scale.fit(x),
        "AffineTranslator(...).fit": lambda: api.AffineTranslator(8, 8, ridge="gcv").fit(x, y),
        "RelativeProjection(...).set_anchors": lambda: api.RelativeProjection(8, 16).set_anchors(
            anchors
        ),
        "RelativeProjection.forward, pre=StandardScale": lambda: scaled(x),
        "death_times": lambda: api.death_times(x),
        "discover_parallel_anchors": lambda: api.discover_parallel_anchors(
            x, y, (seeds, seeds), 32
        ),
        "translation_report": lambda: api.translation_report(translator, x, y),
        "mutual_knn": lambda: api.mutual_knn(x, y),
    }


def peer_trips() -> dict[str, dict[str, Call]]:
    """By package, trips through those of them that are installed."""
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    trips: dict[str, dict[str, Call]] = {}
    if find_spec("sklearn"):
        ridge = importlib.import_module("sklearn.linear_model").Ridge
        trips["sklearn"] = {"sklearn Ridge(...).fit": lambda: ridge().fit(x.numpy(), x.numpy())}
    if find_spec("einops"):
        rearrange = importlib.import_module("einops").rearrange
        trips["einops"] = {"einops rearrange": lambda: rearrange(x, "b c -> c b")}
    return trips


def walk(call: Call, package: str) -> tuple[list[Step], int]:
    """The calls of one trip, in order, and the greatest depth."""
    call()
    prefix = f"{Path(str(sys.modules[package].__file__)).parent}/"
    steps, depth, deepest = list[Step](), 0, 0

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth, deepest
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(prefix):
            return
        depth += 1 if event == "call" else -1
        deepest = max(deepest, depth)
        if event == "call" and not code.co_name.startswith("<"):
            file = code.co_filename.removeprefix(prefix)
            steps.append(Step(depth, file, code.co_firstlineno, code.co_qualname))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return steps, deepest


def counts(steps: list[Step], deepest: int) -> dict[str, int]:
    return {
        "calls": len(steps),
        "functions": len({(step.file, step.name.rpartition(".")[2]) for step in steps}),
        "files": len({step.file for step in steps}),
        "changes": sum(a.file != b.file for a, b in pairwise(steps)),
        "depth": deepest,
    }


def tree(steps: list[Step]) -> Iterator[str]:
    """A line a call, a star where the file changes. Below a comprehension, one level is empty."""
    for before, step in pairwise([steps[0], *steps]):
        star = " " if step.file == before.file else "*"
        yield f"{star} {'  ' * (step.depth - 1)}{step.file}:{step.line} {step.name}"


def length(function: ast.FunctionDef) -> int:
    """Lines of a function without its decorators and docstring."""
    documented = ast.get_docstring(function, clean=False) is not None
    nodes: list[ast.stmt] = [function, *function.body[:documented]]
    whole, *docstring = (int(node.end_lineno or 0) - node.lineno + 1 for node in nodes)
    return whole - sum(docstring)


def house() -> dict[str, float]:
    """Sizes of the package: of its files, functions, comments and public names."""
    files, functions, comments = [], [], 0
    for path in FOLDER.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        files.append(len(source.splitlines()))
        nodes = ast.walk(ast.parse(source))
        functions += [length(node) for node in nodes if isinstance(node, ast.FunctionDef)]
        # A comment counts where it has the line for itself.
        tokens = tokenize.generate_tokens(StringIO(source).readline)
        lines = (token.line for token in tokens if token.type == tokenize.COMMENT)
        comments += sum(line.lstrip().startswith("#") for line in lines)
    return {
        "files": len(files),
        "lines": sum(files),
        "median file": median(files),
        "longest file": max(files),
        "median function": median(functions),
        "longest function": max(functions),
        "names in relreps.__all__": len(relreps.__all__),
        "public objects": len({id(entry) for _, entry in public_objects()}),
        "comment lines, %": round(100 * comments / sum(files), 1),
    }


def table(heads: list[str], rows: Iterable[Iterable[object]]) -> str:
    lines: list[Iterable[object]] = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--show", metavar="NAME", help="print the calls of trips named like this")
    parser.add_argument("--peers", action="store_true", help="follow other packages too")
    parser.add_argument("--house", action="store_true", help="measure the files, not the trips")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.house:
        sizes = house()
        print(json.dumps(sizes, indent=2) if options.json else table(["house", ""], sizes.items()))
        return
    trips = {"relreps": own_trips()} | (peer_trips() if options.peers else {})
    results = {}
    for package, calls in trips.items():
        for name in (name for name in calls if (options.show or "").lower() in name.lower()):
            try:
                steps, depth = walk(calls[name], package)
            except (AttributeError, TypeError) as error:  # a name or an argument has changed
                print(f"{name} cannot be followed: {error}", file=sys.stderr)
                continue
            results[name] = counts(steps, depth)
            if options.show and not options.json:
                print(name, *tree(steps), "", sep="\n")
    if not results:
        parser.error(f"no trip to show; there are: {'; '.join(own_trips())}")
    heads = ["trip (one eager call)", *next(iter(results.values()))]
    rows = ([f"`{name}`", *row.values()] for name, row in results.items())
    print(json.dumps(results, indent=2) if options.json else table(heads, rows))


if __name__ == "__main__":
    main()
