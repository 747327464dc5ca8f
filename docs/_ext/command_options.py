"""Texts of the command line, whose options are written for a terminal, in reStructuredText."""

from typing import Any

import click
from sphinx.application import Sphinx

_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "*|_\\"})


def _escape(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    lines[:] = [line.translate(_SPECIAL) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    for event in ("sphinx-click-process-description", "sphinx-click-process-epilog"):
        app.connect(event, _escape)
    return {"parallel_read_safe": True}
