"""Would a test notice? The package with one small mistake at a time, against the tests.

A mutant is the package with one operator, number, condition, line or argument changed. It is killed
if a test fails, and survives if none does: then a test is missing, or the change means nothing.

    python scripts/mutate.py                        # 300 mutants, seed 0
    python scripts/mutate.py --count 50 --only translate/ridge
    python scripts/mutate.py --list --count 20      # what would be made

The tests run once on a copy of the tree, to learn which of them reach which line. Then every
mutant gets those that reach its line, the file that mirrors it first and the quick ones first, in a
fork of one process that has torch loaded. The working tree is never written to.

Mutants are drawn by a hash of what they change, so that a change elsewhere leaves the sample as it
is. Survivors that change nothing a user could see are argued in ``tests/mutants.md``; the command
ends with 1 if another one survives, or if an argued one is not there any more.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import difflib
import gc
import hashlib
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ARGUED = ROOT / "tests" / "mutants.md"
TARGETS = (
    *("similarity", "normalization", "moments", "anchors"),
    *("translate", "topo_loss", "metrics"),
)
#: What may kill a mutant; the other tests are of pages, examples and studies.
TESTS = (
    *("core", "similarity", "normalization", "moments", "anchors", "translate", "topo_loss"),
    *("metrics", "projection", "correspondence", "values"),
    *("test_contract.py", "test_invariance.py", "test_spectral_loss.py", "test_stitching.py"),
)
#: Every function there is once the tests are collected.
LIVE: list[FunctionType] = []
#: Where progress is told, whatever pytest does to the standard output.
TERMINAL = os.fdopen(os.dup(1), "w")
BROKEN = 70  # the status of a fork in which this script has failed, not a test
PATIENCE = 30.0  # seconds of tests that a survivor has to pass


# What is changed.


class Mutant(NamedTuple):
    """One change of one file, in characters of its text."""

    file: str
    start: int
    stop: int
    text: str
    what: str

    def applied(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.stop :]

    def lines(self, source: str) -> tuple[str, str]:
        """The first line that differs, before and after, without what surrounds it."""
        pairs = zip(source.splitlines(), self.applied(source).splitlines(), strict=False)
        old, new = next(pair for pair in pairs if pair[0] != pair[1])
        return old.strip(), new.strip()

    def number(self, source: str) -> int:
        """The line that it begins in, from 1."""
        return source.count("\n", 0, self.start) + 1

    def diff(self, source: str) -> str:
        sides = (text.splitlines() for text in (source, self.applied(source)))
        name = f"relreps/{self.file}"
        return "\n".join(difflib.unified_diff(*sides, name, f"{name}: {self.what}", "", "", 1, ""))


COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
SWAPPED = {
    old: new
    for a, b in (
        *(("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("minimum", "maximum")),
        *(("clamp_min", "clamp_max"), ("sum", "mean"), ("any", "all"), ("zeros", "ones")),
        *(("new_zeros", "new_ones"), ("zeros_like", "ones_like"), ("floor", "ceil")),
        *(("log", "log1p"), ("triu", "tril"), ("logical_and", "logical_or")),
    )
    for old, new in ((a, b), (b, a))
}
#: Methods without which the value still has the type that the next one wants.
REMOVED = {
    *("clamp", "clamp_min", "clamp_max", "abs", "sqrt", "square", "neg", "exp", "log"),
    *("detach", "clone", "contiguous", "double", "to", "nan_to_num", "masked_fill", "sort"),
    *("flip", "reciprocal", "cumsum", "conj", "tril", "triu", "round", "sign", "where"),
}


class Places:
    """Where the nodes of a file stand in its text."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.lines = source.splitlines(keepends=True)

    def at(self, line: int, column: int) -> int:
        """Columns of the parser count bytes."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def of(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def text(self, node: ast.expr | ast.stmt) -> str:
        start, stop = self.of(node)
        return self.source[start:stop]


class Finder(ast.NodeVisitor):
    """Every mutant of one file."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.places = file, Places(source)
        self.found: list[Mutant] = []

    def note(self, start: int, stop: int, text: str, what: str) -> None:
        self.found.append(Mutant(self.file, start, stop, text, what))

    def replace(self, node: ast.expr | ast.stmt, text: str, what: str) -> None:
        self.note(*self.places.of(node), text, what)

    def between(self, left: ast.expr, right: ast.expr, sign: tuple[str, str]) -> None:
        """Change the sign that stands between two operands."""
        start, stop = self.places.of(left)[1], self.places.of(right)[0]
        gap = self.places.source[start:stop]
        if gap.count(sign[0]) == 1 and "#" not in gap:
            at = start + gap.index(sign[0])
            self.note(at, at + len(sign[0]), sign[1], f"{sign[0]} became {sign[1]}")

    # What is said, declared or shown is no behaviour to mutate.

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in ("extra_repr", "__repr__", "__str__", "plot", "to_markdown"):
            return
        # A default is a choice: a test could only repeat the number.
        for statement in node.body:
            self.visit(statement)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if all(isinstance(statement, ast.Raise) for statement in node.body) and not node.orelse:
            self.replace(node, "pass", "a refusal is gone")
        self.negated(node.test)
        self.generic_visit(node)

    # What computes.

    def negated(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp):
            self.replace(test, f"not ({self.places.text(test)})", "a condition is negated")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negated(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.negated(node.test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, right, op in zip(sides, sides[1:], node.ops, strict=False):
            if type(op) in COMPARISONS:
                self.between(left, right, COMPARISONS[type(op)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC:
            self.between(node.left, node.right, ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        sign = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, sign)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub | ast.Not):
            self.replace(node, self.places.text(node.operand), "a sign or a `not` is gone")
            if isinstance(node.operand, ast.Constant):  # -1, an axis mostly
                self.replace(node, f"-{node.operand.value + 1}", "another axis or number")
                return
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        match node.value:
            case bool():
                self.replace(node, str(not node.value), "a switch is turned")
            case int():
                self.replace(node, str(node.value + 1), "a number is changed")
            case float():
                self.replace(node, str(2 * node.value or 1.0), "a number is changed")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in ("min", "max", "any", "all"):
            self.replace(node, SWAPPED[node.id], f"{node.id} became {SWAPPED[node.id]}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        stop = self.places.of(node)[1]
        if node.attr in SWAPPED:
            text = SWAPPED[node.attr]
            self.note(stop - len(node.attr), stop, text, f"{node.attr} became {text}")
        if node.attr in ("mT", "T"):
            self.replace(node, self.places.text(node.value), "not transposed")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name) and function.id in ("warn", "NumericalWarning"):
            return
        if isinstance(function, ast.Attribute):
            inner = function.value
            module = isinstance(inner, ast.Name) and inner.id in ("torch", "F", "nn", "math")
            if function.attr == "warn":
                return
            if function.attr in REMOVED and not module:
                self.replace(node, self.places.text(inner), f"without {function.attr}")
        for keyword in node.keywords:
            if keyword.arg in ("keepdim", "dim", "largest", "descending", "weights", "rcond"):
                start, stop = self.places.of(keyword)
                rest = self.places.source[stop:]
                stop += len(rest) - len(rest.lstrip(", ")) if rest[:1] == "," else 0
                self.note(start, stop, "", f"without {keyword.arg}")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":  # of a zip whose sides are as long as each other
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node.value, ast.Call):
            self.replace(node, "pass", "a line is gone")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace(node, "pass", "a line is gone")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        if names and names <= used:
            self.replace(node, "pass", "a line is gone")
        self.generic_visit(node)


def mutants(package: Path) -> dict[str, list[Mutant]]:
    """Every mutant of the files that are looked at, those that are no Python left out."""
    found: dict[str, list[Mutant]] = {}
    for target in TARGETS:
        for path in sorted((package / target).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            file = path.relative_to(package).as_posix()
            finder = Finder(file, source)
            finder.visit(ast.parse(source))
            found[file] = [m for m in finder.found if m.what and _parses(m.applied(source))]
    return found


def _parses(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def sample(package: Path, count: int, seed: int, only: str) -> list[Mutant]:
    """Some mutants, each by a number of its own; those of one line are told apart by order."""
    ranked = []
    for file, made in mutants(package).items():
        if only not in file:
            continue
        source = (package / file).read_text(encoding="utf-8")
        seen: dict[tuple[str, str], int] = {}
        for mutant in made:
            change = mutant.lines(source)
            seen[change] = seen.get(change, -1) + 1
            key = repr((seed, file, change, seen[change]))
            ranked.append((hashlib.sha256(key.encode()).digest(), mutant))
    return [mutant for _, mutant in sorted(ranked)[:count]]


# Which test reaches which line.


class Reach(NamedTuple):
    """What one run of the tests has shown."""

    tests: dict[str, float]  # seconds of each test that passes
    lines: dict[str, dict[int, list[str]]]  # the tests of each line of a file

    def of(self, mutant: Mutant, source: str) -> list[str]:
        """Tests that run the line, or what stands around it if it runs when the file is loaded."""
        lines, number = self.lines.get(mutant.file, {}), mutant.number(source)
        end = source.count("\n", 0, mutant.stop) + 1
        around = [set(range(number, end + 1))]
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                body = set(range(node.lineno, (node.end_lineno or 0) + 1))
                if number in body:
                    around.append(body)
        around = [*sorted(around, key=len), set(lines)]
        for numbers in around:
            tests = {test for n in numbers & set(lines) for test in lines[n]}
            if tests:
                return sorted(tests, key=lambda test: self._order(mutant, test))
        return []

    def _order(self, mutant: Mutant, test: str) -> tuple[int, float, str]:
        folder, _, name = mutant.file.rpartition("/")
        mirror = f"tests/{folder}/"
        far = 2 - test.startswith(mirror) - test.startswith(f"{mirror}test_{name}")
        return far, self.tests[test], test


class _Watch:
    """Tells the coverage which test runs, and notes how long it takes."""

    def __init__(self, measured) -> None:
        self.measured, self.seconds = measured, {}
        self.failed, self.skipped = set(), set()

    def pytest_runtest_logstart(self, nodeid, location):
        self.measured.switch_context(nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)
        if report.skipped:
            self.skipped.add(report.nodeid)


def learn(tree: Path, kept: Path) -> Reach:
    """Run the tests once, or read what a run of the same files has shown."""
    stamp = hashlib.sha256()
    seen = [tree / "tests" / "conftest.py", *tree.glob("relreps/**/*.py")]
    for test in TESTS:
        folder = tree / "tests" / test
        seen += folder.rglob("*.py") if folder.is_dir() else [folder]
    for path in sorted(seen):
        stamp.update(path.read_bytes())
    name = kept / f"reach-{stamp.hexdigest()[:16]}.json"
    if not name.exists():
        print("Running the tests once, to learn which of them reach which line", flush=True)
        part = name.with_suffix(".part")
        status = _forked(tree, lambda: _measure(tree, part), 3600.0, tree / "reach.log")
        if not part.exists():
            raise SystemExit(
                f"The tests did not run ({status}):\n{(tree / 'reach.log').read_text()}"
            )
        part.replace(name)
    read = json.loads(name.read_text())
    order = list(read["tests"])
    lines = {
        file: {int(n): [order[i] for i in tests] for n, tests in of.items()}
        for file, of in read["lines"].items()
    }
    if read["failed"]:
        print(f"{len(read['failed'])} tests fail on the package itself and are left out:")
        print("\n".join(f"  {test}" for test in read["failed"]), flush=True)
    return Reach(read["tests"], lines)


def _measure(tree: Path, name: Path) -> int:
    import pytest
    from coverage import Coverage

    measured = Coverage(data_file=None, source_pkgs=["relreps"], config_file=False)
    watch = _Watch(measured)
    measured.start()
    code = pytest.main([*OPTIONS, *(f"tests/{test}" for test in TESTS)], plugins=[watch])
    measured.stop()
    useless = watch.failed | watch.skipped
    tests = {test: s for test, s in watch.seconds.items() if test not in useless}
    place = {test: i for i, test in enumerate(tests)}
    data, lines = measured.get_data(), {}
    for path in data.measured_files():
        file = Path(path).relative_to(tree / "relreps").as_posix()
        by_line = data.contexts_by_lineno(path)
        lines[file] = {n: [place[c] for c in by_line[n] if c in place] for n in by_line}
    found = {"tests": tests, "failed": sorted(watch.failed), "lines": lines}
    name.write_text(json.dumps(found))
    return int(code)


# Whether a test fails.

OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "--no-header", "--tb=line")


class _Chosen:
    """Keeps these tests, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place),
            key=lambda item: self.place[item.nodeid],
        )


def _forked(tree: Path, call, seconds: float, log: Path) -> int | str:
    """What a call gives as its exit status, in a fork that sees the package of this tree."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            os.setsid()
            os.chdir(tree)
            with log.open("w") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            sys.path.insert(0, str(tree))
            os.environ["PYTHONPATH"] = str(tree)
            code = call()
            sys.stdout.flush()
        except BaseException as error:  # whatever it is, the fork ends here
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout"
        time.sleep(0.02)


def killed_by(mutant: Mutant, tree: Path, reach: Reach, session: Any) -> str:
    """The test that fails for a mutant, ``"timeout"``, or nothing if it survives."""
    path = tree / "relreps" / mutant.file
    source = path.read_text(encoding="utf-8")
    chosen, spent = [], 0.0
    for test in reach.of(mutant, source):
        spent += reach.tests[test] + 0.01
        if chosen and spent > PATIENCE:
            break
        chosen.append(test)
    if not chosen:
        return ""
    codes = changed_codes(source, mutant.applied(source), str(path))
    path.write_text(mutant.applied(source), encoding="utf-8")  # for processes that tests start
    for cached in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        cached.unlink()
    log = tree / "mutant.log"
    log.unlink(missing_ok=True)
    try:
        run = (lambda: _in_place(session, chosen, codes)) if codes else (lambda: _anew(chosen))
        status = _forked(tree, run, 60 + 10 * min(spent, PATIENCE), log)
    finally:
        path.write_text(source, encoding="utf-8")
    if status == BROKEN:
        raise RuntimeError(f"{mutant.file}: {log.read_text(errors='replace')}")
    if status in (0, 5):  # 5: nothing was collected
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.MULTILINE)
    return failed[1] if failed else str(status)


Codes = dict[tuple[str, int], CodeType]


def changed_codes(old: str, new: str, path: str) -> Codes:
    """Code of the functions that differ, by name and place; none if what runs at import differs."""

    def walk(code: CodeType, found: Codes, inside: bool) -> Codes:
        for part in code.co_consts:
            if isinstance(part, CodeType):
                function = bool(part.co_flags & inspect.CO_NEWLOCALS)
                if function and not inside:
                    number = sum(name == part.co_qualname for name, _ in found)
                    found[part.co_qualname, number] = part
                walk(part, found, inside or function)
        return found

    def at_import(tree: ast.Module) -> str:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = [ast.Pass()]
        return ast.dump(tree)

    if at_import(ast.parse(old)) != at_import(ast.parse(new)):
        return {}
    before = walk(compile(old, path, "exec"), {}, False)
    after = walk(compile(new, path, "exec"), {}, False)
    if before.keys() != after.keys():
        return {}
    return {key: after[key] for key in before if before[key] != after[key]}


def _in_place(session: Any, chosen: list[str], codes: Codes) -> int:
    """Run tests that are collected already, with functions that are imported already, changed."""
    sys.dont_write_bytecode = True
    path = next((code.co_filename for code in codes.values()), "")
    live = [f for f in LIVE if f.__code__.co_filename == path]
    for (name, number), code in codes.items():
        lines = sorted({f.__code__.co_firstlineno for f in live if f.__code__.co_qualname == name})
        for function in live:
            at = function.__code__.co_qualname, function.__code__.co_firstlineno
            if at == (name, lines[number]):
                try:
                    function.__code__ = code
                except ValueError:  # it closes over other names than before
                    return _anew(chosen)
    if codes and not any(f.__code__ is code for f in live for code in codes.values()):
        return _anew(chosen)  # of what is only reached through others
    place = {test: i for i, test in enumerate(chosen)}
    items = [item for item in session.items if item.nodeid in place]
    items.sort(key=lambda item: place[item.nodeid])
    for i, item in enumerate(items):
        following = items[i + 1] if i + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            Path("mutant.log").write_text(f"FAILED {item.nodeid}\n")  # pytest has the output
            return 1
    return 0


def _anew(chosen: list[str]) -> int:
    """Run tests in a package that is imported anew: what differs runs at import."""
    import pytest

    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.partition(".")[0] in ("relreps", "tests")]:
        del sys.modules[name]
    files = sorted({test.partition("::")[0] for test in chosen})
    return int(pytest.main([*OPTIONS, "-x", "-ra", *files], plugins=[_Chosen(chosen)]))


# What was argued.


def argued(text: str) -> dict[tuple[str, str, str], str]:
    """Reasons by file and line before and after, from `tests/mutants.md`.

    A section is a file, an item is ``- `before` → `after`: reason``, between backticks enough.
    """
    reasons, file = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            file = line.removeprefix("## ").strip().removeprefix("relreps/")
        match = re.fullmatch(r"- (`+) ?(.+?) ?\1 → \1 ?(.+?) ?\1: (.+)", line)
        if match:
            reasons[file, match[2], match[3]] = match[4]
    return reasons


def stale(reasons: dict[tuple[str, str, str], str], package: Path) -> list[tuple[str, str, str]]:
    """What was argued of lines that are not there any more."""

    def there(file: str, old: str) -> bool:
        path = package / file
        return path.exists() and old in (line.strip() for line in path.read_text().splitlines())

    return [key for key in reasons if not there(*key[:2])]


# The command.


def _copy(tree: Path) -> None:
    """The files that git knows or would add, as they are in the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    with contextlib.redirect_stdout(io.StringIO()):
        compileall.compile_dir(tree / "relreps", quiet=2)


def _warm() -> None:
    """Load what every test needs, once; nothing of the package."""
    import pytest  # noqa: F401
    import scipy.optimize
    import scipy.sparse.csgraph
    import scipy.spatial  # noqa: F401
    import torch

    torch.set_num_threads(1)


class _Host:
    """Judges mutants once pytest has collected every test, instead of running them."""

    def __init__(self, judge) -> None:
        self.judge = judge

    def pytest_runtestloop(self, session):
        gc.collect()
        LIVE.extend(f for f in gc.get_objects() if type(f) is FunctionType)
        gc.freeze()  # or every fork would copy what the collector touches
        self.judge(session)
        session.testscollected, session.testsfailed = 1, 0
        return True


def _work(made: list[Mutant], tree: Path, reach: Reach, out: Path) -> int:
    """Judge these mutants from a process that has collected the tests."""
    import pytest

    def collected() -> int:
        host = _Host(lambda session: _judge(made, tree, reach, out, session))
        return int(pytest.main([*OPTIONS, *(f"tests/{t}" for t in TESTS)], plugins=[host]))

    status = _forked(tree, collected, 1e6, tree / "host.log")
    if status or not out.exists():
        said = (tree / "host.log").read_text(errors="replace")
        print(f"The tests were not collected, or a mutant was not judged ({status}):\n{said}")
    return int(bool(status))


def _judge(made: list[Mutant], tree: Path, reach: Reach, out: Path, session: Any) -> None:
    """A line of the answer file for each mutant."""
    quick = sorted(reach.tests, key=lambda test: (reach.tests[test], test))[:300:3]
    if _forked(tree, lambda: _in_place(session, quick, {}), 600, tree / "mutant.log"):
        said = (tree / "mutant.log").read_text(errors="replace")
        print(f"Tests fail in a fork of the package itself: {said}", file=TERMINAL, flush=True)
        return
    sources = {m.file: (tree / "relreps" / m.file).read_text(encoding="utf-8") for m in made}
    with out.open("a", encoding="utf-8") as answers:
        for mutant in made:
            start = time.monotonic()
            killer = killed_by(mutant, tree, reach, session)
            record = {"mutant": mutant, "killer": killer, "s": time.monotonic() - start}
            answers.write(json.dumps(record) + "\n")
            answers.flush()
            line = mutant.number(sources[mutant.file])
            verdict = killer or "SURVIVES"
            place = f"{mutant.file}:{line}"
            said = f"{record['s']:5.1f} s  {place:36} {mutant.what:28} {verdict[:90]}"
            print(said, file=TERMINAL, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="how many mutants, 300 by default")
    parser.add_argument("--seed", type=int, default=0, help="of the sample, 0 by default")
    parser.add_argument("--skip", type=int, default=0, help="how many of them were judged before")
    parser.add_argument("--only", default="", help="part of the file's path below relreps/")
    parser.add_argument("--jobs", type=int, default=1, help="processes, 1 by default")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    options = parser.parse_args()

    package = ROOT / "relreps"
    made = sample(package, options.count, options.seed, options.only)[options.skip :]
    if options.list:
        for mutant in made:
            print(mutant.diff((package / mutant.file).read_text(encoding="utf-8")), end="\n\n")
        return 0
    reasons = argued(ARGUED.read_text(encoding="utf-8")) if ARGUED.exists() else {}
    kept = ROOT / "outputs" / "mutants"
    kept.mkdir(parents=True, exist_ok=True)
    _warm()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [Path(folder).resolve() / str(i) for i in range(options.jobs)]
        for tree in trees:
            tree.mkdir()
            _copy(tree)
        reach = learn(trees[0], kept)
        answers, workers = Path(folder) / "answers.jsonl", []
        for i, tree in enumerate(trees):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = _work(made[i :: options.jobs], tree, reach, answers)
                finally:
                    os._exit(code)
            workers.append(child)
        failed = [child for child in workers if os.waitpid(child, 0)[1]]
        records = [json.loads(line) for line in answers.read_text().splitlines()]
    if failed or len(records) != len(made):
        print(f"{len(records)} of {len(made)} mutants were judged: a worker has died")
        return 1

    survivors = [Mutant(*r["mutant"]) for r in records if not r["killer"]]
    bad = 0
    print()
    for mutant in sorted(survivors):
        source = (package / mutant.file).read_text(encoding="utf-8")
        reason = reasons.get((mutant.file, *mutant.lines(source)))
        bad += reason is None
        print(mutant.diff(source), f"argued: {reason}" if reason else "SURVIVES", "", sep="\n")
    old = stale(reasons, package)
    for file, before, after in old:
        print(f"{ARGUED.name}: {file} has no line `{before}` any more (-> `{after}`)")
    print(
        f"{len(made)} mutants: {len(made) - len(survivors)} killed, {len(survivors) - bad} argued, "
        f"{bad} survive; {(time.monotonic() - start) / 60:.0f} minutes"
    )
    return int(bool(bad or old))


if __name__ == "__main__":
    sys.exit(main())
