"""A trace beside the published statistics of a workload."""

from dataclasses import dataclass

from workloads.published import PUBLISHED
from workloads.stats.stats import TraceStats


@dataclass(frozen=True, slots=True)
class Comparison:
    """One published figure.

    Attributes:
      quantity: one of `QUANTITIES`.
      statistic: one of `STATISTICS`.
      published: its value.
      found: the trace's; None if it has no such values.
    """

    quantity: str
    statistic: str
    published: float
    found: float | None

    @property
    def error(self) -> float | None:
        """Relative to the published value."""
        return None if self.found is None else self.found / self.published - 1.0


def compare(stats: TraceStats, workload: str) -> list[Comparison]:
    """All published figures of a workload, each with the trace's."""
    rows = []
    for quantity, figures in PUBLISHED[workload].items():
        found = stats.summary(quantity) or {}
        rows += [Comparison(quantity, name, value, found.get(name)) for name, value in figures.items()]
    return rows
