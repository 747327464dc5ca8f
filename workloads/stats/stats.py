"""What a trace is like, in figures."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workloads.stats.context import Shared, context_for
from workloads.trace import Event, Header

PERCENTILES = (5, 25, 50, 75, 95, 99)
STATISTICS = ("mean", *(f"p{percent}" for percent in PERCENTILES), "max")
_VERSIONS = 5


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that a trace has many values of.

    Attributes:
      label: for people.
      unit: of the values, empty for counts.
    """

    label: str
    unit: str = ""


QUANTITIES: Mapping[str, Quantity] = {
    "tokens": Quantity("tokens per query"),
    "output_tokens": Quantity("output tokens asked for"),
    "retrieval_s": Quantity("retrieval time", "s"),
    "chunks": Quantity("chunks per query"),
    "gap_s": Quantity("gap between chunks", "s"),
    "arrival_gap_s": Quantity("gap between arrivals", "s"),
    "kept_share": Quantity("share that a new version keeps"),
}


@dataclass(frozen=True, slots=True)
class TraceStats:
    """The figures of a trace.

    Attributes:
      header: what the trace says of itself.
      counted: where token counts come from, for people; empty if nobody said.
      sessions: how many there are.
      values: of each of `QUANTITIES`, float64; empty if there are none.
      kept_by_version: mean share of the first version that the second one keeps, of the second that the third does, ...
      tokens: of all complete contexts.
      shared_prefix: share of these in beginnings that an earlier session's context has, too.
      shared_content: share of these in parts that an earlier session's context has anywhere; None if parts are unknown.
    """

    header: Header
    counted: str
    sessions: int
    values: Mapping[str, np.ndarray]
    kept_by_version: Sequence[float]
    tokens: int
    shared_prefix: float
    shared_content: float | None

    @property
    def arrivals_per_s(self) -> float | None:
        """Rate of arrivals; None for fewer than two, or all at once."""
        gaps_s = self.values["arrival_gap_s"]
        return 1.0 / float(gaps_s.mean()) if gaps_s.sum() > 0.0 else None

    @property
    def burstiness(self) -> float | None:
        """Standard deviation of the gaps between arrivals over their mean; 1 for a Poisson process."""
        gaps_s = self.values["arrival_gap_s"]
        return float(gaps_s.std() / gaps_s.mean()) if gaps_s.sum() > 0.0 else None

    def summary(self, quantity: str) -> dict[str, float] | None:
        """Mean, percentiles and maximum of a quantity, by names of `STATISTICS`; None if it has no values."""
        values = self.values[quantity]
        if not len(values):
            return None
        found = (values.mean(), *np.percentile(values, PERCENTILES), values.max())
        return dict(zip(STATISTICS, map(float, found), strict=True))

    def to_json(self) -> dict[str, Any]:
        """All figures, JSON values only."""
        return {
            "name": self.header.name,
            "source": self.header.source,
            "made_up": self.header.made_up,
            "tokens_counted": self.counted,
            "sessions": self.sessions,
            "tokens_total": self.tokens,
            "arrivals_per_s": self.arrivals_per_s,
            "burstiness": self.burstiness,
            "shared_prefix": self.shared_prefix,
            "shared_content": self.shared_content,
            "kept_by_version": list(self.kept_by_version),
            **{quantity: self.summary(quantity) for quantity in QUANTITIES},
        }


def gather(header: Header, sessions: Iterable[Sequence[Event]]) -> TraceStats:
    """Goes through a trace once.

    Args:
      header: what it says of itself.
      sessions: each one's events, none of them with text; in order of arrival.
    """
    counts = _Counts()
    for events in sessions:
        counts.add(events)
    shared = counts.shared
    return TraceStats(
        header,
        "",
        counts.sessions,
        {name: np.array(counts.values[name], np.float64) for name in QUANTITIES},
        [kept / times for kept, times in zip(counts.kept, counts.updates, strict=True) if times],
        shared.tokens,
        shared.prefix_tokens / max(1, shared.tokens),
        shared.content_tokens / max(1, shared.tokens) if shared.knows_content else None,
    )


@dataclass(slots=True)
class _Counts:
    """What has been seen so far."""

    sessions: int = 0
    values: dict[str, "array[float]"] = field(default_factory=lambda: {name: array("d") for name in QUANTITIES})
    kept: list[float] = field(default_factory=lambda: [0.0] * _VERSIONS)
    updates: list[int] = field(default_factory=lambda: [0] * _VERSIONS)
    shared: Shared = field(default_factory=Shared)
    last_arrival_s: float = 0.0

    def add(self, events: Sequence[Event]) -> None:
        """Takes a session."""
        arrival_s = events[0].t_s
        if self.sessions:
            self.values["arrival_gap_s"].append(arrival_s - self.last_arrival_s)
        self.sessions, self.last_arrival_s = self.sessions + 1, arrival_s
        if events[0].max_tokens is not None:
            self.values["output_tokens"].append(events[0].max_tokens)
        self.values["retrieval_s"].append(events[-1].t_s - arrival_s)
        self._add_context(events)
        chunks_s = [event.t_s for event in events if event.op in ("append", "update") and event.size]
        self.values["chunks"].append(len(chunks_s))
        self.values["gap_s"].extend(np.diff(chunks_s))

    def _add_context(self, events: Sequence[Event]) -> None:
        context = context_for(events)
        versions = 0
        for event in events:
            if not event.has_content:
                continue
            before = context.size
            kept = context.change(event)
            if event.op == "update" and versions and before:
                self._add_update(versions - 1, kept / before)
            versions += event.op == "update"
        self.values["tokens"].append(context.size)
        self.shared.add(context)

    def _add_update(self, number: int, share: float) -> None:
        """Takes what a new version keeps of the one before it."""
        self.values["kept_share"].append(share)
        if number < _VERSIONS:
            self.kept[number] += share
            self.updates[number] += 1
