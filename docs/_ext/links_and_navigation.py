"""Pages that the navigation does not name, and links that leave this folder.

A page that docs/index.md names nowhere goes under "More", so that a new page is in the site before somebody has put it
in its place. Links to files of the repository become downloads; a folder cannot be one, so its name stands there as
text. Either must exist, or the build fails.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)\)")
_TREE = re.compile(r"```{toctree}\n(.*?)```", re.DOTALL)


def named_pages(index: str) -> list[str]:
    """The pages that the toctrees of an index name, without `.md`; an entry is `page` or `title <page>`."""
    lines = [line.strip() for tree in _TREE.findall(index) for line in tree.splitlines()]
    entries = [line for line in lines if line and not line.startswith(":")]
    return [entry.rpartition("<")[2].rstrip(">") for entry in entries]


def _read(app: "Sphinx", page: str, source: list[str]) -> None:
    folder = Path(app.srcdir, page).parent
    source[0] = _LINK.sub(lambda link: _outside(Path(app.srcdir), folder, page, link), source[0])
    if page == app.config.root_doc:
        source[0] += _more(sorted(app.env.found_docs - {page, *named_pages(source[0])}))


def _outside(root: Path, folder: Path, page: str, link: re.Match[str]) -> str:
    target = (folder / link[2]).resolve()
    if target.is_relative_to(root):
        return link[0]
    if not target.exists():
        from sphinx.util import logging

        logging.getLogger(__name__).warning("a link to %s, which does not exist", link[2], location=page)
    return link[1] if target.is_dir() else link[0]


def _more(pages: list[str]) -> str:
    return "\n```{toctree}\n:caption: More\n:hidden:\n\n" + "\n".join(pages) + "\n```\n" if pages else ""


def setup(app: "Sphinx") -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
