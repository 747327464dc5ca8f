"""An engine of several processes, as rank 0's orchestrator sees it."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from s2l_jax.core.errors import FailedPrecondition, S2LError
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.engine.device_code import Contents
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.engine.errors import EngineGone, KVLost
from s2l_jax.engine.protocol import Progress
from s2l_jax.transport.protocol import Pages
from serving.world.leader import Leader
from serving.world.orders import Call, blocks_to_bytes, pages_to_bytes, plan_to_bytes, result_to_bytes
from serving.world.pages import rehearse, whole

_LOOK_S = 0.0002
_LONGEST_PAUSE_S = 0.004
_LATE_SHARE = 0.02  # of a wait, that its end may go unseen: on a CPU each look takes time from the step itself
_PART_S = 10.0
_REASON_S = 1.0  # that a process has ended is heard about as soon as its devices fail


class LeadingEngine:
    """Publishes every call and makes it itself, too. Once the world has ended, calls raise EngineGone.

    What a plan is refused for is found by all ranks alike before anything reaches a device, and the engine goes on, as
    any does. What fails on a device ends the world: nobody knows what the devices of other ranks have done.

    Args:
      engine: rank 0's part.
      leader: of the world.
    """

    def __init__(self, engine: JaxEngine, leader: Leader) -> None:
        self._engine = engine
        self._leader = leader
        self._outstanding = 0

    def warmup(self, progress: Progress | None = None) -> None:
        """See `Engine.warmup`; returns when all ranks are warm."""

        def warm_up() -> None:
            self._engine.warmup(progress)
            rehearse(self._engine)

        self._make(Call.WARMUP, b"", warm_up)
        while not self._leader.wait_for_all(1.0):
            pass
        self._leader.check()

    def submit(self, plan: StepPlan) -> None:
        """See `Engine.submit`."""
        self._make(Call.SUBMIT, plan_to_bytes(plan), lambda: self._engine.submit(plan))
        self._outstanding += 1

    def collect(self) -> StepResult:
        """See `Engine.collect`."""
        result: list[StepResult] = []

        def collect() -> bytes:
            self._wait()
            result.append(self._engine.collect())
            return result_to_bytes(result[0])

        self._make(Call.COLLECT, b"", collect)
        self._outstanding -= 1
        return result[0]

    def is_ready(self) -> bool:
        """See `Engine.is_ready`. True as well when the world has ended, for then nobody should wait."""
        return self._leader.watchdog.lost is not None or self._engine.is_ready()

    def execute(self, plan: StepPlan) -> StepResult:
        """See `Engine.execute`."""
        if self._outstanding:
            raise FailedPrecondition("execute() runs a step by itself, but others are outstanding: collect them")
        self.submit(plan)
        return self.collect()

    def gather(self, blocks: Sequence[int]) -> Contents:
        """See `PageAccess.gather`; what it gives is whole, on one device of this process."""
        gathered: list[Contents] = []
        self._make(Call.GATHER, blocks_to_bytes(blocks), lambda: gathered.append(whole(self._engine.gather(blocks))))
        return tuple(piece.addressable_data(0) for piece in gathered[0])

    def place(self, pages: Contents) -> Pages:
        """See `PageAccess.place`: they wait in this process's memory, and `scatter` sends them to the others."""
        return np.concatenate([np.asarray(piece) for piece in pages])

    def scatter(self, blocks: Sequence[int], pages: np.ndarray) -> None:
        """See `PageAccess.scatter`."""
        body = pages_to_bytes(blocks, pages)
        self._make(Call.SCATTER, body, lambda: self._engine.scatter(blocks, self._engine.place((pages,))))

    def close(self) -> None:
        """See `Engine.close`: ends the other ranks, too."""
        if self._leader.watchdog.lost is not None:
            return  # what waits for the others on the devices would wait for ever
        self._make(Call.CLOSE, b"", self._engine.close)
        self._leader.wait_for_all(_PART_S)
        self._leader.close(_PART_S)

    def _wait(self) -> None:
        """Waits for the oldest step, or for the end of the world: who waits on a device cannot be woken."""
        from_s = time.monotonic()
        while self._outstanding and not self._engine.is_ready():
            self._leader.check()
            late_s = _LATE_SHARE * (time.monotonic() - from_s)
            time.sleep(min(max(late_s, _LOOK_S), _LONGEST_PAUSE_S))

    def _make(self, call: Call, body: bytes, make: Callable[[], bytes | None]) -> None:
        self._leader.publish(call, body)
        try:
            result = make() or b""
        except EngineGone:
            raise
        except S2LError as error:
            if isinstance(error, KVLost):
                raise self._given_up(error) from error
            self._outstanding = 0  # an engine drops all steps when one fails
            self._leader.gave(call, type(error).__name__.encode())
            raise
        except Exception as error:
            raise self._given_up(error) from error
        self._leader.gave(call, result)

    def _given_up(self, error: Exception) -> EngineGone:
        """Ends the world for an error of this rank's devices, unless its reason is a process that has ended."""
        end_s = time.monotonic() + _REASON_S
        while self._leader.watchdog.lost is None and time.monotonic() < end_s:
            time.sleep(_LOOK_S)
        self._leader.watchdog.lose(f"a step failed on rank 0: {error!r:.300}")
        return EngineGone(f"the world of this engine has ended: {self._leader.watchdog.lost}")
