"""What a cell gave: its replicas together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workloads.replay.summary import distribution
from workloads.sweep.cell import Cell
from workloads.sweep.replica import ReplicaResult

Distribution = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class CellResult:
    """Figures of a cell. Distributions are over the sessions of all replicas.

    Attributes:
      cell: what was simulated.
      ttft_final_s: mean and percentiles.
      ttft_open_s: likewise.
      tpot_s: likewise; None each where nobody got two tokens.
      failed: sessions that did not complete.
      tokens: sums over sessions, by kind.
      preemptions: counts by kind.
      steps: of all engines.
      kv_blocks: of one replica's pool.
      kv_peak_share: of the pool, held at most in any replica.
      busy_share: of the time in which replicas had sessions, the mean in which a step ran.
      took_s: real seconds of one core.
    """

    cell: Cell
    ttft_final_s: Distribution
    ttft_open_s: Distribution
    tpot_s: Distribution
    failed: int
    tokens: dict[str, int]
    preemptions: dict[str, int]
    steps: int
    kv_blocks: int
    kv_peak_share: float
    busy_share: float
    took_s: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "CellResult":
        """Reads what `to_json` gave."""
        return cls(**{**value, "cell": Cell(**value["cell"])})


def merge(cell: Cell, replicas: Sequence[ReplicaResult]) -> CellResult:
    """Puts the results of all replicas of a cell together."""
    return CellResult(
        cell=cell,
        ttft_final_s=distribution(value_s for replica in replicas for value_s in replica.ttft_final_s),
        ttft_open_s=distribution(value_s for replica in replicas for value_s in replica.ttft_open_s),
        tpot_s=distribution(value_s for replica in replicas for value_s in replica.tpot_s),
        failed=sum(replica.failed for replica in replicas),
        tokens=_sum(replica.tokens for replica in replicas),
        preemptions=_sum(replica.preemptions for replica in replicas),
        steps=sum(replica.steps for replica in replicas),
        kv_blocks=replicas[0].kv_blocks,
        kv_peak_share=max(replica.kv_peak_blocks for replica in replicas) / replicas[0].kv_blocks,
        busy_share=sum(replica.busy_s for replica in replicas) / sum(replica.wall_s for replica in replicas),
        took_s=sum(replica.took_s for replica in replicas),
    )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(total)
