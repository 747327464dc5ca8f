"""The seam between orchestrator and engine: the device, a simulator and test doubles stand behind it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.transport.protocol import Pages

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, name)` each time one executable is ready, possibly from another thread."""

MAX_OUTSTANDING = 2
"""Steps that may be submitted and not collected."""


class Engine(Protocol):
    """Executes step plans in the order given.

    All calls come from one thread, the owner. `warmup` comes first, `close` last.

    A step that was submitted and not collected is outstanding. If `submit`, `collect` or `execute` raises, the engine
    drops all outstanding steps, the failed one among them: none of them can be collected any more, and the slots that
    they saved to are empty. The next step may follow at once.
    """

    def warmup(self, progress: Progress | None = None) -> None:
        """Make everything ready that traffic needs, so that no step ever waits for a compiler."""

    def submit(self, plan: StepPlan) -> None:
        """Start one step, behind those outstanding, without waiting for any; `MAX_OUTSTANDING` at most.

        Raises:
          InternalError: the step failed, or one before it. `KVLost`, a subclass, means that the KV of all sessions on
            the device went with it; the host's is there still.
        """

    def collect(self) -> StepResult:
        """Wait for the oldest outstanding step.

        Raises:
          InternalError: as in `submit`.
        """

    def is_ready(self) -> bool:
        """True if a step is outstanding and `collect` would not wait for it."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step while none is outstanding, and wait for it: `submit` and `collect`; their errors."""

    def close(self) -> None:
        """Give device memory back. No call may follow."""


class PageAccess(Protocol):
    """Takes pages out of an engine's pool, and puts pages of another engine's into it.

    Runs of pages have one of the lengths that `s2l_jax.engine.buckets.copy_runs` gives.
    """

    def gather(self, blocks: Sequence[int]) -> Pages:
        """Starts to copy pages out, behind the steps submitted so far, without waiting. Only the owner may call it.

        Later steps may write to the blocks. Should a step before it have failed, the error shows in the pages.

        Raises:
          InternalError: a block does not exist; nothing has changed.
        """

    def place(self, pages: Pages) -> Pages:
        """Copies gathered pages, of this engine or of one like it, to where `scatter` takes them from, and waits.

        Any thread may call it.
        """

    def scatter(self, blocks: Sequence[int], pages: Pages) -> None:
        """Starts to copy pages in, before all later steps, without waiting. Only the owner may call it.

        Raises:
          InternalError: as in `Engine.submit`; outstanding steps are dropped.
        """
