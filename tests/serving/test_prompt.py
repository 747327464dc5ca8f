"""Prompts that are sent in pieces, and the text of the documents in them."""

import pytest

from serving.client.prompt import PromptPieces, document, pieces_of_template
from serving.commands.html import decode_html, text_of_html


def _chat(messages: list[dict[str, str]]) -> str:
    return "<sys>be kind</sys>" + "".join(f"<{m['role']}>{m['content']}</>" for m in messages) + "<assistant>"


def test_a_template_is_cut_open_where_context_and_question_go() -> None:
    pieces = pieces_of_template(_chat)
    whole = pieces.whole([document("a.txt", "first\n"), document("b.txt", "second")], "Why?")
    assert whole == pieces.before_context + "## a.txt\nfirst\n\n## b.txt\nsecond\n\n" + pieces.tail("Why?")
    assert whole.startswith("<sys>be kind</sys><user>")
    assert whole.endswith("Why?</><assistant>")
    assert whole.index("second") < whole.index("Why?")
    assert not pieces.add_bos
    assert "\x02" not in whole


@pytest.mark.parametrize("render", [lambda messages: "fixed", lambda messages: _chat(messages * 2)])
def test_a_template_that_cannot_be_cut_is_refused(render: object) -> None:
    with pytest.raises(ValueError, match="cut open"):
        pieces_of_template(render)  # type: ignore[arg-type]


def test_without_a_template_the_prompt_is_plain() -> None:
    whole = PromptPieces().whole(["doc"], "Why?")
    assert whole.endswith("Question: Why?\n\nAnswer:")


def test_pages_become_text() -> None:
    html = (
        "<html><head><title> The \n title </title><style>p {}</style></head><body><nav>Home | About</nav><main>"
        "<h1>Head</h1><p>One\n  <b>bold</b> word.<br>New line.</p><ul><li>first</li><li>second</li></ul>"
        "<pre>def f():\n    return 1\n</pre>after<div>block</div>end<script>alert(1)</script></main></body></html>"
    )
    assert text_of_html(html).splitlines() == [
        "The title",
        "Head",
        "One bold word.",
        "New line.",
        "first",
        "second",
        "def f():",
        "    return 1",
        "after",
        "block",
        "end",
    ]


@pytest.mark.parametrize(
    ("declared", "charset", "written"),
    [("iso-8859-1", None, "iso-8859-1"), ("utf-8", "iso-8859-1", "iso-8859-1"), ("klingon", None, "utf-8")],
)
def test_pages_are_read_in_the_encoding_that_is_named(declared: str, charset: str | None, written: str) -> None:
    html = f"<html><head><meta charset='{declared}'></head><body><p>café</p></body></html>"
    assert text_of_html(decode_html(html.encode(written), charset)) == "café"


def test_deep_nesting_is_no_problem() -> None:
    assert text_of_html("<div>" * 5000 + "deep" + "</div>" * 5000).strip() == "deep"


@pytest.mark.parametrize("html", ["", "<html><body><script>x</script></body></html>", "   "])
def test_pages_without_text_are_refused(html: str) -> None:
    with pytest.raises(ValueError, match="no readable text"):
        text_of_html(html)
