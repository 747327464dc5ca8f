"""Sends a stream's messages to a client that may not take them."""

import asyncio

import grpc.aio
from google.protobuf.message import Message

from s2l_jax.core.errors import DeadlineExceeded


class Writer:
    """Waits for a client that reads slowly, but not for ever: gRPC itself would.

    One timer watches all messages of a stream, since a timer for each token is dear. So a message may take up to twice
    the time. Used by one task at a time; `close` stops the timer.

    Args:
      context: of the call.
      timeout_s: how long the client may take for one message.
    """

    def __init__(self, context: grpc.aio.ServicerContext, timeout_s: float) -> None:
        self._context = context
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._written = 0
        self._seen = -1
        self._is_late = False
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(timeout_s, self._look)

    async def write(self, message: Message) -> None:
        """Sends a message.

        Raises:
          DeadlineExceeded: the client did not take it in time.
        """
        self._task = asyncio.current_task()
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            task = self._task
            if not self._is_late or task is None or task.uncancel() > 0:
                raise
            raise DeadlineExceeded(
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
