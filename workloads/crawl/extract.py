"""Text of an HTML page, cut into passages: a heading and what stands under it, no longer than asked for."""

import re
from dataclasses import dataclass
from urllib.parse import urldefrag, urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode

_CONTENT = ("main", "[role=main]", "article", "body")
_CLUTTER = (
    "script, style, nav, header, footer, aside, .headerlink, .sphinxsidebar, .related, .seealso, .toctree-wrapper"
)
_BLOCKS = "h1, h2, h3, h4, h5, h6, dt, p, pre, li, tr"
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a page.

    Attributes:
      heading: nearest heading, or the signature that the text documents.
      text: plain text, paragraphs on lines of their own.
      leads: True if it is the first under its heading.
    """

    heading: str
    text: str
    leads: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says, without its navigation."""

    title: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """Where a page leads to.

    Attributes:
      url: address of the page, without what follows a `#`.
      text: what the link says.
    """

    url: str
    text: str


def extract_links(html: str | bytes, url: str) -> list[Link]:
    """What the text of a page links to, in order; not its navigation, and not itself.

    Args:
      html: the page.
      url: its address, which links may be relative to.
    """
    root = _content(LexborHTMLParser(html))
    links = []
    for node in root.css("a[href]") if root is not None else ():
        target = urldefrag(urljoin(url, node.attributes.get("href") or "")).url
        if target != url:
            links.append(Link(target, _clean(node.text())))
    return links


def extract_page(html: str | bytes, max_chars: int) -> Page:
    """Extracts title and passages.

    Args:
      html: the page; bytes are read in the encoding that they declare.
      max_chars: longest passage; longer text is cut between paragraphs if possible, else between words.
    """
    tree = LexborHTMLParser(html)
    title_node = tree.css_first("title")
    title = _clean(title_node.text()) if title_node else ""
    root = _content(tree)
    if root is None:
        return Page(_short_title(title), ())
    builder = _PassageBuilder(max_chars)
    for node in root.css(_BLOCKS):
        _add_block(builder, node)
    builder.flush()
    return Page(_short_title(title), tuple(builder.passages))


def _content(tree: LexborHTMLParser) -> LexborNode | None:
    """What a page says, without its navigation; None if it says nothing."""
    root = next((node for node in map(tree.css_first, _CONTENT) if node is not None), None)
    if root is not None:
        for node in root.css(_CLUTTER):
            node.decompose()
    return root


def _add_block(builder: "_PassageBuilder", node: LexborNode) -> None:
    if node.tag in _HEADINGS:
        builder.start(_clean(node.text()), joins=False)
    elif node.tag == "dt":
        builder.start(_clean(node.text()), joins=True)
    elif node.tag == "tr":
        builder.add(" | ".join(_clean(cell.text()) for cell in node.css("th, td")))
    elif node.tag == "pre":
        builder.add(node.text().strip("\n"))
    elif node.tag == "li":
        if node.css_first("p, pre, ul, ol, dl") is None:  # else its blocks come by themselves
            builder.add("- " + _clean(node.text()))
    elif not _inside(node, "tr"):
        builder.add(_clean(node.text()))


class _PassageBuilder:
    """Collects blocks under a heading until they are too long or the heading changes."""

    def __init__(self, max_chars: int) -> None:
        self.passages: list[Passage] = []
        self._max_chars = max_chars
        self._heading = ""
        self._joins = False
        self._leads = True
        self._blocks: list[str] = []
        self._chars = 0

    def start(self, heading: str, *, joins: bool) -> None:
        """Begins a heading; headings that join and have no text between them become one."""
        follows = self._joins and self._leads and not self._blocks
        self.flush()
        self._heading = f"{self._heading} {heading}" if joins and follows else heading
        self._joins, self._leads = joins, True

    def add(self, text: str) -> None:
        """Adds text under the current heading."""
        for piece in _split(text, self._max_chars):
            if self._blocks and self._chars + len(piece) + 1 > self._max_chars:
                self.flush()
            self._blocks.append(piece)
            self._chars += len(piece) + 1

    def flush(self) -> None:
        """Ends the passage that is being collected."""
        if self._blocks:
            self.passages.append(Passage(self._heading, "\n".join(self._blocks), self._leads))
            self._blocks, self._chars, self._leads = [], 0, False


def _split(text: str, max_chars: int) -> list[str]:
    """Cuts text into pieces of at most `max_chars`, at line or word ends where there are any."""
    pieces = []
    while len(text) > max_chars:
        cut = max(text.rfind("\n", 1, max_chars), text.rfind(". ", 1, max_chars) + 1, 0)
        if cut < max_chars // 2:
            cut = text.rfind(" ", 1, max_chars)
        cut = cut if cut > 0 else max_chars
        pieces.append(text[:cut].rstrip())
        text = text[cut:].lstrip(" ")
    return [*pieces, text] if text.strip() else pieces


def _inside(node: LexborNode, tag: str) -> bool:
    parent = node.parent
    while parent is not None:
        if parent.tag == tag:
            return True
        parent = parent.parent
    return False


def _clean(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


def _short_title(title: str) -> str:
    """Drops the site's name, which follows the last long dash of a generated title."""
    head, dash, _ = title.rpartition(" — ")
    return head if dash else title
