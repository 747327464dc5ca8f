"""Readable text of a web page."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

_CONTENT = ("main", "[role=main]", "article", "body")
_CLUTTER = "script, style, noscript, template, svg, nav, header, footer, aside, form, button, iframe"
_BLOCKS = frozenset(
    "address article blockquote br dd div dl dt figcaption h1 h2 h3 h4 h5 h6 li main ol p pre section table td th tr ul".split()  # noqa: E501, SIM905
)
_CHARSET_BYTES = 2048
_CHARSET = re.compile(rb"""<meta[^>]+charset=["']?([\w-]+)""", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


def decode_html(body: bytes, charset: str | None) -> str:
    """A page as text: in the encoding that the server named, else the one that the page names, else UTF-8."""
    declared = _CHARSET.search(body[:_CHARSET_BYTES])
    name = charset or (declared[1].decode("ascii") if declared else "utf-8")
    try:
        return body.decode(name, "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def text_of_html(html: str) -> str:
    """The text of a page's main part, one block a line, without navigation and scripts.

    Raises:
      ValueError: the page has no readable text.
    """
    tree = LexborHTMLParser(html)
    title = tree.css_first("title")
    root = next((node for node in map(tree.css_first, _CONTENT) if node is not None), None)
    if root is None:
        raise ValueError("the page has no readable text")
    for node in root.css(_CLUTTER):
        node.decompose()
    lines = (line.rstrip() for line in "".join(_texts(root)).replace("\n ", "\n").splitlines())
    body = "\n".join(line for line in lines if line).strip()
    if not body:
        raise ValueError("the page has no readable text")
    heading = " ".join(title.text().split()) if title is not None else ""
    return f"{heading}\n{body}" if heading and not body.startswith(heading) else body


def _texts(root: LexborNode) -> Iterator[str]:
    """Text in reading order, a line end around each block; only preformatted text keeps its own spaces."""
    stack: list[tuple[LexborNode | None, bool]] = [(root, False)]
    while stack:
        node, is_pre = stack.pop()
        if node is None:
            yield "\n"
        elif node.tag == "-text":
            text = node.text_content or ""
            yield text.replace("\n ", "\n  ") if is_pre else _SPACE.sub(" ", text)
        else:
            if node.tag in _BLOCKS:
                yield "\n"
                stack.append((None, False))
            is_pre = is_pre or node.tag == "pre"
            stack.extend((child, is_pre) for child in reversed(list(node.iter(include_text=True))))
