"""One connection of the HTTP server, as the library has it, with limits that the library has not."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from s2l_jax.core.errors import Unavailable
from serving.http.errors import error_body

_RETRY_AFTER_S = 1


class Connection(H11Protocol):
    """Waits for the head of a request no longer than some time, however slowly it comes; beyond a number of
    connections, a new one is told so and closed.

    Args:
      max_connections: see above.
      head_timeout_s: see above.
      options: of the library.
    """

    def __init__(self, *, max_connections: int, head_timeout_s: float, **options: Any) -> None:
        super().__init__(**options)
        self._max_connections = max_connections
        self._head_timeout_s = head_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts or refuses."""
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            transport.write(_refusal(self._max_connections))
            transport.close()
            return
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Takes what comes."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends with the connection."""
        self._stop_watching()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are not HTTP; if a request is being served, its body is where they are, and it ends."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _watch_head(self) -> None:
        is_waiting = self.cycle is None or self.cycle.response_complete
        is_ours = self in self.connections  # not after an upgrade to a WebSocket
        if not (is_waiting and is_ours):
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout_s, self.transport.close)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _refusal(max_connections: int) -> bytes:
    body = error_body(Unavailable(f"the server has {max_connections} connections, its limit: try again later"))
    data = body.model_dump_json().encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Retry-After: {_RETRY_AFTER_S}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
