"""A connection between rank 0 and one of the others."""

import contextlib
import select
import socket
import threading
import time

from serving.world.frame import HEAD_BYTES, DamagedFrameError, Frame, Kind, from_bytes, payload_bytes, to_bytes

_SEND_S = 10.0  # what a peer may take to make room for a message


class LinkBroken(Exception):
    """The connection has ended, or what came over it is damaged; the message says what."""


class Link:
    """Messages both ways over one socket.

    Any thread may send; one thread at a time receives. TCP keeps their order; numbers and checksums show if anything
    between the two programs does not.

    Args:
      connection: connected; belongs to the link.

    Attributes:
      heard_s: when the last message came, by `time.monotonic`.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)
        self._socket = connection
        self._lock = threading.Lock()
        self._sent = 0
        self._received = 0
        self.heard_s = time.monotonic()

    def send(self, kind: Kind, payload: bytes = b"", *, within_s: float = _SEND_S) -> None:
        """Sends a message.

        Raises:
          LinkBroken: nobody takes it.
        """
        if not self._lock.acquire(timeout=within_s):
            raise LinkBroken(f"nothing could be sent for {within_s:g} s")
        try:
            content = to_bytes(Frame(kind, self._sent, payload))
            self._sent += 1
            self._send_all(content, within_s)
        except OSError as error:
            raise LinkBroken(f"the connection has ended ({error.strerror or error})") from error
        finally:
            self._lock.release()

    def receive(self, within_s: float | None = None) -> Frame:
        """The next message; waits for it, if not forbidden for ever.

        Raises:
          LinkBroken: it does not come, or is damaged.
        """
        end_s = None if within_s is None else time.monotonic() + within_s
        try:
            head = self._read(HEAD_BYTES, end_s)
            frame = from_bytes(head, self._read(payload_bytes(head), end_s), self._received)
        except DamagedFrameError as error:
            raise LinkBroken(str(error)) from error
        except TimeoutError:
            raise LinkBroken(f"nothing came for {within_s:g} s") from None
        except OSError as error:
            raise LinkBroken(f"the connection has ended ({error.strerror or error})") from error
        self._received += 1
        self.heard_s = time.monotonic()
        return frame

    def close(self) -> None:
        """Ends the connection; whoever waits for a message is told."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send_all(self, content: bytes, within_s: float) -> None:
        end_s = time.monotonic() + within_s
        left = memoryview(content)
        while left:
            try:
                left = left[self._socket.send(left, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, end_s)

    def _read(self, count: int, end_s: float | None) -> bytes:
        content = bytearray(count)
        left = memoryview(content)
        while left:
            if end_s is not None:
                self._wait(select.POLLIN, end_s)
            received = self._socket.recv_into(left)
            if not received:
                raise OSError("closed by the other side")
            left = left[received:]
        return bytes(content)

    def _wait(self, event: int, end_s: float) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(max(0.0, end_s - time.monotonic()) * 1000):
            raise TimeoutError("timed out")
