"""The outbox between engine and stream."""

import asyncio
import math

from s2l_jax.core.outcome import SessionStats
from s2l_jax.orchestrator.events import DoneEvent, ProgressEvent, TokenEvent
from serving.outbox import MOST_JOINED, Outbox
from tests.serving.harness import eventually, run


def _token(number: int) -> TokenEvent:
    return TokenEvent((number,), f"{number} ", (-0.5,), (((number, -0.5),),))


def test_outbox_keeps_order_and_bounds_what_waits() -> None:
    async def test() -> None:
        outbox = Outbox()
        for i in range(1000):
            outbox.sink(ProgressEvent(i, 1000))
        for i in range(1000):
            outbox.sink(_token(i))
        stats = SessionStats(1, 1000, 1, 0, 0, 0, 0, 0, 0.1, 0.1)
        outbox.sink(DoneEvent("length", stats))
        assert outbox.is_ended
        events = []
        while not events or not isinstance(events[-1], DoneEvent):
            events.append(await outbox.get())
        assert len(events) == 1 + math.ceil(1000 / MOST_JOINED) + 1
        assert events[0] == ProgressEvent(999, 1000)
        tokens = [event for event in events if isinstance(event, TokenEvent)]
        assert [i for event in tokens for i in event.ids] == list(range(1000))
        assert "".join(event.text for event in tokens) == "".join(f"{i} " for i in range(1000))
        assert sum(len(event.logprobs) for event in tokens) == sum(len(event.top) for event in tokens) == 1000

    run(test)


def test_outbox_that_must_not_merge_does_not() -> None:
    async def test() -> None:
        outbox = Outbox(merge_tokens=False)
        for i in range(100):
            outbox.sink(_token(i))
        assert [await outbox.get() for _ in range(100)] == [_token(i) for i in range(100)]

    run(test)


def test_outbox_wakes_its_reader_from_other_threads() -> None:
    async def test() -> None:
        outbox = Outbox()
        received: list[object] = []

        async def read() -> None:
            while len(received) < 500:
                received.append(await outbox.get())

        reader = asyncio.create_task(read())

        def produce() -> None:
            for i in range(500):
                outbox.sink(_token(i))

        producing = asyncio.to_thread(produce)
        await asyncio.wait({asyncio.ensure_future(producing)})
        total = sum(len(event.ids) for event in received if isinstance(event, TokenEvent))
        await eventually(lambda: sum(len(e.ids) for e in received if isinstance(e, TokenEvent)) == 500)
        assert total <= 500
        reader.cancel()

    run(test)
