"""Server-sent events, and work that ends when its client goes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from s2l_jax.core.errors import S2LError
from serving.http.errors import defect, error_body
from serving.writer import SlowReader, Writer

DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """The client has closed its connection."""


def event(data: str, name: str = "") -> bytes:
    """One event: JSON on one line, and its name if it has one."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data}\n\n".encode()


async def until_gone[T](receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Runs work as long as its client is there; the request's body must have been read.

    Raises:
      ClientGone: the client has gone, and the work was cancelled.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_wait_until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """An answer in events. However it ends, `close` is called, once.

    A client that reads slowly is waited for at each event. If it takes nothing for `send_timeout_s`, its connection is
    closed.

    Args:
      events: encoded events. What it raises becomes a last event with an error object.
      close: ends what produces them.
      send_timeout_s: see above.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None], send_timeout_s: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all events."""
        try:
            await until_gone(receive, self._write(send))
        finally:
            self._close()

    async def _write(self, send: Send) -> None:
        writer = Writer(send, self._send_timeout_s)
        try:
            await writer.write({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for data in _with_error(self._events):
                await writer.write({"type": "http.response.body", "body": data, "more_body": True})
            await writer.write({"type": "http.response.body", "body": b"", "more_body": False})
        except SlowReader:
            raise ClientGone from None  # the server closes a connection whose answer is not complete
        finally:
            writer.close()


async def _with_error(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for data in events:
            yield data
    except S2LError as error:
        yield event(error_body(error).model_dump_json(), "")
    except Exception as error:  # noqa: BLE001 - the status has been sent, so this is the only way to tell the client
        yield event(error_body(defect(error, "a stream of events")).model_dump_json())
