"""What each step of an engine took, beside what the cost model had said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from s2l_jax.core.costs import CostModel, StepShape
from s2l_jax.core.plan import StepPlan, StepResult, StepTiming
from s2l_jax.engine.protocol import Engine, Progress


class StepRecord(NamedTuple):
    """One step: its shape, how many of its tokens had been computed before, blocks saved and loaded, seconds."""

    shape: StepShape
    recomputed_tokens: int
    saves: int
    loads: int
    timing: StepTiming


@dataclass
class RecordingEngine:
    """Passes everything on and keeps a record of each step. Its records are for when the engine has been closed."""

    engine: Engine
    records: list[StepRecord] = field(default_factory=list)
    _computed: dict[str, int] = field(default_factory=dict)

    def warmup(self, progress: Progress | None = None) -> None:
        self.engine.warmup(progress)

    def submit(self, plan: StepPlan) -> None:
        self.engine.submit(plan)

    def collect(self) -> StepResult:
        return self._record(self.engine.collect())

    def is_ready(self) -> bool:
        return self.engine.is_ready()

    def execute(self, plan: StepPlan) -> StepResult:
        return self._record(self.engine.execute(plan))

    def close(self) -> None:
        self.engine.close()

    def _record(self, result: StepResult) -> StepResult:
        plan = result.plan
        recomputed = 0
        for chunk in plan.chunks:
            before = self._computed.get(chunk.session_id, 0)
            recomputed += max(0, min(before, chunk.end) - chunk.start)
            self._computed[chunk.session_id] = max(before, chunk.end)
        self.records.append(StepRecord(plan.shape, recomputed, len(plan.saves), len(plan.loads), result.timing))
        return result


@dataclass(frozen=True)
class Prediction:
    """What the cost model said of one kind of work, and what it took.

    Attributes:
      work: what it is.
      count: steps with such work.
      predicted_s: for all of them together.
      actual_s: likewise.
      median_ratio: of actual to predicted, step by step.
      p10_ratio: a tenth of the steps lies below.
      p90_ratio: a tenth of the steps lies above.
    """

    work: str
    count: int
    predicted_s: float
    actual_s: float
    median_ratio: float
    p10_ratio: float
    p90_ratio: float


def predictions(records: Iterable[StepRecord], costs: CostModel) -> list[Prediction]:
    """Predicted against actual seconds by kind of work; kinds that did not occur are left out.

    A step counts as recomputation if half of its tokens, or more, had been computed before. That holds where contexts
    only grow; an update's new tokens look like recomputation.
    """
    records = [record for record in records if any(record.timing)]
    compute = [(costs.step(r.shape), r.timing.compute_s, r) for r in records if any(r.shape)]
    recompute = [
        pair for *pair, r in compute if 2 * r.recomputed_tokens >= max(1, r.shape.prefill_tokens + r.shape.decodes)
    ]
    kinds: dict[str, Sequence[Sequence[float]]] = {
        "step": [pair for *pair, _ in compute],
        "recompute": recompute,
        "swap out": [(costs.swap_out(r.saves), r.timing.save_s) for r in records if r.saves],
        "swap in": [(costs.swap_in(r.loads), r.timing.load_s) for r in records if r.loads],
    }
    return [_prediction(work, np.array(pairs)) for work, pairs in kinds.items() if pairs]


def _prediction(work: str, pairs: np.ndarray) -> Prediction:
    predicted_s, actual_s = pairs.sum(axis=0).tolist()
    p10, p50, p90 = np.percentile(pairs[:, 1] / pairs[:, 0], [10, 50, 90]).tolist()
    return Prediction(work, len(pairs), predicted_s, actual_s, p50, p10, p90)
