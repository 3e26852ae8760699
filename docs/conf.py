"""Sphinx configuration. `make docs` builds the site; no page needs the network to build."""

from pathlib import Path

from relreps import __version__
from relreps.testing.table import invariance_markdown, symmetry_markdown

project = "relreps"
author = "relreps contributors"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_generated"]

# Tables come from the code, not from somebody's memory of it.
generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
(generated / "invariances.md").write_text(invariance_markdown(), encoding="utf-8")
(generated / "symmetries.md").write_text(symmetry_markdown(), encoding="utf-8")

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
html_title = f"relreps {release}"
