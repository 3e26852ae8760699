"""What the page on exports says is what comes out of its command."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "exports.py"

if not SCRIPT.exists():
    pytest.skip("not in the source distribution", allow_module_level=True)
spec = importlib.util.spec_from_file_location("exports", SCRIPT)
exports = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exports)


def page():
    """The answers of the table, by name of the layer and of the way."""
    text = (ROOT / "docs" / "export.md").read_text()
    lines = re.search(r"<!-- exports.*?\n\n(.*?)\n\n<!-- end", text, re.DOTALL).group(1)
    head, _, *rows = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines.split("\n")
    )
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_the_page_has_every_layer_and_every_way():
    assert page().keys() == exports.layers().keys()
    for row in page().values():
        assert row.keys() == exports.WAYS.keys() | exports.ONNX.keys()


@pytest.mark.parametrize("way", exports.WAYS)
@pytest.mark.parametrize("layer", exports.layers())
def test_the_page_says_where_a_layer_arrives(layer, way):
    wanted = {"yes": True, "no": False}[page()[layer][way]]
    assert exports.arrives(exports.WAYS[way], exports.layers()[layer]) == wanted
