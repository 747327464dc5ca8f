"""The bridge from the engine thread to one stream's coroutine."""

import asyncio
import threading
from collections import deque

from s2l_jax.core.errors import S2LError
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, ProgressEvent, SinkEvent, TokenEvent

_MAX_PENDING = 32


class Outbox:
    """Events of one session on their way out.

    Any thread puts, through `sink`, without ever waiting; one coroutine gets. A reader slower than the engine costs
    bounded memory: of unread progress only the newest is kept, and unread tokens beyond a few grow into one event
    (unless `merge_tokens` is off), so what waits is at most the ids and text of `max_tokens` tokens.

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
                    return self._pending.popleft()
                self._is_waking = False
            await self._awake.wait()
            self._awake.clear()

    def _add(self, event: SinkEvent) -> None:
        last = self._pending[-1] if self._pending else None
        if isinstance(event, ProgressEvent) and isinstance(last, ProgressEvent):
            self._pending.pop()
        elif isinstance(event, TokenEvent) and isinstance(last, TokenEvent) and self._is_crowded:
            self._pending.pop()
            event = _join(last, event)
        self._pending.append(event)

    @property
    def _is_crowded(self) -> bool:
        return self._merge_tokens and len(self._pending) >= _MAX_PENDING


def _join(first: TokenEvent, second: TokenEvent) -> TokenEvent:
    return TokenEvent(
        ids=first.ids + second.ids,
        text=first.text + second.text,
        logprobs=first.logprobs + second.logprobs,
        top=first.top + second.top,
    )
