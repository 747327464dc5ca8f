"""Sessions that go on elsewhere: whatever replica is lost when, the tokens are those of a fresh engine."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from s2l_jax.core.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent, TokenEvent
from serving.metrics.readings import ServerFacts
from serving.replicas.router import Router
from serving.watch.observation import observe
from tests.serving.harness import EOS, LETTERS, Sizes, run
from tests.serving.replicas.local_replicas import LocalReplicas, routed

PROMPT = "what comes after this"


class Reader:
    """A session's sink, which calls back after so many tokens."""

    def __init__(self, after: int = 0, act: Callable[[], object] = lambda: None) -> None:
        self.events: list[SinkEvent] = []
        self.is_over = threading.Event()
        self._after, self._act = after, act

    def __call__(self, event: SinkEvent) -> None:
        self.events.append(event)
        if isinstance(event, TokenEvent) and len(self.ids) == self._after:
            self._act()
        if isinstance(event, DoneEvent | FailedEvent):
            self.is_over.set()

    @property
    def ids(self) -> list[int]:
        return [one for event in self.events if isinstance(event, TokenEvent) for one in event.ids]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TokenEvent))

    @property
    def end(self) -> DoneEvent | FailedEvent:
        event = self.events[-1]
        assert isinstance(event, DoneEvent | FailedEvent)
        return event

    async def over(self) -> None:
        assert await asyncio.to_thread(self.is_over.wait, 10)


def over_replicas(count: int, sizes: Sizes | None = None) -> Callable[..., Callable[[], None]]:
    """Runs an asynchronous test over replicas."""

    def wrap(test: Callable[[Router, LocalReplicas], Awaitable[None]]) -> Callable[[], None]:
        # The test's own parameters are the router and the replicas, which pytest must not see.
        def runs() -> None:
            async def body() -> None:
                async with routed(count, sizes) as (router, replicas):
                    await test(router, replicas)

            run(body)

        functools.update_wrapper(runs, test)
        del runs.__wrapped__  # type: ignore[attr-defined]
        return runs

    return wrap


async def opened(router: Router, reader: Reader, **how: Any) -> str:
    ack = await asyncio.to_thread(functools.partial(router.open, sink=reader, **how))
    return ack.session_id


async def whole(router: Router, reader: Reader, params: SamplingParams, prompt: str = PROMPT) -> None:
    await opened(router, reader, params=params, content=prompt, final=True)
    await reader.over()


def wanted(replicas: LocalReplicas, params: SamplingParams, prompt: str = PROMPT) -> list[int]:
    engine = replicas.replicas[1].engine
    return engine.reference_output(list(prompt.encode()), params.max_tokens, params=params, seed=params.seed or 0)


PARAMS = {
    "greedy": SamplingParams(max_tokens=12),
    "sampled": SamplingParams(max_tokens=12, temperature=1.0, seed=7),
    "with logprobs": SamplingParams(max_tokens=12, logprobs=2),
}


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
@pytest.mark.parametrize("after", [1, 5, 11])
def test_a_replica_killed_in_the_middle_of_an_answer_is_not_noticed(after: int, params: SamplingParams) -> None:
    @over_replicas(2)
    async def test(router: Router, replicas: LocalReplicas) -> None:
        reader = Reader(after, lambda: replicas.kill(1))
        await whole(router, reader, params)
        assert reader.ids == wanted(replicas, params)
        assert isinstance(reader.end, DoneEvent)
        assert reader.end.finish_reason == "length"
        assert reader.end.stats.output_tokens == 12
        assert reader.end.stats.prompt_tokens == len(PROMPT)
        assert all(len(event.top) == (params.logprobs is not None) for event in reader.events[:-1])  # type: ignore[union-attr]
        assert router.stats().counters.sessions_resumed == 1
        assert len(replicas.choices[1][1]) == len(PROMPT) + after, "what is known is context for the next one"

    test()


def test_output_that_has_to_be_known_as_such_is_generated_again() -> None:
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=7, frequency_penalty=0.5)

    @over_replicas(2)
    async def test(router: Router, replicas: LocalReplicas) -> None:
        reader = Reader(5, lambda: replicas.kill(1))
        whole_reader = Reader()
        await whole(router, reader, params)
        assert len(replicas.replicas[2].opened[0].open.content.token_ids.ids) == len(PROMPT)
        await whole(router, whole_reader, params)
        assert reader.ids == whole_reader.ids
        assert len(reader.ids) == 12, "and is not told twice"

    test()


