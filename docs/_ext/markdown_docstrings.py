"""Docstrings are written with fences of Markdown; reStructuredText, which autodoc reads, has its own."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def fences_to_directives(lines: list[str]) -> list[str]:
    """Replaces fenced blocks by `code-block` directives."""
    result: list[str] = []
    is_inside = False
    for line in lines:
        if line.lstrip().startswith("```"):
            if not is_inside:
                result += [f".. code-block:: {line.strip('` ') or 'text'}", ""]
            is_inside = not is_inside
            continue
        result.append(f"   {line}" if is_inside and line else line)
    return result


def _process(app: "Sphinx", what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = fences_to_directives(lines)


def setup(app: "Sphinx") -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", _process, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
