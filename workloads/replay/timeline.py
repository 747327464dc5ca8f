"""A run as a Chrome trace: opens in Perfetto (ui.perfetto.dev) or chrome://tracing."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workloads.replay.rows import SessionRow, StepRow

TIMELINE_FILE = "timeline.json"
_US = 1e6
_ENGINE, _SESSIONS = 1, 2


def write_timeline(folder: Path, sessions: Sequence[SessionRow], steps: Sequence[StepRow]) -> None:
    """Writes `timeline.json`: each step of each engine, the KV that is held, and each session's three phases.

    The format is Chrome's "Trace Event Format": complete events (`X`) and counters (`C`), times in microseconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TIMELINE_FILE).open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        file.write(",\n".join(json.dumps(event) for event in (*_of_steps(steps), *_of_sessions(sessions))))
        file.write("\n]}\n")


def _of_steps(steps: Sequence[StepRow]) -> Iterator[dict[str, Any]]:
    yield _name(_ENGINE, "process_name", "engines")
    threads: dict[str, int] = {}
    for step in steps:
        if step.engine not in threads:
            threads[step.engine] = len(threads)
            yield _name(_ENGINE, "thread_name", step.engine, threads[step.engine])
        args = {
            "prefill_tokens": step.prefill_tokens,
            "decodes": step.decodes,
            "saved_blocks": step.saved_blocks,
            "loaded_blocks": step.loaded_blocks,
        }
        kind = "mixed" if step.prefill_tokens and step.decodes else "prefill" if step.prefill_tokens else "decode"
        yield _span(kind, _ENGINE, threads[step.engine], step.start_s, step.duration_s, args)
        yield {
            "ph": "C",
            "name": f"{step.engine} KV blocks",
            "pid": _ENGINE,
            "ts": step.start_s * _US,
            "args": {"held": step.held_blocks},
        }


def _of_sessions(sessions: Sequence[SessionRow]) -> Iterator[dict[str, Any]]:
    yield _name(_SESSIONS, "process_name", "sessions")
    for thread, row in enumerate(sessions):
        yield _name(_SESSIONS, "thread_name", row.session, thread)
        end_s = row.last_chunk_s if row.done_s is None else row.done_s
        first_s = end_s if row.first_token_s is None else row.first_token_s
        yield _span("retrieval", _SESSIONS, thread, row.arrival_s, row.last_chunk_s - row.arrival_s, {})
        yield _span("TTFT", _SESSIONS, thread, row.last_chunk_s, first_s - row.last_chunk_s, {})
        yield _span("answer", _SESSIONS, thread, first_s, end_s - first_s, {"output_tokens": row.output_tokens})


def _name(process: int, what: str, name: str, thread: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _span(
    name: str, process: int, thread: int, start_s: float, duration_s: float, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "pid": process,
        "tid": thread,
        "ts": start_s * _US,
        "dur": max(0.0, duration_s) * _US,
        "args": args,
    }
