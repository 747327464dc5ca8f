"""A retriever's lists as a prompt: whatever they are, the server has the last one, and most of what it had before."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_jax.core.errors import FailedPrecondition, InvalidArgument
from serving.client import AsyncContext, Context, Document, PromptPieces, Saved
from serving.client.context_assembly import ORDERS, Order
from serving.client.context_documents import as_it_stands
from tests.serving.client.context_lists import AsyncEchoSession, EchoSession, lists

TEMPLATE = PromptPieces("<", "|", ">", False)
orders = st.sampled_from(ORDERS)


def _context(session: EchoSession, **options: Any) -> Context:
    return Context(session, template=TEMPLATE, **options)  # type: ignore[arg-type]


def _in_documented_order(order: Order, shown: list[list[Document]]) -> list[Document]:
    """What the prompt must hold after all lists: by rank, or who has been in without a break for longest first."""
    last = _each_once(shown[-1])

    def entry(one: Document) -> tuple[int, int]:
        since = len(shown) - 1
        while since > 0 and one.key in [other.key for other in shown[since - 1]]:
            since -= 1
        return since, [other.key for other in _each_once(shown[since])].index(one.key)

    return last if order == "rank" else sorted(last, key=entry)


def _each_once(documents: list[Document]) -> list[Document]:
    seen: dict[Any, Document] = {}
    for one in documents:
        seen.setdefault(one.key, one)
    return list(seen.values())


def _prompt(documents: list[Document]) -> str:
    return "<" + "".join(as_it_stands(one) for one in documents)


@given(lists, orders)
def test_the_server_has_the_template_of_the_last_list_in_the_documented_order(
    shown: list[list[Document]], order: Order
) -> None:
    session = EchoSession("what the session was opened with")
    context = _context(session, order=order)
    for number, documents in enumerate(shown, start=1):
        context.show(documents)
        assert session.text == context.text == _prompt(_in_documented_order(order, shown[:number]))
    context.finish("why?")
    assert session.text == _prompt(_in_documented_order(order, shown)) + "|why?>" and session.is_final


@given(lists)
def test_stable_keeps_what_any_order_of_the_new_list_could_keep(shown: list[list[Document]]) -> None:
    context = _context(EchoSession(), order="stable")
    for documents in shown:
        before, now = context.documents, _each_once(documents)
        context.show(documents)
        could = len(list(itertools.takewhile(now.__contains__, before)))
        assert _in_common(before, context.documents) == could
        assert could >= _in_common(before, now)  # the retriever's order, after the same prompt


def _in_common(before: Sequence[Document], now: Sequence[Document]) -> int:
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))))


@given(lists, orders)
def test_it_sends_the_least_and_reports_what_the_server_says(shown: list[list[Document]], order: Order) -> None:
    session, twin = EchoSession(), EchoSession()
    context, ranked = _context(session, order=order), _context(twin)
    before = None
    for documents in shown:
        sent = len(session.ops)
        step = context.show(documents)
        ranked.show(documents)
        if before is None:
            assert step.op == "update" and step.kept_chars == 0
        elif session.text == before:
            assert step.op is None and len(session.ops) == sent
        else:
            assert step.op == ("append" if session.text.startswith(before) else "update")
            assert step.kept_chars == session.accepted[step.seq].kept_tokens  # not one character is sent in vain
        assert step.kept_chars + step.sent_chars == len(session.text)
        before = session.text
    # This session counts a character as a token, so both units must agree, and so must rank order beside itself.
    total, other = context.savings, ranked.savings
    assert total.saved.kept_tokens == total.kept_chars and total.saved.sent_tokens == total.sent_chars
    assert total.rank_kept_chars == total.rank_kept_tokens == other.kept_chars == other.rank_kept_chars
    assert (total.steps, total.pending) == (len(shown), 0)


@given(lists, orders)
@settings(max_examples=30)
def test_asyncio_does_the_same(shown: list[list[Document]], order: Order) -> None:
    session, twin = AsyncEchoSession(), EchoSession()

    async def run() -> AsyncContext:
        context = AsyncContext(session, order=order, template=TEMPLATE)  # type: ignore[arg-type]
        for documents in shown:
            await context.show(documents)
        await context.finish("why?")
        with pytest.raises(FailedPrecondition):
            await context.finish("again?")
        return context

    context, other = asyncio.run(run()), _context(twin, order=order)
    for documents in shown:
        other.show(documents)
    other.finish("why?")
    assert (session.echo.text, session.echo.ops) == (twin.text, twin.ops)
    assert (context.steps, context.documents) == (other.steps, other.documents)


def test_stable_by_example() -> None:
    context = _context(EchoSession(), order="stable", render=lambda one: one.text)
    for documents, text in (
        ("ab", "<ab"),
        ("cab", "<abc"),  # a newcomer goes behind, whatever its rank
        ("cb", "<bc"),  # what stood behind the one that left moves up
        ("bcc", "<bc"),  # duplicates count once
        ("", "<"),
    ):
        context.show(documents)
        assert context.text == text
    assert [step.op for step in context.steps] == ["update", "append", "update", None, "update"]
    assert [step.kept_chars for step in context.steps] == [0, 3, 1, 3, 1]


def test_a_document_whose_text_changed_keeps_its_place() -> None:
    context = _context(EchoSession(), order="stable", render=lambda one: one.text)
    context.show([Document("one", "1"), Document("two", "2")])
    context.show([Document("new", "3"), Document("two", "2"), Document("onward", "1")])
    assert context.text == "<onwardtwonew"
    assert context.steps[-1].kept_chars == len("<on")


def test_over_several_lists_rank_may_keep_more() -> None:
    """No order that is chosen list by list is best in hindsight; the report says so rather than hide it."""
    context = _context(EchoSession(), order="stable", render=lambda one: one.text)
    for documents in (["x"], ["a long document", "x"], ["a long document", "y"]):
        context.show(documents)
    assert context.savings.kept_chars < context.savings.rank_kept_chars


@pytest.mark.parametrize("order", ORDERS)
def test_caps_take_the_first_of_the_list(order: Order) -> None:
    context = _context(EchoSession(), order=order, max_documents=2, render=lambda one: one.text)
    context.show("aabc")
    context.show("cba")
    assert sorted(one.text for one in context.documents) == ["b", "c"]
    context = _context(EchoSession(), order=order, max_tokens=5, count_tokens=len, render=lambda one: one.text)
    context.show(["12", "345", "6"])
    assert context.text == "<12345"
    context.show(["1", "23456", "7"])
    assert context.text == "<1"  # nothing is cut, and nothing behind it slips in


def test_what_is_not_answered_yet_is_pending() -> None:
    session = EchoSession()
    context = _context(session)
    context.show("a")
    session.accepted.clear()
    assert context.steps[0].saved is None
    assert (context.savings.pending, context.savings.saved, context.savings.rank_kept_tokens) == (1, Saved(), None)


def test_a_failed_send_changes_nothing() -> None:
    session = EchoSession()
    context = _context(session, order="stable")
    context.show("a")
    session.is_final = True
    with pytest.raises(AssertionError):
        context.show("b")
    assert (len(context.steps), context.text, context.documents) == (1, "<a\n\n", (Document("a"),))


def test_misuse_is_told() -> None:
    for options, words in (
        ({"order": "best"}, "rank, stable"),
        ({"max_documents": 0}, "max_documents is 0"),
        ({"max_tokens": -1, "count_tokens": len}, "max_tokens is -1"),
        ({"max_tokens": 5}, "count_tokens"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            _context(EchoSession(), **options)
    context = _context(EchoSession())
    with pytest.raises(InvalidArgument, match="holds a dict"):
        context.show([{"text": "x"}])  # type: ignore[list-item]
    with pytest.raises(InvalidArgument, match="render made None"):
        _context(EchoSession(), render=lambda _: None).show("a")
    with pytest.raises(InvalidArgument, match="id is 7"):
        Document("x", 7)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="text is None"):
        Document(None)  # type: ignore[arg-type]
    context.finish("why?")
    with pytest.raises(FailedPrecondition, match="asked"):
        context.show("a")
