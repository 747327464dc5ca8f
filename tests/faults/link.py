"""A link between two processes that can be cut without either end being told, and healed again."""

import contextlib
import socket
import threading
from collections.abc import Callable

_CHUNK_BYTES = 1 << 16


class Link:
    """Forwards TCP connections to an engine, over this process.

    While it is cut nothing is forwarded and nothing closed: what has been sent waits, as packets do that are sent again
    and again. New connections are accepted and get no answer.

    Args:
      host: of the engine.
      port: of the engine.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._is_whole = threading.Event()
        self._is_whole.set()
        self._is_closed = False
        self._left_bytes: int | None = None
        self.is_held = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="link", daemon=True).start()

    def cut(self) -> None:
        self._is_whole.clear()

    def cut_after(self, byte_count: int) -> None:
        """Cuts itself when so many more bytes have come from the engine; `is_held` is set then."""
        self.is_held.clear()
        self._left_bytes = byte_count

    def heal(self) -> None:
        self._left_bytes = None
        self._is_whole.set()

    def close(self) -> None:
        self._is_closed = True
        self._listener.close()
        self.heal()
        for each in list(self._sockets):
            _shut(each)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), name="link", daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        self._is_whole.wait()
        far = None
        with contextlib.suppress(OSError):
            far = socket.create_connection(self._target, timeout=5)
        if far is None or self._is_closed:
            _shut(near)
            return
        far.settimeout(None)
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets |= {near, far}
        back = threading.Thread(target=self._forward, args=(far, near, self._count), name="link", daemon=True)
        back.start()
        self._forward(near, far, lambda _: None)
        back.join()
        self._sockets -= {near, far}
        near.close()
        far.close()

    def _forward(self, source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
        try:
            while content := source.recv(_CHUNK_BYTES):
                self._is_whole.wait()
                count(len(content))
                self._is_whole.wait()
                target.sendall(content)
        except OSError:
            pass
        self._is_whole.wait()  # not even an end gets through
        _shut(source)
        _shut(target)

    def _count(self, byte_count: int) -> None:
        if self._left_bytes is not None:
            self._left_bytes -= byte_count
            if self._left_bytes <= 0:
                self._left_bytes = None
                self.cut()
                self.is_held.set()


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
