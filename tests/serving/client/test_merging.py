"""Several sources' lists as one, and the threads and tasks that ask them."""

import asyncio
import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_jax.core.errors import InvalidArgument
from serving.client import AsyncContext, Context, Document
from serving.client.adapters.merging import Merger, find_all, find_all_async
from serving.client.adapters.runs import Runs
from tests.serving.client.context_lists import AsyncEchoSession, EchoSession

TIMEOUT_S = 10


def _documents(letters: str) -> list[Document]:
    return [Document(letter) for letter in letters]


def _letters(documents: list[Document]) -> str:
    return "".join(one.text for one in documents)


@pytest.mark.parametrize(
    ("lists", "merged"),
    [
        (["abc"], "abc"),
        (["aba"], "ab"),
        (["ab", "cd"], "acbd"),
        (["ab", "bc"], "bac"),  # in both lists
        (["abc", "", "cab"], "acb"),
        ([], ""),
    ],
)
def test_merged(lists: list[str], merged: str) -> None:
    merger = Merger()
    for source, letters in reversed(list(enumerate(lists))):
        merger.put(source, _documents(letters))
    assert _letters(merger.merged()) == merged


@given(st.lists(st.text("abcdef", max_size=6), max_size=4), st.randoms(use_true_random=False))
def test_who_answers_first_makes_no_difference(lists: list[str], random: object) -> None:
    one, other = Merger(), Merger()
    numbered = list(enumerate(lists))
    for source, letters in numbered:
        one.put(source, _documents(letters))
    random.shuffle(numbered)  # type: ignore[attr-defined]
    for source, letters in numbered:
        other.put(source, _documents("wrong"))
        other.put(source, _documents(letters))
    assert one.merged() == other.merged()
    assert set(_letters(one.merged())) == set("".join(lists)) and len(one.merged()) == len(set("".join(lists)))


def test_threads_show_what_there_is_as_it_comes() -> None:
    is_shown = threading.Event()
    context = Context(EchoSession(), order="stable", render=lambda one: one.text)  # type: ignore[arg-type]

    def slow() -> list[Document]:
        assert is_shown.wait(TIMEOUT_S)  # the other one's answer is shown while this one still looks
        return _documents("ba")

    def fast() -> list[Document]:
        threading.Timer(0.01, _set_when_shown, (context, is_shown)).start()
        return _documents("bc")

    assert _letters(find_all(context, [slow, fast])) == "bac"
    assert [step.documents for step in context.steps] == [2, 3]
    assert _letters(list(context.documents)) == "bca"


def _set_when_shown(context: Context, is_shown: threading.Event) -> None:
    while not context.steps:
        threading.Event().wait(0.001)
    is_shown.set()


def test_tasks_show_what_there_is_as_it_comes() -> None:
    async def run() -> AsyncContext:
        is_shown = asyncio.Event()
        context = AsyncContext(AsyncEchoSession(), render=lambda one: one.text)  # type: ignore[arg-type]

        async def slow() -> list[Document]:
            await asyncio.wait_for(is_shown.wait(), TIMEOUT_S)
            return _documents("ba")

        async def fast() -> list[Document]:
            return _documents("bc")

        async def watch() -> None:
            while not context.steps:
                await asyncio.sleep(0)
            is_shown.set()

        watching = asyncio.create_task(watch())
        assert _letters(await find_all_async(context, [slow, fast])) == "bac"
        await watching
        return context

    assert [step.documents for step in asyncio.run(run()).steps] == [2, 3]


def test_errors_of_a_retriever_reach_the_caller_and_leave_the_context_in_use() -> None:
    def fail() -> list[Document]:
        raise ConnectionError("no such index")

    context = Context(EchoSession())  # type: ignore[arg-type]
    with pytest.raises(ConnectionError, match="no such index"):
        find_all(context, [fail, partial(_documents, "a")])
    with pytest.raises(InvalidArgument, match="no retriever"):
        find_all(context, [])
    context.show(["b"])


def test_a_failing_task_cancels_the_others() -> None:
    ended = []

    async def run() -> None:
        async def fail() -> list[Document]:
            await asyncio.sleep(0.01)
            raise ConnectionError("no such index")

        async def hang() -> list[Document]:
            try:
                await asyncio.sleep(TIMEOUT_S)
            finally:
                ended.append("cancelled")
            return []

        with pytest.raises(ConnectionError):
            await find_all_async(AsyncContext(AsyncEchoSession()), [hang, fail])  # type: ignore[arg-type]

    asyncio.run(run())
    assert ended == ["cancelled"]


def test_what_a_run_found_replaces_what_its_parts_found() -> None:
    runs = Runs()
    for run, parent in (("chain", None), ("ensemble", "chain"), ("map", "ensemble"), ("left", "map"), ("right", "map")):
        runs.start(run, parent)
    runs.start("other", "chain")
    assert _letters(runs.found("right", _documents("xy"))) == "xy"
    assert _letters(runs.found("left", _documents("ab"))) == "axby"
    assert _letters(runs.found("ensemble", _documents("ya"))) == "ya"
    assert _letters(runs.found("other", _documents("z"))) == "yza"
