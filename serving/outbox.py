"""The bridge from the engine thread to one stream's coroutine."""

import asyncio
import threading
from collections import deque
from collections.abc import Sequence

from s2l_jax.core.errors import S2LError
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, ProgressEvent, SinkEvent, TokenEvent

MOST_JOINED = 256
"""Events that become one, so that no message grows large."""


class Outbox:
    """Events of one session on their way out.

    Any thread puts, through `sink`, without ever waiting; one coroutine gets. A reader slower than the engine gets what
    has come meanwhile at once: unread tokens are one event, so a loop that is behind has the less to do. It costs
    bounded memory: of unread progress only the newest is kept, and of tokens there are `max_tokens` at most.

    Args:
      merge_tokens: False keeps one event per token.
    """

    def __init__(self, *, merge_tokens: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._merge_tokens = merge_tokens
        self._lock = threading.Lock()
        self._pending: deque[SinkEvent] = deque()
        self._awake = asyncio.Event()
        self._is_waking = False
        self._is_ended = False

    @property
    def is_ended(self) -> bool:
        """True as soon as the session itself has ended, whether its last event was read or not."""
        return self._is_ended

    def sink(self, event: SinkEvent) -> None:
        """Takes an event of the session; any thread."""
        self._is_ended |= isinstance(event, DoneEvent | FailedEvent)
        self._put(event)

    def fail(self, error: S2LError) -> None:
        """Puts an error of the stream behind what waits; the session itself may still be running."""
        self._put(FailedEvent(error))

    def _put(self, event: SinkEvent) -> None:
        with self._lock:
            self._add(event)
            must_wake = not self._is_waking
            self._is_waking = True
        if must_wake and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._awake.set)

    async def get(self) -> SinkEvent:
        """The next event; waits for it."""
        while True:
            with self._lock:
                if self._pending:
                    return self._take()
                self._is_waking = False
            await self._awake.wait()
            self._awake.clear()

    def _add(self, event: SinkEvent) -> None:
        if isinstance(event, ProgressEvent) and self._pending and isinstance(self._pending[-1], ProgressEvent):
            self._pending.pop()
        self._pending.append(event)

    def _take(self) -> SinkEvent:
        event = self._pending.popleft()
        if not (self._merge_tokens and isinstance(event, TokenEvent)):
            return event
        tokens = [event]
        while self._pending and len(tokens) < MOST_JOINED and isinstance(following := self._pending[0], TokenEvent):
            tokens.append(following)
            self._pending.popleft()
        return event if len(tokens) == 1 else _joined(tokens)


def _joined(tokens: Sequence[TokenEvent]) -> TokenEvent:
    return TokenEvent(
        ids=tuple(one for event in tokens for one in event.ids),
        text="".join(event.text for event in tokens),
        logprobs=tuple(one for event in tokens for one in event.logprobs),
        top=tuple(one for event in tokens for one in event.top),
    )
