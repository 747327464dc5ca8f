"""The other ranks' side: hears orders, and says what came of them."""

import json
import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

from serving.world.config import WorldConfig
from serving.world.frame import Frame, Kind
from serving.world.link import Link, LinkBroken
from serving.world.orders import ANSWERED, UNBOUNDED, Call, Done, History, Order
from serving.world.watchdog import Watchdog

_log = logging.getLogger(__name__)


class Follower:
    """Follows rank 0. One thread takes orders and answers them; any may ask for a drain.

    Args:
      link: to rank 0.
      config: of the world.
      step_s: what a step may take at most.
    """

    def __init__(self, link: Link, config: WorldConfig, step_s: float) -> None:
        self.config = config
        self._step_s = step_s
        self.watchdog = Watchdog({0: link}, config, self._overdue)
        self._link = link
        self._history = History()
        self._began: tuple[float, Call] | None = None
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._agreed: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="s2l-world-0", daemon=True).start()
        self.watchdog.start()

    def agree(self, own: Any) -> Any:
        """Says what this rank has; returns what all have to continue with."""
        self._send(Kind.AGREE, json.dumps(own).encode())
        return self._agreed.get()

    def orders(self) -> Iterator[Order]:
        """Orders as they come, which the caller carries out, each time telling with `gave`; ends after `Call.CLOSE`."""
        while True:
            order = self._orders.get()
            if (order.number, order.history) != (self._history.orders + 1, self._history.digest):
                self.watchdog.lose(f"rank {self.config.rank} has diverged: before order {order.number} it had done, or "
                                   "got, something else than rank 0")  # fmt: skip
                return
            self._history.told(order.call, order.body)
            self._began = (time.monotonic(), order.call)
            yield order
            if order.call is Call.CLOSE:
                return

    def gave(self, call: Call, result: bytes) -> None:
        """Notes what the last order gave."""
        self._history.gave(result)
        self._began = None
        if call is Call.CLOSE:
            self.watchdog.stop()  # rank 0 may go as soon as it has this answer
        if call in ANSWERED:
            self._send(Kind.DONE, Done(self._history.orders, self._history.digest).to_bytes())

    def ask_to_drain(self) -> None:
        """Tells rank 0 that this process was asked to stop."""
        self._send(Kind.DRAIN, b"")

    def close(self) -> None:
        """Parts from rank 0."""
        self.watchdog.stop()
        self._link.close()

    def _send(self, kind: Kind, payload: bytes) -> None:
        try:
            self._link.send(kind, payload)
        except LinkBroken as error:
            self.watchdog.lose(f"rank 0 is gone: {error}")

    def _read(self) -> None:
        """Runs on a thread of its own."""
        try:
            while True:
                self._hear(self._link.receive())
        except LinkBroken as error:
            self.watchdog.lose(f"rank 0 is gone: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, this rank can no longer follow
            _log.exception("what rank 0 said could not be taken")
            self.watchdog.lose(f"rank {self.config.rank} could not take what rank 0 said: {error!r:.200}")

    def _hear(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.BEAT:
                pass
            case Kind.ORDER:
                self._orders.put(Order.from_bytes(frame.payload))
            case Kind.AGREE:
                self._agreed.put(json.loads(frame.payload))
            case Kind.END:
                self.watchdog.lose(frame.payload.decode(errors="replace"))
            case _:
                self.watchdog.lose(f"rank 0 sent {frame.kind.name}, which is for rank 0")

    def _overdue(self) -> str | None:
        """Called by the watchdog."""
        began, limit_s = self._began, self._step_s
        if began is not None and began[1] not in UNBOUNDED and time.monotonic() - began[0] > limit_s:
            return f"rank {self.config.rank} has not come through with a step for {limit_s:g} s"
        return None
