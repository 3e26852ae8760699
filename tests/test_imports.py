"""What an import costs, what it offers, and what is said when an optional package is missing."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import relreps
from relreps._core.optional import require

HEAVY = ("scipy", "ot", "sklearn", "matplotlib", "torchmetrics")


def submodules(public_only=False):
    names = (info.name for info in pkgutil.walk_packages(relreps.__path__, "relreps."))
    return [n for n in names if not (public_only and any(p[0] == "_" for p in n.split(".")))]


def declaring():
    modules = map(importlib.import_module, ["relreps", *submodules(public_only=True)])
    return [module for module in modules if hasattr(module, "__all__")]


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def loads_nothing_heavy(*modules):
    check = f"import sys; sys.exit(str([m for m in {HEAVY} if m in sys.modules] or ''))"
    done = run(f"import {', '.join(modules)}; {check}")
    return not done.stderr.strip(), done.stderr


def test_no_import_loads_an_optional_or_heavy_package():
    bridges = "relreps.integrations."  # each of these is for those who have its package
    modules = [name for name in submodules() if not name.startswith(bridges)]
    light, message = loads_nothing_heavy("relreps", *modules)
    assert light, message


@pytest.mark.parametrize("package", ["scipy", "matplotlib"])
def test_the_import_test_can_fail(package):
    light, message = loads_nothing_heavy("relreps", package)
    assert not light
    assert package in message


@pytest.mark.parametrize("module", declaring(), ids=lambda module: module.__name__)
def test_all_is_what_exists(module):
    assert len(module.__all__) == len(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)
    defined = {
        name
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", "").startswith(module.__name__)
    }
    assert defined <= set(module.__all__)


def test_every_submodule_says_what_it_is_for():
    assert all(importlib.import_module(name).__doc__ for name in submodules())


def test_plots_without_matplotlib_name_the_extra():
    done = run(
        "import sys; sys.modules['matplotlib'] = None\n"
        "import torch, relreps.plots as plots\n"
        "plots.plot_image_rows({'x': torch.ones(1, 2, 2)})"
    )
    assert "plot_image_rows needs matplotlib, which is not installed" in done.stderr
    assert "pip install 'relreps[plots]'" in done.stderr


def test_require_gives_the_module():
    assert require("json.decoder", extra="x", purpose="y") is sys.modules["json.decoder"]


def test_require_does_not_blame_a_package_that_is_there(tmp_path, monkeypatch):
    (tmp_path / "incomplete.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        require("incomplete", extra="plots", purpose="this test")