@over_replicas(3)
async def test_replicas_may_be_lost_one_after_the_other(router: Router, replicas: LocalReplicas) -> None:
    params = SamplingParams(max_tokens=16)
    reader = Reader()

    def kill_next() -> None:
        replicas.kill(router.stats().counters.sessions_resumed + 1)
        reader._after = 9

    reader._after, reader._act = 4, kill_next
    await whole(router, reader, params)
    assert reader.ids == wanted(replicas, params)
    assert router.stats().counters.sessions_resumed == 2


@over_replicas(2)
async def test_a_stream_goes_on_where_its_context_was(router: Router, replicas: LocalReplicas) -> None:
    reader = Reader()
    name = await opened(router, reader, params=SamplingParams(max_tokens=8), content="one two ")
    first = await asyncio.to_thread(router.append, name, "three")
    assert first.context_tokens == 13
    replicas.kill(1)
    ack = await asyncio.to_thread(functools.partial(router.update, name, "five six", keep_chars=4))
    assert (ack.seq, ack.context_tokens, ack.kept_tokens) == (3, 12, 4)
    await asyncio.to_thread(router.finish, name)
    await reader.over()
    assert reader.text == bytes(replicas.replicas[1].engine.reference_output(list(b"one five six"), 8)).decode()


@over_replicas(2)
async def test_a_router_is_watched_like_a_server(router: Router, replicas: LocalReplicas) -> None:
    seen = observe(router, ServerFacts("fake"))
    reader = Reader(3, lambda: replicas.kill(1))
    name = await opened(router, reader, params=SamplingParams(max_tokens=8), content="one two ", tenant="acme")
    assert seen.book.tenant_of(name) == "acme"
    await asyncio.to_thread(functools.partial(router.update, name, "one three", final=True))
    await reader.over()
    with pytest.raises(InvalidArgument):
        await opened(router, Reader(), params=SamplingParams(max_tokens=10**6), content="x", final=True)
    (record,) = seen.book.ended
    assert [chunk.op for chunk in record.chunks] == ["open", "update"]
    assert (record.output_tokens, record.reason, seen.book.open) == (8, "length", {})
    text = seen.exposition.encode("text/plain")[0].decode()
    labels = '{model_name="fake"}'
    for sample in (
        f"s2l_sessions_opened_total{labels} 1.0",
        f"s2l_sessions_resumed_total{labels} 1.0",
        f"s2l_generation_tokens_total{labels} 8.0",
        f"s2l_time_to_first_token_seconds_count{labels} 1.0",
        's2l_session_errors_total{model_name="fake",status="INVALID_ARGUMENT"} 1.0',
    ):
        assert sample in text, text


@over_replicas(2)
async def test_a_stream_that_waits_moves_by_itself(router: Router, replicas: LocalReplicas) -> None:
    reader = Reader()
    name = await opened(router, reader, params=SamplingParams(max_tokens=4), content="one two ")
    replicas.kill(1)
    async with asyncio.timeout(5):
        while not replicas.replicas[2].opened:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(functools.partial(router.append, name, "three", final=True))
    await reader.over()
    assert reader.text == bytes(replicas.replicas[1].engine.reference_output(list(b"one two three"), 4)).decode()


@over_replicas(1)
async def test_without_another_replica_the_session_fails(router: Router, replicas: LocalReplicas) -> None:
    reader = Reader(3, lambda: replicas.kill(1))
    await whole(router, reader, SamplingParams(max_tokens=12))
    assert isinstance(reader.end, FailedEvent)
    assert isinstance(reader.end.error, Unavailable)
    assert reader.ids == wanted(replicas, SamplingParams(max_tokens=3))
    assert router.unready() is not None
    with pytest.raises(Unavailable):
        await opened(router, Reader(), content="x")


@over_replicas(2)
async def test_an_event_that_finds_nobody_ends_the_session(router: Router, replicas: LocalReplicas) -> None:
    reader = Reader()
    name = await opened(router, reader, content="one")
    replicas.kill(1)
    replicas.kill(2)
    with pytest.raises((Unavailable, NotFound)):
        await asyncio.to_thread(router.append, name, "two")
    await reader.over()
    assert isinstance(reader.end, FailedEvent)


