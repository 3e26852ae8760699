"""What the studies share: the command line, progress, tables, and results that are whole or absent.

    study = Study(__file__, __doc__, packages=("mlxtend",))
    study.option("--steps", whole_number(1, 10**5), 200, "of each training", quick=20)
    options = study.parse()
    ...
    study.write("Title", body, {"accuracies": accuracies}, figure)

writes ``NAME.md``, ``NAME.json`` and ``NAME.png``, named after the script. Every study has the
options ``--seed``, ``--threads``, ``--out`` and ``--quick``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from tqdm import tqdm

import relreps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A bar that is drawn only where someone is looking.
progress = partial(tqdm, disable=None)


class MissingResourceError(RuntimeError):
    """Data or weights that a program needs are not installed; the message says how to get them."""

    def __init__(self, what: str, install: str) -> None:
        super().__init__(f"{what} Install with\n\n    {install}\n")


def run(main: Callable[[], None]) -> None:
    """Call it; what is not installed ends the program with a word about it, and exit code 2."""
    try:
        main()
    except MissingResourceError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


# -------------------------------------------------------------------------------- the command line


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Type of an option: a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def folder_path(text: str) -> Path:
    """Type of an option: a folder that can be written to, found out before anything is computed."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write to {text!r}: {error.strerror}") from error
    return path


class Study:
    """The command line of a study, and the files that it writes."""

    def __init__(self, script: str, doc: str, packages: Sequence[str] = ()) -> None:
        self.name, self.packages = Path(script).stem, packages
        self.parser = argparse.ArgumentParser(
            description=doc.partition("\n")[0], allow_abbrev=False
        )
        self.quick: dict[str, object] = {}
        self.told: list[str] = []  # options that a command has to repeat for the same results
        self.started = time.perf_counter()

    def option(
        self,
        name: str,
        kind: Callable[[str], object],
        default: object,
        help: str,
        quick: object = None,
        **more: object,
    ) -> None:
        """An option with its default, and the default that it has with ``--quick``."""
        shown = "" if quick is None else f"; with --quick: {_words(quick)}"
        help = f"{help} (default: {_words(default)}{shown})"
        action = self.parser.add_argument(name, type=kind, default=default, help=help, **more)
        self.told.append(action.dest)
        if quick is not None:
            self.quick[action.dest] = quick

    def parse(self) -> argparse.Namespace:
        """The options, those that every study has included; sets the number of threads."""
        add = self.parser.add_argument
        self.option("--seed", whole_number(0, 10**6), 0, "of everything random")
        add("--threads", type=whole_number(1, 1024), default=1, help="of PyTorch (default: 1)")
        add("--quick", action="store_true", help="a run that shows nothing but that it runs")
        files = f"{self.name}.{{md,json,png}}"
        add("--out", type=folder_path, default="outputs", help=f"folder for {files}")
        if "--quick" in sys.argv[1:]:
            self.parser.set_defaults(**self.quick)
        self.options = self.parser.parse_args()
        torch.set_num_threads(self.options.threads)
        self.started = time.perf_counter()
        return self.options

    @property
    def command(self) -> str:
        """What to type for the same results; where they go is left out."""
        told = [
            f"--{name.replace('_', '-')} {_words(getattr(self.options, name))}"
            for name in self.told
        ]
        flags = ["--quick"] * self.options.quick
        return " ".join((f"python studies/{self.name}.py", *told, *flags))

    def write(
        self,
        title: str,
        body: str,
        results: Mapping[str, object],
        figure: Figure | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """Print the report, and write it with the numbers that it rests on and the picture."""
        print(f"\n{body}\n")
        facts = find_facts(self.command, self.options.seed, self.packages, versions)
        write_results(self.options.out, self.name, title, body, {**facts, **results}, figure)
        print(f"Took {time.perf_counter() - self.started:.0f} s.")


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# -------------------------------------------------------------------------------------- the tables


class Score(NamedTuple):
    """A measure over the draws."""

    values: list[float]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """Sample deviation; None for one draw."""
        if len(self.values) == 1:
            return None
        squares = sum((value - self.mean) ** 2 for value in self.values)
        return (squares / (len(self.values) - 1)) ** 0.5

    def __format__(self, spec: str) -> str:
        """Mean ± sample deviation, each by the format, ``.3f`` without one."""
        spec = spec or ".3f"
        return format(self.mean, spec) + ("" if self.std is None else f" ± {self.std:{spec}}")

    def __str__(self) -> str:
        return f"{self:.3f}"

    def as_json(self) -> dict[str, object]:
        rounded = [round(value, 5) for value in self.values]
        std = None if self.std is None else round(self.std, 5)
        return {"mean": round(self.mean, 5), "std": std, "values": rounded}


def as_json(tree: object) -> object:
    """The same dictionaries with words as keys, and scores as their numbers."""
    if isinstance(tree, Score):
        return tree.as_json()
    if isinstance(tree, Mapping):
        return {str(key): as_json(value) for key, value in tree.items()}
    return tree


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def bullets(lines: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


# ------------------------------------------------------------------------------------- the results


def find_facts(
    command: str, seed: int, packages: Sequence[str], versions: Mapping[str, str] | None = None
) -> dict[str, object]:
    """All that the numbers depend on; ``versions`` are those of what is no package."""
    cpu, info = platform.processor(), Path("/proc/cpuinfo")
    if info.exists():
        names = re.findall(r"^model name\s*: (.*)", info.read_text(), re.MULTILINE)
        cpu = names[0] if names else cpu
    threads = torch.get_num_threads()
    return {
        "command": command,
        "seed": seed,
        "machine": f"{platform.system()} {platform.machine()}, {cpu}, threads: {threads}",
        "versions": {
            "relreps": relreps.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "numpy", "scipy", *packages)},
            **(versions or {}),
        },
    }


def write_results(
    folder: Path,
    name: str,
    title: str,
    body: str,
    results: Mapping[str, object],
    figure: Figure | None = None,
) -> None:
    """The report, the numbers that it rests on with `find_facts`, and the picture, if any."""
    facts = {**results["versions"], "machine": results["machine"]}
    head = f"# {title}\n\nWritten by `{results['command']}`. Do not edit."
    tail = f"## Versions\n\n{bullets([f'{key}: {value}' for key, value in facts.items()])}"
    lines = json.dumps(as_json(results), indent=1)
    lines = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), lines)
    write(folder / f"{name}.json", lines + "\n")
    write(folder / f"{name}.md", f"{head}\n\n{body.strip()}\n\n{tail}\n")
    written = [f"{name}.json", f"{name}.md"]
    if figure is not None:
        figure.savefig(folder / f"{name}.png", dpi=160)
        written.append(f"{name}.png")
    print(f"Written to {folder}: {', '.join(written)}.")


def write(path: Path, text: str) -> None:
    """Write under another name first: a reader never sees half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
