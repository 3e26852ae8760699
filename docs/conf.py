"""Sphinx configuration. `make docs` builds the site; no page needs the network to build."""

import json
import re
import runpy
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

from relreps import __version__
from relreps.metrics import measures_markdown
from relreps.testing.table import invariance_markdown, symmetry_markdown

project = "relreps"
author = "relreps contributors"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_generated"]


def benchmark_tables(path):
    """The recorded ratios and peaks of memory as Markdown."""
    record = json.loads(path.read_text(encoding="utf-8"))
    machine = ", ".join(f"{key} {value}" for key, value in record["machine"].items())
    lines = [f"Recorded with {machine}.", ""]
    lines += ["| what | peer | ratio | quartiles | target |", "| --- | --- | --: | --- | --- |"]
    for r in record["ratios"]:
        low, high = r["quartiles"]
        verdict = "met" if r["met"] else "**missed**"
        target = "" if r["target"] is None else f"{r['target']:.2f}, {verdict}"
        cells = r["comparison"], f"`{r['peer']}`", f"{r['ratio']:.2f}", f"{low:.2f} to {high:.2f}"
        lines += [f"| {' | '.join(cells)} | {target} |"]
    lines += [
        "",
        "Peak memory beyond the input:",
        "",
        "| what | MiB | limit |",
        "| --- | --: | --: |",
    ]
    for m in record["memory"]:
        limit = "" if m["limit_mib"] is None else str(m["limit_mib"])
        lines += [f"| {m['case']} | {m['mib']:.0f} | {limit} |"]
    return "\n".join(lines)


def robustness_tables(path):
    """What random inputs were tried on each public name, and what became of them."""
    record = json.loads(path.read_text(encoding="utf-8"))
    names, of = record["names"], ("tried", "refused", "warned", "nan_in", "broken")
    total = {what: sum(count[what] for count in names.values()) for what in of}
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        f"`{record['command']}`, with {versions}: {total['tried']:,} inputs to {len(names)} public "
        f"names. {total['refused']:,} were refused, {total['warned']:,} answered with a warning, "
        f"{total['nan_in']:,} held NaN, and {total['broken']:,} broke a promise.",
        "",
        "What may be wrong with the rows: " + ", ".join(record["rows"]) + ".",
        "",
        "| public name | tried | refused | with a warning | with NaN | broke a promise |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, count in names.items():
        lines.append(f"| `{name}` | " + " | ".join(f"{count[what]:,}" for what in of) + " |")
    lines += ["", "Not tried:", "", "| public name | why |", "| --- | --- |"]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(record["left_out"].items())]
    return "\n".join(lines)


# Tables come from the code and from recorded results, not from somebody's memory of them.
generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
(generated / "invariances.md").write_text(invariance_markdown(), encoding="utf-8")
(generated / "symmetries.md").write_text(symmetry_markdown(), encoding="utf-8")
(generated / "measures.md").write_text(measures_markdown(), encoding="utf-8")
runpy.run_path(str(Path(__file__).with_name("gallery.py")))["main"](generated / "gallery")
results = Path(__file__).parents[1] / "benchmarks" / "results" / f"{__version__}.json"
(generated / "benchmarks.md").write_text(benchmark_tables(results), encoding="utf-8")
robustness = Path(__file__).parents[1] / "results" / "robustness.json"
(generated / "robustness.md").write_text(robustness_tables(robustness), encoding="utf-8")

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {
    "exclude-members": "extra_repr",
    "inherited-members": "Module,tuple",  # up to the layers of torch and to named tuples
    "show-inheritance": True,
}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape"]

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"relreps {release}"


def setup(app):
    """Formulas become MathML while the site is built: readers need no script and no network."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))


def visit_math(translator, node):
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    # Two names that the converter does not know, in words that it does.
    latex = node.astext().replace(r"\operatorname{", r"\mathrm{").replace(r"\arg", r"\mathrm{arg}")
    mathml = convert(latex, display=display)
    leftover = re.search(r"\\[A-Za-z]+", mathml)
    if leftover:
        raise ValueError(f"{leftover.group()} is unknown to the converter, in {latex!r}")
    translator.body.append(
        f'<div style="padding: 0.4em 0">{mathml}</div>' if display == "block" else mathml
    )
    raise nodes.SkipNode
