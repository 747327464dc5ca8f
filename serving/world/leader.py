"""Rank 0's side: publishes orders, and hears what comes of them."""

import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from s2l_jax.engine.errors import EngineGone
from serving.world.config import WorldConfig
from serving.world.frame import Frame, Kind
from serving.world.link import Link, LinkBroken
from serving.world.orders import ANSWERED, UNBOUNDED, Call, Done, History
from serving.world.watchdog import Watchdog

_log = logging.getLogger(__name__)


class Leader:
    """Publishes to all other ranks. One thread, the engine's owner, publishes; any thread may look at `lost`.

    Args:
      links: to all other ranks.
      config: of the world.
      step_s: what a step may take at most.
      on_drain: called when another rank was asked to stop, on a thread of this object.
    """

    def __init__(
        self, links: Mapping[int, Link], config: WorldConfig, step_s: float, on_drain: Callable[[], None]
    ) -> None:
        self.config = config
        self._step_s = step_s
        self.watchdog = Watchdog(links, config, self._overdue)
        self._links = links
        self._on_drain = on_drain
        self._history = History()
        self._began: tuple[float, Call] | None = None
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._own: deque[tuple[Done, float]] = deque()
        self._theirs: dict[int, deque[Done]] = {rank: deque() for rank in links}
        # Not a SimpleQueue: see `EngineHost`.
        self._agreed: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=item, name=f"s2l-world-{item[0]}", daemon=True)
            for item in links.items()
        ]
        for reader in self._readers:
            reader.start()
        self.watchdog.start()

    def agree(self, own: Any, choose: Callable[[list[Any]], Any]) -> Any:
        """Has all ranks continue with one value, which rank 0 chooses from what all say; it is sent as JSON.

        Raises:
          EngineGone: the world has ended.
        """
        chosen = choose([own, *(self._next_said() for _ in self._links)])
        self._send_all(Kind.AGREE, json.dumps(chosen).encode())
        return chosen

    def publish(self, call: Call, body: bytes = b"") -> None:
        """Has all other ranks make a call, which the caller makes next itself, and then tells with `gave`.

        Raises:
          EngineGone: the world has ended.
        """
        self.check()
        if call is Call.CLOSE:
            self.watchdog.stop()  # the others go from here on, one after the other
        order = self._history.told(call, body)
        self._began = (time.monotonic(), call)
        self._send_all(Kind.ORDER, order.to_bytes())

    def gave(self, call: Call, result: bytes) -> None:
        """Notes what the call gave that was published last.

        Raises:
          EngineGone: the world has ended.
        """
        self._history.gave(result)
        self._began = None
        if call in ANSWERED:
            with self._lock:
                since_s = float("inf") if call in UNBOUNDED else time.monotonic()
                self._own.append((Done(self._history.orders, self._history.digest), since_s))
            self._compare()
        self.check()

    def wait_for_all(self, within_s: float) -> bool:
        """Waits until all ranks have answered all that is to be answered; False if they have not in time."""
        with self._lock:
            return self._answered.wait_for(lambda: not self._own or self.watchdog.lost is not None, within_s)

    def check(self) -> None:
        """Raises EngineGone if the world has ended."""
        if self.watchdog.lost is not None:
            raise EngineGone(f"the world of this engine has ended: {self.watchdog.lost}")

    def close(self, within_s: float) -> None:
        """Parts from the others, which go first: rank 0 has what keeps them together."""
        end_s = time.monotonic() + within_s
        for reader in self._readers:
            reader.join(max(0.0, end_s - time.monotonic()))
        for link in self._links.values():
            link.close()

    def _next_said(self) -> Any:
        while True:
            try:
                return self._agreed.get(timeout=0.1)[1]
            except queue.Empty:
                self.check()

    def _send_all(self, kind: Kind, payload: bytes) -> None:
        for rank, link in self._links.items():
            try:
                link.send(kind, payload)
            except LinkBroken as error:
                self.watchdog.lose(f"rank {rank} is gone: {error}")
        self.check()

    def _read(self, rank: int, link: Link) -> None:
        """Runs on a thread of its own."""
        try:
            while True:
                self._hear(rank, link.receive())
        except LinkBroken as error:
            self.watchdog.lose(f"rank {rank} is gone: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may be left waiting
            _log.exception("what rank %d said could not be taken", rank)
            self.watchdog.lose(f"what rank {rank} said could not be taken: {error!r:.200}")

    def _hear(self, rank: int, frame: Frame) -> None:
        match frame.kind:
            case Kind.BEAT:
                pass
            case Kind.DONE:
                self._theirs[rank].append(Done.from_bytes(frame.payload))
                self._compare()
            case Kind.AGREE:
                self._agreed.put((rank, json.loads(frame.payload)))
            case Kind.DRAIN:
                self._on_drain()
            case Kind.END:
                self.watchdog.lose(frame.payload.decode(errors="replace"))
            case _:
                self.watchdog.lose(f"rank {rank} sent {frame.kind.name}, which is not for rank 0")

    def _compare(self) -> None:
        """Compares what all ranks have answered."""
        diverged = None
        with self._lock:
            while self._own and all(self._theirs.values()):
                own = self._own.popleft()[0]
                for rank, answers in self._theirs.items():
                    if answers.popleft() != own:
                        diverged = f"rank {rank} has diverged: up to order {own.number} it did, or got, something else"
            self._answered.notify_all()
        if diverged is not None:
            self.watchdog.lose(diverged)

    def _overdue(self) -> str | None:
        """Called by the watchdog."""
        began, now_s, limit_s = self._began, time.monotonic(), self._step_s
        if began is not None and began[1] not in UNBOUNDED and now_s - began[0] > limit_s:
            return f"rank 0 has not come through with a step for {limit_s:g} s"
        with self._lock:
            if self._own and now_s - self._own[0][1] > limit_s:
                late = [rank for rank, answers in self._theirs.items() if not answers]
                return f"rank {late[0] if late else '?'} has not come through with a step for {limit_s:g} s"
        return None
