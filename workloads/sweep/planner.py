"""The least hardware that meets an objective: how many replicas a load needs."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from s2l_jax.core.errors import InvalidArgument
from workloads.sweep.cell import Cell
from workloads.sweep.replica import run_replica
from workloads.sweep.result import CellResult, Distribution, merge

_LEAST_ARRIVING_S = 120.0
_MOST_TIMES = 3
Quantity = Literal["ttft_final_s", "ttft_open_s", "tpot_s"]
_LIMIT = re.compile(r"(mean|p50|p95|p99|p999)=([0-9.]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limit:
    """One figure that must not be exceeded.

    Attributes:
      quantity: which distribution.
      figure: `mean`, `p50`, `p95`, `p99` or `p999`.
      most_s: seconds at most.
    """

    quantity: Quantity
    figure: str
    most_s: float

    @classmethod
    def parse(cls, quantity: Quantity, text: str) -> "Limit":
        """Reads `P99=2.0`.

        Raises:
          InvalidArgument: it is something else.
        """
        found = _LIMIT.fullmatch(text.strip())
        if found is None or not float(found[2]) > 0:
            raise InvalidArgument(f"{text!r} is no limit; expected for example P99=2.0, or mean, P50, P95, P999")
        return cls(quantity, found[1].lower(), float(found[2]))

    def is_met(self, result: CellResult) -> bool:
        """True if the figure is there and small enough."""
        values: Distribution = getattr(result, self.quantity)
        value_s = values[self.figure]
        return value_s is not None and value_s <= self.most_s

    def __str__(self) -> str:
        name = self.quantity.removesuffix("_s").replace("_", " ").upper().replace("FINAL", "from the last chunk")
        return f"{name.replace('OPEN', 'from the question')} {self.figure.upper()} of {self.most_s:g} s"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one kind of hardware needs.

    Attributes:
      result: of one replica, with the least number of replicas that meets all limits; None if no number does.
      tried: results by number of replicas, one replica simulated for each.
      missed: the limit that so many replicas miss; None if there is an answer, or because sessions failed.
    """

    result: CellResult | None
    tried: dict[int, CellResult]
    missed: Limit | None = None

    @property
    def replicas(self) -> int:
        """Least number of replicas; 0 if no number will do."""
        return 0 if self.result is None else self.result.cell.replicas


def least_replicas(
    cell: Cell,
    limits: Sequence[Limit],
    most: int,
    on_try: Callable[[int], None] | None = None,
) -> Answer:
    """Searches the least number of replicas by doubling, then by halving the gap.

    Replicas that share a load evenly are alike, so one of each number is simulated: `cell.sessions` sessions at its
    share of the rate. More replicas are taken to be never worse.

    Args:
      cell: the load; its `sessions` are those of one replica, or up to three times as many if they would arrive within
        two minutes, in which hardly a queue builds up; its `replicas` do not matter.
      limits: all must be met.
      most: replicas at most.
      on_try: told each number that is about to be tried.

    Raises:
      InvalidArgument: there is no limit, or the hardware cannot run this at all.
    """
    if not limits:
        raise InvalidArgument("there is no objective: give one, for example --ttft P99=2.0")
    tried: dict[int, CellResult] = {}

    def meets(count: int) -> bool:
        if count not in tried:
            if on_try is not None:
                on_try(count)
            qps = cell.qps / count
            sessions = max(cell.sessions, min(_MOST_TIMES * cell.sessions, math.ceil(qps * _LEAST_ARRIVING_S)))
            alone = replace(cell, qps=qps, sessions=sessions, replicas=1)
            whole = replace(cell, sessions=sessions * count, replicas=count)
            tried[count] = replace(merge(alone, [run_replica(alone, 0)]), cell=whole)
        return not tried[count].failed and all(limit.is_met(tried[count]) for limit in limits)

    low, high = 0, 1
    while not meets(high):
        low, high = high, min(most, 2 * high)
        if low == high:
            missed = next((limit for limit in limits if not limit.is_met(tried[high])), None)
            return Answer(None, tried, missed)
    while high - low > 1:
        middle = math.ceil((low + high) / 2)
        low, high = (low, middle) if meets(middle) else (middle, high)
    return Answer(tried[high], tried)
