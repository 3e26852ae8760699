"""Every example in the documentation runs: docstrings, and the Python blocks of Markdown files."""

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import relreps

ROOT = Path(__file__).parents[1]
MODULES = ["relreps", *(m.name for m in pkgutil.walk_packages(relreps.__path__, "relreps."))]
PAGES = [page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if page.exists()]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text):
    """The Python blocks of a page, on the lines where they stand in it."""
    return ["\n" * text.count("\n", 0, b.start(1)) + b.group(1) for b in BLOCK.finditer(text)]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    public = {name: getattr(relreps, name) for name in relreps.__all__}
    names = {**public, **vars(module), "torch": torch, "nn": nn, "relreps": relreps}
    runner = doctest.DocTestRunner()
    report = []
    for example in doctest.DocTestFinder().find(module, extraglobs=names):
        torch.manual_seed(0)
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks(page.read_text())
    assert code or page.name != "README.md", "the first page has to have an example"
    module = ModuleType(f"page_{page.stem}")  # classes are pickled, and compiled, by their module
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in code:
        exec(compile(block, page, "exec"), vars(module))


def test_a_wrong_block_is_found():
    (block,) = blocks("text\n```python\nx = 1\nassert x == 2\n```\n```bash\nx\n```\n")
    with pytest.raises(AssertionError) as error:
        exec(block)
    assert error.traceback[-1].lineno + 1 == 4


@pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="not in the source distribution")
def test_commands_that_are_named_are_targets_and_all_are_explained():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [page.read_text() for page in (*PAGES, ROOT / "CONTRIBUTING.md")]
    named = [set(re.findall(r"(?:`|^)make ([a-z-]+)", page, re.MULTILINE)) for page in pages]
    assert set.union(*named) <= targets
    assert targets - {"help"} <= named[-1]
