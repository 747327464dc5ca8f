"""How the site is built: `make docs`. Pages are the Markdown files of this folder; docs/index.md is the navigation."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "s2l"
author = "the authors of s2l"
version = release = version_of("s2l-jax")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "command_options",
    "http_reference",
    "links_and_navigation",
    "markdown_docstrings",
]
exclude_patterns = ["_ext", "_templates", "pictures"]
templates_path = ["_templates"]
smartquotes = False  # `--option` is not a dash
nitpicky = False  # a type that another package documents is no broken link
default_role = "code"  # docstrings write `name` as Markdown does

myst_heading_anchors = 4
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = f"s2l {release}"
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_center": [],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"**": ["pages.html"]}
html_show_sourcelink = False
html_show_copyright = False
