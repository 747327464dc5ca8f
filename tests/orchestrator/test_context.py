"""Pieces of context, and what refusing them must leave behind."""

import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.context import Edit, SessionContext


class Mirror:
    """Applies edits, as the scheduler does."""

    def __init__(self, context: SessionContext) -> None:
        self.tokens = context.head.tolist()

    def apply(self, edit: Edit) -> None:
        self.tokens = [*self.tokens[: edit.keep], *edit.tail.tolist()]


@pytest.mark.parametrize("add_bos", [False, True])
def test_edits_follow_the_text(add_bos: bool) -> None:
    context = SessionContext(ByteTokenizer(), add_bos=add_bos)
    mirror = Mirror(context)
    mirror.apply(context.append(None))
    mirror.apply(context.append("grün"))
    context.append("refused").undo()
    mirror.apply(context.append("e Äpfel"))
    context.update("other", keep_tokens=0, keep_chars=2).undo()
    mirror.apply(context.update("ße", keep_tokens=0, keep_chars=3))
    mirror.apply(context.update(None, keep_tokens=0, keep_chars=4))
    assert mirror.tokens == ([256] if add_bos else []) + list("grüß".encode())


@pytest.mark.parametrize("add_bos", [False, True])
def test_edits_follow_the_ids(add_bos: bool) -> None:
    context = SessionContext(ByteTokenizer(), add_bos=add_bos)
    mirror = Mirror(context)
    mirror.apply(context.append([1, 2, 3]))
    context.append([9, 9]).undo()
    mirror.apply(context.append(np.asarray([4], np.int64)))
    mirror.apply(context.update([7], keep_tokens=2, keep_chars=0))
    mirror.apply(context.append(()))
    assert mirror.tokens == ([256] if add_bos else []) + [1, 2, 7]


def test_a_refused_first_piece_leaves_the_kind_open() -> None:
    context = SessionContext(ByteTokenizer(), add_bos=False)
    context.append("text").undo()
    assert context.append([1]).tail.tolist() == [1]
    with pytest.raises(InvalidArgument, match="content is text, but this session's context is token ids"):
        context.append("text")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 258], "token id 258 at position 1"),
        ([-1], "token id -1 at position 0"),
        ([1 << 80], "no list of token ids|token id"),
        ([1.5], "no list of token ids"),
        ([[1], [2]], "2 dimensions"),
        ([[1], [2, 3]], "no list of token ids"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_bad_content_is_refused(content: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        SessionContext(ByteTokenizer(), add_bos=False).append(content)  # type: ignore[arg-type]


def test_what_is_kept_is_checked() -> None:
    text, ids = (SessionContext(ByteTokenizer(), add_bos=True) for _ in range(2))
    text.append("abc")
    ids.append([1, 2])
    for context, content, keep_tokens, keep_chars, message in (
        (text, "x", 0, 4, "keep_chars is 4, but the context has 3"),
        (text, "x", 1, 0, "use keep_chars"),
        (text, None, 1, 0, "use keep_chars"),
        (text, [1], 0, 0, "content is token ids"),
        (ids, [1], 3, 0, "keep_tokens is 3, but the context has 2"),
        (ids, [1], -1, 0, "keep_tokens is -1"),
        (ids, None, 0, 1, "use keep_tokens"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            context.update(content, keep_tokens=keep_tokens, keep_chars=keep_chars)
    assert text.append("").keep == 4
    assert ids.append(None).keep == 3
