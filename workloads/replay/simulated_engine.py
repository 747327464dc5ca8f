"""An engine on a virtual clock: the real scheduler, with a cost model in place of the device.

A step takes what the cost model says for its shape. Page copies in either direction run beside the computation, so only
what outlasts it adds to the step; where they do not, a share of their time adds to it in any case. As in the real
engine loop (`s2l_jax.orchestrator.engine_loop`), the next step is planned while the current one runs, as late as `Pace`
allows, and if nobody complete waits, when this one is done.
"""

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from s2l_jax.core.costs import CostModel
from s2l_jax.core.outcome import Output
from s2l_jax.core.plan import Sample, SampledToken, StepPlan, StepResult, StepTiming
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.orchestrator.pace import LEAD_SHARE, LONGEST_LEAD_S
from workloads.replay.rows import StepRow

_VOCAB = 4096
_FIRST_TOKEN = 64
_GOLDEN = 0x9E3779B1

StepSeconds = Callable[[StepPlan, float], float]
"""What chunks and samples of a plan take, if the device has stood idle for so many seconds before."""


@dataclass(frozen=True, slots=True)
class Lead:
    """How long before the end of a step the next one is planned; the defaults are the real engine loop's.

    Attributes:
      share: of the step's time; 0 plans it when this one is done.
      longest_s: in any case.
    """

    share: float = LEAD_SHARE
    longest_s: float = LONGEST_LEAD_S


LEAD_OF_ENGINE_LOOP = Lead()


@dataclass(slots=True)
class _Running:
    """A step that has been handed to the device."""

    plan: StepPlan
    timing: StepTiming
    held_blocks: int
    exposed_copies: float

    @property
    def duration_s(self) -> float:
        compute_s, save_s, load_s = self.timing
        return max(compute_s + self.exposed_copies * (save_s + load_s), save_s, load_s)


class SimulatedEngine:
    """One device with at most two steps on it.

    Attributes:
      name: in the table of steps.
      scheduler: decides what runs.
      steps: those that have run, in order.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        costs: CostModel,
        lead: Lead,
        name: str,
        step_s: StepSeconds | None = None,
        exposed_copies: float = 0.0,
    ) -> None:
        """Starts idle.

        Args:
          scheduler: a fresh one.
          costs: how long steps and copies take.
          lead: when the next step is planned.
          name: in the table of steps.
          step_s: how long steps take, if that is known better than from the sums that `costs` are asked with.
          exposed_copies: share of copies' time that adds to their step.
        """
        self.name = name
        self.scheduler = scheduler
        self.steps: list[StepRow] = []
        self._costs = costs
        self._lead = lead
        self._step_s = step_s or self._priced
        self._exposed_copies = exposed_copies
        self._running: deque[_Running] = deque()
        self._started_s = 0.0  # the step that runs; without one, when the device fell idle
        self._plan_s = inf  # when to plan next; inf until something changes

    @property
    def due_s(self) -> float:
        """When something is to be done here; inf if nothing is before an event comes from outside."""
        return min(self._end_s, self._plan_s)

    def wake(self, now_s: float) -> None:
        """Something has come for the scheduler, so there may be something to plan."""
        if not self._running:
            self._plan_s = now_s
        elif len(self._running) > 1 or not self._lead.share:
            self._plan_s = inf
        else:
            duration_s = self._running[0].duration_s
            lead_s = min(self._lead.share * duration_s, self._lead.longest_s)
            self._plan_s = max(now_s, self._started_s + duration_s - lead_s)

    def advance(self, now_s: float) -> list[Output]:
        """Does what is due now: a step ends, or the next one is planned. Returns what was sampled."""
        if self._end_s <= now_s:
            outputs = self._land(now_s)
            self.wake(now_s)
            return outputs
        self._plan_s = inf
        if self._running and self.scheduler.is_ahead:
            return []  # whoever becomes complete before the end wakes us, and is served next
        plan = self.scheduler.plan(now_s)
        if plan is not None:
            idle_s = 0.0
            if not self._running:
                idle_s, self._started_s = now_s - self._started_s, now_s
            self._running.append(self._start(plan, idle_s))
            self.wake(now_s)
        return []

    @property
    def _end_s(self) -> float:
        return self._started_s + self._running[0].duration_s if self._running else inf

    def _start(self, plan: StepPlan, idle_s: float) -> _Running:
        return _Running(plan, self._timing(plan, idle_s), self.scheduler.held_blocks, self._exposed_copies)

    def _timing(self, plan: StepPlan, idle_s: float) -> StepTiming:
        computes = bool(plan.chunks or plan.samples)
        return StepTiming(
            compute_s=self._step_s(plan, idle_s) if computes else 0.0,
            save_s=self._costs.swap_out(len(plan.saves)),
            load_s=self._costs.swap_in(len(plan.loads)),
        )

    def _priced(self, plan: StepPlan, _idle_s: float) -> float:
        return self._costs.step(plan.shape)

    def _land(self, now_s: float) -> list[Output]:
        """The oldest step is done; the one behind it starts."""
        step = self._running.popleft()
        shape = step.plan.shape
        self.steps.append(
            StepRow(
                self.name,
                self._started_s,
                now_s - self._started_s,
                step.timing.compute_s,
                shape.prefill_tokens,
                shape.decodes,
                len(step.plan.saves),
                len(step.plan.loads),
                step.held_blocks,
            )
        )
        self._started_s = now_s
        tokens = tuple(_made_up_token(sample) for sample in step.plan.samples)
        return self.scheduler.commit(StepResult(step.plan, tokens, step.timing), now_s)


def _made_up_token(sample: Sample) -> SampledToken:
    """Any token will do, if it depends on session and position alone."""
    return SampledToken(_FIRST_TOKEN + (zlib.crc32(sample.session_id.encode()) + sample.position * _GOLDEN) % _VOCAB)
