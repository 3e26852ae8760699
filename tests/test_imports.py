"""What an import costs and offers, which way it points, and what is said of what is missing."""

import importlib
import os
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import relreps
from relreps._core.moved import RENAMED, home_of
from relreps._core.optional import require

HEAVY = ("scipy", "ot", "sklearn", "matplotlib", "torchmetrics")

SCRIPT = Path(__file__).parents[1] / "scripts" / "layers.py"
needs_script = pytest.mark.skipif(not SCRIPT.exists(), reason="not in the source distribution")


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


@needs_script
def test_imports_point_downwards_without_circles_into_no_private_room():
    layers = runpy.run_path(str(SCRIPT))
    found = layers["faults"](layers["read_imports"]())
    assert not found, "\n".join(found)


@needs_script
@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("moments/x.py", "from relreps.translate import Translator", "moments/x.py:1"),
        ("moments/x.py", "def f():\n    from relreps.plots import g", "x.py:2: moments imports"),
        ("moments/x.py", "import relreps.stitching", "from stitching, upwards"),
        ("moments/x.py", "from ..stitching import f", "from stitching, upwards"),
        ("sampling.py", "from relreps.similarity import f", "similarity -> sampling -> similarity"),
        ("plots/x.py", "from relreps.metrics._room import f", "what is private there"),
        ("plots/x.py", "from relreps.metrics.room import _f", "what is private there"),
        ("plots/x.py", "from relreps.metrics import room\nroom._f()", "x.py:2: plots imports from"),
        ("plots/x.py", "from relreps._core.checks import _f", "what is private there"),
        ("plots/x.py", "from relreps import Center", "from relreps itself, which has no place"),
        ("new/x.py", "from relreps import metrics", "new imports from metrics, which has no place"),
    ],
)
def test_the_rule_of_imports_can_be_broken(tmp_path, file, code, fault):
    files = {
        "similarity/x.py": "from relreps import sampling",
        "translate/x.py": "from relreps._core import checks\nfrom relreps.translate import _y",
        "plots/_axes.py": "import torch\nfrom relreps.similarity.x import f\ntorch._dynamo",
        "__init__.py": "from relreps.plots import _axes",
    }
    layers = runpy.run_path(str(SCRIPT))
    package = tmp_path / "relreps"
    for part in (*(part for layer in layers["LAYERS"] for part in layer), "new"):
        (package / part).mkdir(parents=True)
    for name, content in files.items():
        (package / name).write_text(content)
    assert layers["faults"](layers["read_imports"](package)) == []
    (package / file).write_text(code)
    found = layers["faults"](layers["read_imports"](package))
    assert len(found) == 1
    assert fault in found[0]


@needs_script
def test_an_import_upwards_is_red():
    layers = runpy.run_path(str(SCRIPT))
    upwards = layers["Import"]("x.py", 1, "moments", "plots", False, True)
    assert 'stroke="#e03131"' not in layers["draw"]([upwards._replace(target="_core")])
    assert 'stroke="#e03131"' in layers["draw"]([upwards])


@needs_script
def test_the_picture_of_the_layers_is_that_of_the_imports():
    layers = runpy.run_path(str(SCRIPT))
    assert layers["PICTURE"].read_text() == layers["draw"](layers["read_imports"]())


def test_the_top_holds_what_people_put_inside_their_models():
    assert 50 <= len(relreps.__all__) <= 64


def below_the_top():
    """Every public name of a package that is not at the top too."""
    packages = [m for m in declaring()[1:] if m.__name__.count(".") == 1]
    names = {name for m in packages for name in m.__all__} | {"spectral_gap", "cyclic_annealing"}
    return sorted(name for name in names if not hasattr(relreps, name))


def test_every_name_that_is_not_at_the_top_says_where_it_lives():
    assert len(below_the_top()) > 80
    for name in (*below_the_top(), *RENAMED):
        home = home_of(name)
        module, _, own = home.rpartition(".")
        assert hasattr(importlib.import_module(module), own)
        assert own == name or name in RENAMED
        with pytest.raises(AttributeError, match=rf"^`relreps\.{name}` is `{home}`: import it"):
            getattr(relreps, name)


def test_a_name_that_is_nowhere_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'relreps' has no attribute 'nothing'"):
        _ = relreps.nothing


FAKES = ("jax", "cupy", "tensorflow")
FOUND_BY_POT = """
import os, sys
import torch
from relreps.correspondence import transport
{before}
transport.sinkhorn(torch.rand(4, 4), 0.1, 10)
print(*[name for name in {fakes} if name in sys.modules], "|", *sorted(
    name for name in os.environ if name.startswith("POT_BACKEND")
))
"""


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ("", "|"),
        ("os.environ['POT_BACKEND_DISABLE_CUPY'] = ''", "cupy | POT_BACKEND_DISABLE_CUPY"),
    ],
)
def test_pot_starts_no_library_that_nobody_asked_for(tmp_path, before, wanted):
    """With others installed; who has set a switch of POT keeps it."""
    for name in FAKES:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was started')\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Seen:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {FAKES}: sys.modules[name + '_seen'] = sys\n"
        "sys.meta_path.insert(0, Seen())\n"
    )
    fakes = tuple(f"{name}_seen" for name in FAKES)
    paths = (str(tmp_path), str(Path(relreps.__file__).parents[1]), os.environ.get("PYTHONPATH"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("POT_BACKEND")}
    done = subprocess.run(
        [sys.executable, "-c", FOUND_BY_POT.format(before=before, fakes=fakes)],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert done.stdout.replace("_seen", "").strip() == wanted
