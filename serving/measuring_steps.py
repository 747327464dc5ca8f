"""An engine that notes what each step took."""

import time
from collections import deque
from dataclasses import dataclass, field

from cost_profiles.served import ServedStep
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.engine.protocol import Engine, Progress


@dataclass
class StepRecorder:
    """Passes everything on to an engine.

    Attributes:
      engine: that runs the steps.
      steps: those that have run, in order; to be read when no step runs.
    """

    engine: Engine
    steps: list[ServedStep] = field(default_factory=list)
    _idle_s: deque[float] = field(default_factory=deque)  # before each step in flight
    _free_s: float = field(default_factory=time.perf_counter)

    def warmup(self, progress: Progress | None = None) -> None:
        """See `Engine`."""
        self.engine.warmup(progress)

    def submit(self, plan: StepPlan) -> None:
        """See `Engine`."""
        self._idle_s.append(0.0 if self._idle_s else time.perf_counter() - self._free_s)
        self.engine.submit(plan)

    def collect(self) -> StepResult:
        """See `Engine`."""
        idle_s = self._idle_s.popleft()
        result = self.engine.collect()
        self._free_s = time.perf_counter()
        self.steps.append(ServedStep(result.plan, result.timing.compute_s, idle_s))
        return result

    def execute(self, plan: StepPlan) -> StepResult:
        """See `Engine`."""
        self.submit(plan)
        return self.collect()

    def is_ready(self) -> bool:
        """See `Engine`."""
        return self.engine.is_ready()

    def close(self) -> None:
        """See `Engine`."""
        self.engine.close()
