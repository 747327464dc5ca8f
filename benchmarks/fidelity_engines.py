"""An engine that computes nothing, on the real clock."""

import time
from collections import deque
from dataclasses import dataclass, field

from cost_profiles.profile import Profile
from s2l_jax.core.plan import SampledToken, StepPlan, StepResult, StepTiming
from s2l_jax.engine.protocol import Engine, Progress

_ANY_TOKEN = 1000


@dataclass
class PacedEngine:
    """Takes exactly what a profile says, on the real clock, and computes nothing; what it is given only warms up."""

    engine: Engine
    profile: Profile
    _running: deque[tuple[StepResult, float]] = field(default_factory=deque)
    _free_s: float = field(default_factory=time.perf_counter)

    def warmup(self, progress: Progress | None = None) -> None:
        self.engine.warmup(progress)

    def submit(self, plan: StepPlan) -> None:
        now_s = time.perf_counter()
        idle_s = 0.0 if self._running else now_s - self._free_s
        timing = StepTiming(
            self.profile.step_s(plan, idle_s) if plan.chunks or plan.samples else 0.0,
            self.profile.costs.swap_out(len(plan.saves)),
            self.profile.costs.swap_in(len(plan.loads)),
        )
        self._free_s = max(self._free_s, now_s) + max(timing)
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