@over_replicas(2, Sizes(max_sessions=1))
async def test_a_full_replica_is_passed_over(router: Router, replicas: LocalReplicas) -> None:
    first, second, third = Reader(), Reader(), Reader()
    names = [await opened(router, first, content="a"), await opened(router, second, content="b")]
    assert [len(replica.opened) for replica in replicas.replicas.values()] == [2, 1]
    with pytest.raises(ResourceExhausted) as refused:
        await opened(router, third, content="c")
    assert refused.value.retry_after_s
    for name in names:
        await asyncio.to_thread(router.cancel, name)
    assert isinstance(first.end, DoneEvent)
    assert first.end.finish_reason == "cancelled"


@over_replicas(1)
async def test_a_stop_string_ends_the_output(router: Router, replicas: LocalReplicas) -> None:
    text = bytes(wanted(replicas, SamplingParams(max_tokens=40))).decode()
    stop = text[6:9]
    end = text.index(stop)
    reader = Reader()
    await whole(router, reader, SamplingParams(max_tokens=40, stop=(stop,)))
    assert reader.text == text[:end]
    assert isinstance(reader.end, DoneEvent)
    assert reader.end.finish_reason == "stop"


@over_replicas(2)
async def test_a_stop_string_may_begin_at_one_and_end_at_another(router: Router, replicas: LocalReplicas) -> None:
    text = bytes(wanted(replicas, SamplingParams(max_tokens=40))).decode()
    stop = text[6:10]
    end = text.index(stop)
    reader = Reader(end + 2, lambda: replicas.kill(1))
    await whole(router, reader, SamplingParams(max_tokens=40, stop=(stop,)))
    assert reader.text == text[:end]
    assert router.stats().counters.sessions_resumed == 1


@over_replicas(1, Sizes(alphabet=(*LETTERS[:3], EOS)))
async def test_the_end_of_sequence_has_no_text(router: Router, replicas: LocalReplicas) -> None:
    reader = Reader()
    await whole(router, reader, SamplingParams(max_tokens=60))
    assert reader.ids[-1] == EOS
    assert len(reader.text) == len(reader.ids) - 1
    assert isinstance(reader.end, DoneEvent)
    assert reader.end.finish_reason == "stop"


@over_replicas(1)
async def test_events_are_numbered(router: Router, replicas: LocalReplicas) -> None:
    reader = Reader()
    name = await opened(router, reader, content="one")
    ack = await asyncio.to_thread(functools.partial(router.append, name, "two", seq=2))
    again = await asyncio.to_thread(functools.partial(router.append, name, "two", seq=2))
    assert again.duplicate
    assert again.context_tokens == ack.context_tokens == 6
    with pytest.raises(InvalidArgument, match="missing"):
        await asyncio.to_thread(functools.partial(router.append, name, "x", seq=5))
    with pytest.raises(InvalidArgument, match="keep_chars"):
        await asyncio.to_thread(functools.partial(router.update, name, "x", keep_chars=50))
    await asyncio.to_thread(functools.partial(router.append, name, "three", final=True))
    with pytest.raises((FailedPrecondition, NotFound)):
        await asyncio.to_thread(router.append, name, "four")
    await reader.over()
    assert reader.text == bytes(replicas.replicas[1].engine.reference_output(list(b"onetwothree"), 8)).decode()


@over_replicas(1)
async def test_what_a_replica_refuses_changes_nothing(router: Router, replicas: LocalReplicas) -> None:
    reader = Reader()
    name = await opened(router, reader, params=SamplingParams(max_tokens=4), content="one")
    with pytest.raises(InvalidArgument):
        await asyncio.to_thread(router.append, name, "x" * 400)
    await asyncio.to_thread(functools.partial(router.append, name, " two", final=True))
    await reader.over()
    assert reader.text == bytes(replicas.replicas[1].engine.reference_output(list(b"one two"), 4)).decode()


@over_replicas(2)
async def test_a_drained_router_takes_nobody(router: Router, replicas: LocalReplicas) -> None:
    reader = Reader()
    await opened(router, reader, content="one")
    assert not await asyncio.to_thread(router.drain, 0.05)
    assert isinstance(reader.end, FailedEvent)
    with pytest.raises(Unavailable, match="shutting down"):
        await opened(router, Reader(), content="two")
