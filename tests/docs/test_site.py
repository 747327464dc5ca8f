"""What the site is made of: pages, their navigation, links and pictures. `make docs` builds it, and fails on more."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import s2l.client

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS / "_ext"))
PAGES = sorted(DOCS.rglob("*.md"))
LINKS = re.compile(r"!?\[[^\]]+\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def _extension(name: str) -> Any:
    return __import__(name)


def test_the_navigation_names_each_page_once() -> None:
    named = _extension("links_and_navigation").named_pages((DOCS / "index.md").read_text())
    assert len(named) == len(set(named)) > 15
    assert [name for name in named if not (DOCS / f"{name}.md").is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_and_pictures_exist(page: Path) -> None:
    for target, _ in LINKS.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_links_and_pictures_are_found() -> None:
    text = "[a](b.md) ![c](d.svg) [e](https://f.g) [h](#i) [j](k.md#l)"
    assert [target for target, _ in LINKS.findall(text)] == ["b.md", "d.svg", "k.md"]


def test_pages_that_nobody_named_are_in_the_navigation_all_the_same() -> None:
    extension = _extension("links_and_navigation")
    index = "```{toctree}\n:caption: Use\n\nquickstart\nTitle <one/two>\n```\n" + extension._more(["fresh"])
    assert extension.named_pages(index) == ["quickstart", "one/two", "fresh"]
    assert extension._more([]) == ""


def test_all_of_the_client_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "client.md").read_text()
    named = re.findall(r"^\.\. autoclass:: (\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(name for name in s2l.client.__all__ if name != "Event")  # a union of others


def test_docstrings_become_restructured_text() -> None:
    lines = ["Text.", "", "```python", "x = 1", "", "y = 2", "```", "More."]
    assert _extension("markdown_docstrings").fences_to_directives(lines) == [
        "Text.",
        "",
        ".. code-block:: python",
        "",
        "   x = 1",
        "",
        "   y = 2",
        "More.",
    ]


def test_http_reference_has_every_path_and_object() -> None:
    extension = _extension("http_reference")
    schema = extension.server_schema()
    text = extension.tables(schema)
    assert "## `POST /v1/sessions/{session_id}/append`" in text
    for path, methods in schema["paths"].items():
        assert all(f"## `{method.upper()} {path}`" in text for method in methods)
    links = set(re.findall(r"\]\(#(\w+)\)", text))
    assert links and links <= {name.lower() for name in schema["components"]["schemas"]}
    assert all(f"### {name}\n" in text for name in schema["components"]["schemas"])


def test_pictures_are_those_of_the_program() -> None:
    text = (DOCS / "pictures" / "draw.py").read_text()
    drawn = re.findall(r'^    "([\w-]+)": \w+,$', text, re.MULTILINE)
    assert sorted(drawn) == sorted(path.stem for path in (DOCS / "pictures").glob("*.svg"))
    shown = "".join(page.read_text() for page in PAGES)
    assert all(f"(pictures/{name}.svg)" in shown for name in drawn)
