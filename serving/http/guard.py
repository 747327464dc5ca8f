"""What every request has around it: a limit on its body, time to send it in, and defects that stay inside."""

import asyncio
import contextlib
from typing import NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2l_jax.core.errors import DeadlineExceeded, InvalidArgument, S2LError
from serving.http.errors import defect, error_response
from serving.http.sse import ClientGone


class Guard:
    """ASGI middleware.

    Args:
      app: what it guards.
      max_body_bytes: a longer body is refused as soon as that is known.
      receive_timeout_s: time for a body to come; then its client is cut off.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, receive_timeout_s: float) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._receive_timeout_s = receive_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._max_body_bytes, self._receive_timeout_s)
        is_started = False

        async def watched_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            try:
                await body.check_length(scope)
                await self._app(scope, body.receive, watched_send)
            except (S2LError, ClientGone):
                raise
            except Exception as error:
                if is_started:
                    raise
                raise defect(error, f"{scope['method']} {scope['path']}") from error
        except S2LError as error:
            await error_response(error, close=True)(scope, receive, send)
        except ClientGone:
            pass


class _Body:
    """A request's body on its way in."""

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadline_s = asyncio.get_running_loop().time() + timeout_s
        self._bytes = 0
        self._is_complete = False

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline_s):
                message = await self._receive()
        except TimeoutError:
            raise DeadlineExceeded(f"the request's body did not come within {self._timeout_s:g} s") from None
        self._count(message)
        if self._bytes > self._max_bytes:
            await self._refuse()
        return message

    async def check_length(self, scope: Scope) -> None:
        """Refuses a body whose head says that it is too long."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._max_bytes:
                await self._refuse()

    async def _refuse(self) -> NoReturn:
        # A client that is still sending would not see an answer, so some more is read, and dropped.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline_s):
                while not self._is_complete and self._bytes < 2 * self._max_bytes:
                    self._count(await self._receive())
        raise InvalidArgument(f"the body is longer than {self._max_bytes} bytes, the most that this server takes")

    def _count(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
