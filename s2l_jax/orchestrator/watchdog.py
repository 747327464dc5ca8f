"""Notices engines that hang, which their own threads cannot."""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

_log = logging.getLogger(__name__)
LOOK_S = 0.5
TIMES_EXPECTED = 10
"""A step may take this many times what it was predicted to take, however short the time-out is."""


@dataclass(slots=True)
class Pulse:
    """What a thread shows of its dealings with an engine. It writes, others read.

    Attributes:
      beats: rises whenever a step has ended, and a few times a second while there is none.
      expected_s: what the step that the device runs was predicted to take.
    """

    beats: int = 0
    expected_s: float = 0.0


class Watched(Protocol):
    """What a watchdog looks at."""

    pulse: Pulse

    def abandon(self, silent_s: float) -> None:
        """It has shown no sign of life for this long; nothing happens if that is known."""


class Watchdog:
    """Looks at engines' pulses on a thread of its own, and has those given up that have none.

    Time is counted in looks, each of them `LOOK_S`. So if the whole process was stopped, or its machine asleep, no
    engine is blamed for it.

    Args:
      watched: gives what is to be looked at; asked each time.
      step_timeout_s: longest time that a step may take, unless it was predicted to be a long one.
      on_look: called at each look, for what else must be done even if every engine hangs.
    """

    def __init__(
        self, watched: Callable[[], Iterable[Watched]], step_timeout_s: float, on_look: Callable[[], None]
    ) -> None:
        self._watched = watched
        self._on_look = on_look
        self._step_timeout_s = step_timeout_s
        self._seen: dict[Watched, tuple[int, int]] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._main, name="s2l-watchdog", daemon=True)

    def start(self) -> None:
        """Begins. Only what is warm may be watched."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def look(self) -> None:
        """Looks once."""
        self._on_look()
        seen: dict[Watched, tuple[int, int]] = {}
        for one in tuple(self._watched()):
            beats, looks = self._seen.get(one, (-1, 0))
            seen[one] = beats, looks = one.pulse.beats, looks + 1 if one.pulse.beats == beats else 0
            silent_s = looks * LOOK_S
            if silent_s >= max(self._step_timeout_s, TIMES_EXPECTED * one.pulse.expected_s):
                one.abandon(silent_s)
        self._seen = seen

    def _main(self) -> None:
        while not self._is_over.wait(LOOK_S):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - it goes on looking, whatever one of them does
                _log.exception("engines could not be looked at")
