"""Engines that note what each step took."""

import time
from collections import deque
from dataclasses import dataclass, field

from cost_profiles.profile import Profile
from s2l_jax.core.plan import SampledToken, StepPlan, StepResult, StepTiming
from s2l_jax.engine.protocol import Engine, Progress

_ANY_TOKEN = 1000


@dataclass
class StepRecorder:
    """Passes everything on. Its steps are for when the engine has been closed."""

    engine: Engine
    steps: list[tuple[StepPlan, float]] = field(default_factory=list)

    def warmup(self, progress: Progress | None = None) -> None:
        self.engine.warmup(progress)

    def submit(self, plan: StepPlan) -> None:
        self.engine.submit(plan)

    def collect(self) -> StepResult:
        return self._note(self.engine.collect())

    def is_ready(self) -> bool:
        return self.engine.is_ready()

    def execute(self, plan: StepPlan) -> StepResult:
        return self._note(self.engine.execute(plan))

    def close(self) -> None:
        self.engine.close()

    def _note(self, result: StepResult) -> StepResult:
        self.steps.append((result.plan, result.timing.compute_s))
        return result


@dataclass
class PacedEngine:
    """Takes exactly what a profile says, on the real clock, and computes nothing; what it is given only warms up."""

    engine: Engine
    profile: Profile
    _running: deque[tuple[StepResult, float]] = field(default_factory=deque)
    _free_s: float = 0.0

    def warmup(self, progress: Progress | None = None) -> None:
        self.engine.warmup(progress)

    def submit(self, plan: StepPlan) -> None:
        timing = StepTiming(
            self.profile.step_s(plan) if plan.chunks or plan.samples else 0.0,
            self.profile.costs.swap_out(len(plan.saves)),
            self.profile.costs.swap_in(len(plan.loads)),
        )
        self._free_s = max(self._free_s, time.perf_counter()) + max(timing)
        tokens = tuple(SampledToken(_ANY_TOKEN + sample.position) for sample in plan.samples)
        self._running.append((StepResult(plan, tokens, timing), self._free_s))

    def collect(self) -> StepResult:
        result, ready_s = self._running.popleft()
        time.sleep(max(0.0, ready_s - time.perf_counter()))
        return result

    def is_ready(self) -> bool:
        return bool(self._running) and time.perf_counter() >= self._running[0][1]

    def execute(self, plan: StepPlan) -> StepResult:
        self.submit(plan)
        return self.collect()

    def close(self) -> None:
        self.engine.close()
