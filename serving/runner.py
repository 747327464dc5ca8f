"""How a server's event loop runs: soon, whatever the engine's threads beside it do."""

import asyncio
import contextlib
import gc
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import uvloop

_SWITCH_INTERVAL_S = 0.001
_NICE = -5


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a server to its end. To be called when all that it needs is loaded, by the main thread.

    What is loaded by then, most of it the accelerator's library, stays: a full collection that looked at it would stop
    everything for a tenth of a second. Threads that compute in Python hand over after a millisecond, not after five,
    since the loop has to wait for one of them each time that it has slept. Where the system lets it, the loop goes
    before threads that compute.
    """
    gc.collect()
    gc.freeze()
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    if sys.platform == "linux":  # where a thread has a priority of its own
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
    try:
        asyncio.run(main, loop_factory=uvloop.new_event_loop)
    finally:
        sys.setswitchinterval(before_s)
        gc.unfreeze()
