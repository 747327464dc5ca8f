"""What the live page shows, as one bounded JSON object."""

import heapq
import math
from collections.abc import Iterable
from typing import Any

from s2l_jax.orchestrator.counters import OrchestratorStats
from serving.dashboard.history import History, Moment
from serving.metrics.declared import BY_NAME
from serving.metrics.readings import ServerFacts
from serving.watch.book import Book
from serving.watch.record import Phase, SessionRecord

MOST_ROWS = 130
MOST_BARS = 40
MOST_TICKS = 32
_ID_CHARS = 8  # enough to find a session in the log, and too few to act for it
_CODES = {phase: code for code, phase in enumerate(Phase)}
_BOUNDS_S = tuple(bound for bound in BY_NAME["s2l_time_to_first_token_seconds"].buckets if 0.005 <= bound <= 160)


def state_of(
    book: Book,
    stats: OrchestratorStats,
    facts: ServerFacts,
    history: History,
    *,
    now_s: float,
    window_s: float,
    tenant: str,
) -> dict[str, Any]:
    """The object.

    Args:
      book: the records.
      stats: a snapshot of the orchestrator.
      facts: about the server.
      history: samples.
      now_s: the time on the orchestrator's clock; all times in the object are on it.
      window_s: how far to look back.
      tenant: who looks: sees names of its own sessions only; an empty one sees all.
    """
    from_s = now_s - window_s
    counts = book.counts()
    with book.lock:
        running, ended = list(book.open.values()), list(book.ended)
    ended_in_window = [record for record in ended if record.end_s is not None and record.end_s > from_s]
    drawn = _most_active([*running, *ended_in_window])
    with book.lock:
        rows = [_row(record, from_s, tenant) for record in drawn]
    first_tokens = [(record.ttft_final_s, record.ttft_open_s) for record in (*ended, *running)]
    scheduler, counters = stats.scheduler, stats.counters
    return {
        "now_s": round(now_s, 3),
        "window_s": window_s,
        "server": {
            "model": facts.model,
            "version": facts.version,
            "policy": facts.policy,
            "block_size": facts.block_size,
        },
        "phases": {phase.value: number for phase, number in counts.phases.items()},
        "totals": {
            "opened": counters.sessions_opened,
            "refused": counters.sessions_refused,
            "completed": counters.sessions_completed,
            "failed": counters.sessions_failed,
            "cancelled": counters.sessions_cancelled,
            "output_tokens": counters.tokens_output,
            "steps": counters.steps,
            "preemptions": scheduler.preemptions.swap + scheduler.preemptions.recompute + scheduler.preemptions.drop,
        },
        "memory": {
            "device": {
                "held": scheduler.held_blocks,
                "cached": scheduler.cached_blocks,
                "free": scheduler.free_blocks,
                "total": scheduler.total_blocks,
            },
            "host": {
                "swapped": scheduler.host.swapped,
                "backups": scheduler.host.backups,
                "free": scheduler.host.free,
                "total": scheduler.host.total,
            },
        },
        "history": {"fields": Moment._fields, "samples": history.since(from_s)},
        "ttft": {
            "bounds_s": _BOUNDS_S,
            "final": _distribution(final_s for final_s, _ in first_tokens),
            "open": _distribution(open_s for _, open_s in first_tokens),
        },
        "sessions": {"rows": rows, "in_window": len(running) + len(ended_in_window)},
    }


def _most_active(records: list[SessionRecord]) -> list[SessionRecord]:
    """The `MOST_ROWS` sessions that changed last, in the order of their opening, the newest first."""
    found = heapq.nlargest(MOST_ROWS, records, key=lambda record: record.end_s or record.phases[-1][1])
    return sorted(found, key=lambda record: -record.opening.now_s)


def _row(record: SessionRecord, from_s: float, tenant: str) -> dict[str, Any]:
    opening, phases = record.opening, record.phases
    starts = [*(at_s for _, at_s in phases[1:]), math.inf]
    bars = [
        (_CODES[phase], round(at_s, 3)) for (phase, at_s), next_s in zip(phases, starts, strict=True) if next_s > from_s
    ]
    is_own = tenant in ("", opening.tenant)
    return {
        "id": opening.session_id.removeprefix(f"{opening.tenant}/")[:_ID_CHARS] if is_own else "",
        "tenant": opening.tenant[:32] if is_own else "",
        "open_s": round(opening.now_s, 3),
        "end_s": None if record.end_s is None else round(record.end_s, 3),
        "bars": bars[-MOST_BARS:],
        "ticks": [round(chunk.at_s, 3) for chunk in record.chunks if chunk.at_s > from_s][-MOST_TICKS:],
        "context_tokens": record.context_tokens,
        "output_tokens": record.output_tokens,
        "ttft_s": None if record.ttft_final_s is None else round(record.ttft_final_s, 4),
        "reason": record.status or record.reason,
    }


def _distribution(times_s: Iterable[float | None]) -> dict[str, Any]:
    """Counts up to each bound and beyond the last one, and percentiles; of the sessions that have a first token."""
    known = sorted(time_s for time_s in times_s if time_s is not None)
    counts = [0] * (len(_BOUNDS_S) + 1)
    place = 0
    for time_s in known:
        while place < len(_BOUNDS_S) and time_s > _BOUNDS_S[place]:
            place += 1
        counts[place] += 1
    shares = {
        f"p{share}": known[min(len(known) - 1, len(known) * share // 100)] if known else None for share in (50, 95, 99)
    }
    return {"counts": counts, "sessions": len(known), **shares}
