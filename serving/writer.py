"""Sends a stream's messages to a client that may not take them."""

import asyncio
from collections.abc import Awaitable, Callable

from s2l_jax.core.errors import DeadlineExceeded


class SlowReader(DeadlineExceeded):
    """The client took nothing for too long."""


class Writer[T]:
    """Waits for a client that reads slowly, but not for ever: the libraries would.

    One timer watches all messages of a stream, since a timer for each token is dear. So a message may take up to twice
    the time. Used by one task at a time; `close` stops the timer.

    Args:
      send: sends a message, and waits until the next one may be sent.
      timeout_s: how long the client may take for one message.
    """

    def __init__(self, send: Callable[[T], Awaitable[None]], timeout_s: float) -> None:
        self._send = send
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._written = 0
        self._seen = -1
        self._is_late = False
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(timeout_s, self._look)

    async def write(self, message: T) -> None:
        """Sends a message.

        Raises:
          SlowReader: the client did not take it in time.
        """
        self._task = asyncio.current_task()
        try:
            await self._send(message)
        except asyncio.CancelledError:
            task = self._task
            if not self._is_late or task is None or task.uncancel() > 0:
                raise
            raise SlowReader(
                f"the client took nothing of the output for {self._timeout_s:g} s, so the stream was ended: read faster"
            ) from None
        finally:
            self._task = None
            self._written += 1

    def close(self) -> None:
        """Stops watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Ends the message that was being sent when this was called last, if it still is."""
        if self._task is not None and self._seen == self._written:
            self._is_late = True
            self._task.cancel()
        self._seen = self._written
        self._timer = self._loop.call_later(self._timeout_s, self._look)
