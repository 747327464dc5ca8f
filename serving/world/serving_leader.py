"""Rank 0 with the server: how it ends when its world does."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from s2l_jax.engine.errors import EngineGone
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.world.leader import Leader
from serving.world.watchdog import LOST_STATUS

_GRACE_S = 3.0


@contextlib.contextmanager
def draining_when_lost(leader: Leader, orchestrator: Orchestrator, drain_timeout_s: float) -> Iterator[None]:
    """While the block runs, the end of the world ends the server, and then the process, with `LOST_STATUS`.

    Sessions of the engine are told to try again, or go on elsewhere, if there are other engines; these have the usual
    time to bring them to their ends. Devices that wait for another process's keep threads busy for ever, so no thread
    is waited for.

    Args:
      leader: of the world.
      orchestrator: of the server; its first engine is the world's.
      drain_timeout_s: of the server.
    """

    def on_lost(why: str) -> None:
        print(f"Error: {why}", file=sys.stderr, flush=True)
        others = [engine for engine in orchestrator.stats().engines[1:] if engine.failure is None]
        timer = threading.Timer((drain_timeout_s if others else 0.0) + _GRACE_S, os._exit, (LOST_STATUS,))
        timer.daemon = True
        timer.start()
        orchestrator.lose(0, EngineGone(why))
        os.kill(os.getpid(), signal.SIGTERM)

    leader.watchdog.on_lost = on_lost
    try:
        yield
    finally:
        if leader.watchdog.lost is not None:
            sys.stdout.flush()
            os._exit(LOST_STATUS)
