"""Notices that a world cannot go on, tells who is left, and ends this process's part of it.

A process that is killed closes its connections, one that is stopped or cut off goes silent, one that hangs comes
through with no order. None of these can be mended: what one process had of the weights and of the KV is gone, and
collectives that wait for it wait for ever.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping

from serving.world.config import WorldConfig
from serving.world.frame import Kind
from serving.world.link import Link, LinkBroken

LOST_STATUS = 75
"""With which a process ends whose world has: whoever started it may try again (EX_TEMPFAIL of sysexits.h)."""

_BEATS = 5  # in the time of a silence
_LAST_WORD_S = 0.5


class Watchdog:
    """Watches the links of one process.

    Any thread may call it. The first reason that a world is lost for is the one that counts, and it is told to all.

    Args:
      links: by rank.
      config: how long a silence may be.
      overdue: says what has not been done in time, if anything.

    Attributes:
      on_lost: called once, with the reason, on the thread that found it; `end_at_once` unless something better is set.
    """

    def __init__(self, links: Mapping[int, Link], config: WorldConfig, overdue: Callable[[], str | None]) -> None:
        self._links = links
        self._config = config
        self._overdue = overdue
        self._lock = threading.Lock()
        self._lost: str | None = None
        self._is_over = False
        self._stopped = threading.Event()
        self.on_lost: Callable[[str], None] = end_at_once
        self._thread = threading.Thread(target=self._main, name="s2l-world-watch", daemon=True)

    @property
    def lost(self) -> str | None:
        """Why the world is lost; None as long as it is not."""
        return self._lost

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """The world ends in order: nothing that happens to links from now on matters."""
        with self._lock:
            self._is_over = True
        self._stopped.set()

    def lose(self, why: str) -> None:
        """Ends the world, unless it has ended already."""
        with self._lock:
            if self._is_over or self._lost is not None:
                return
            self._lost = why
        for link in self._links.values():
            with contextlib.suppress(LinkBroken):
                link.send(Kind.END, why.encode(), within_s=_LAST_WORD_S)
        self.on_lost(
            f"rank {self._config.rank} of the world at {self._config.address} ends: {why}. An engine cannot go on "
            f"without one of its processes: start all {self._config.size} again"
        )

    def _main(self) -> None:
        pause_s = self._config.silence_s / _BEATS
        looked_s = time.monotonic()
        while not self._stopped.wait(pause_s):
            now_s = time.monotonic()
            if now_s - looked_s > pause_s + self._config.silence_s / 2:
                self._forgive(now_s)  # this process itself was stopped: what came meanwhile is not read yet
            looked_s = now_s
            self._beat()
            silent = [rank for rank, link in self._links.items() if now_s - link.heard_s > self._config.silence_s]
            if silent:
                self.lose(f"nothing was heard of rank {silent[0]} for {self._config.silence_s:g} s")
            overdue = self._overdue()
            if overdue is not None:
                self.lose(overdue)

    def _beat(self) -> None:
        for rank, link in self._links.items():
            try:
                link.send(Kind.BEAT, within_s=self._config.silence_s)
            except LinkBroken as error:
                self.lose(f"rank {rank} cannot be reached: {error}")

    def _forgive(self, now_s: float) -> None:
        for link in self._links.values():
            link.heard_s = max(link.heard_s, now_s - self._config.silence_s / 2)


def end_at_once(why: str) -> None:
    """Ends this process, whatever its other threads are doing."""
    print(f"Error: {why}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(LOST_STATUS)
