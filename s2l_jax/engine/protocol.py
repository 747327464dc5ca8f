"""The seam between orchestrator and engine: the device, a simulator and test doubles stand behind it."""

from collections.abc import Callable
from typing import Protocol

from s2l_jax.core.plan import StepPlan, StepResult

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, name)` each time one executable is ready, possibly from another thread."""


class Engine(Protocol):
    """Executes step plans, one at a time, in the order given.

    All calls come from one thread, the owner. `warmup` comes first, `close` last.
    """

    def warmup(self, progress: Progress | None = None) -> None:
        """Make everything ready that traffic needs, so that no step ever waits for a compiler."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step and wait for its tokens.

        Raises:
          InternalError: the step failed. `KVLost`, a subclass, means that the KV of all sessions went with it.
        """

    def close(self) -> None:
        """Give device memory back. No call may follow."""
