"""What a replay measures: one row per session, one per event, and their files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

SESSIONS_FILE = "sessions.parquet"
EVENTS_FILE = "events.parquet"
STEPS_FILE = "steps.parquet"


@dataclass(slots=True)
class SessionRow:
    """One session as its user saw it. Times are seconds since the replay's start on the client's clock.

    Attributes:
      session: id.
      question: what was asked, for people.
      arrival_s: when the query arrived.
      last_chunk_s: when the context was complete, by schedule: a late client must not flatter the server.
      first_token_s: when the first token came, None if none did.
      done_s: when the session ended, one way or the other.
      ttft_final_s: first token after the last chunk.
      ttft_open_s: first token after the query's arrival.
      server_ttft_final_s: as `ttft_final_s`, on the server's clock.
      server_ttft_open_s: first token after the server saw the session, on its clock.
      tpot_s: mean time per output token after the first.
      prompt_tokens: length of the context.
      output_tokens: tokens that came out.
      computed_tokens: prompt tokens ever computed, recomputation included.
      reused_tokens: prompt tokens taken from KV that existed already.
      invalidated_tokens: computed tokens that updates threw away.
      restored_tokens: own tokens that came back from host or cache after the session had lost them.
      recomputed_tokens: own tokens computed again after the session had lost them.
      preemptions: how often the session lost KV blocks.
      chunks: pieces of context that the retriever brought after the query.
      send_lag_s: latest that a piece was sent after it was due.
      finish_reason: `stop`, `length`, `cancelled`; empty if the session did not finish.
      error: what went wrong; empty if nothing did.
      text: the output.
    """

    session: str
    question: str
    arrival_s: float
    last_chunk_s: float
    first_token_s: float | None = None
    done_s: float | None = None
    ttft_final_s: float | None = None
    ttft_open_s: float | None = None
    server_ttft_final_s: float | None = None
    server_ttft_open_s: float | None = None
    tpot_s: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    computed_tokens: int = 0
    reused_tokens: int = 0
    invalidated_tokens: int = 0
    restored_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    chunks: int = 0
    send_lag_s: float = 0.0
    finish_reason: str = ""
    error: str = ""
    text: str = ""

    @property
    def completed(self) -> bool:
        """True if the session came to its regular end."""
        return not self.error and self.finish_reason in ("stop", "length")


@dataclass(frozen=True, slots=True)
class EventRow:
    """One thing that happened in a replay.

    Attributes:
      session: id.
      t_s: seconds since the replay's start.
      kind: `arrival` of the query, `chunk` from the retriever; `open`, `append`, `update`, `finish` (sent); `token`,
        `done`, `error` (received).
      due_s: when it should have been sent, None for what was received.
      size: characters or tokens sent, tokens received.
      note: address of a page, error.
    """

    session: str
    t_s: float
    kind: str
    due_s: float | None = None
    size: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of a simulated engine.

    Attributes:
      engine: which one.
      start_s: seconds since the replay's start.
      duration_s: computation, or copies that outlast it.
      compute_s: computation alone.
      prefill_tokens: prompt tokens computed.
      decodes: sessions that decoded a token.
      saved_blocks: blocks copied to the host.
      loaded_blocks: blocks copied from it.
      held_blocks: blocks that sessions held once the step was planned.
    """

    engine: str
    start_s: float
    duration_s: float
    compute_s: float
    prefill_tokens: int
    decodes: int
    saved_blocks: int
    loaded_blocks: int
    held_blocks: int


_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    float: pa.float64(),
    int: pa.int64(),
    float | None: pa.float64(),
}


def _schema(row_type: type) -> pa.Schema:
    hints = get_type_hints(row_type)
    return pa.schema([(field.name, _ARROW_TYPES[hints[field.name]]) for field in fields(row_type)])


def write_rows(folder: Path, sessions: Sequence[SessionRow], events: Sequence[EventRow]) -> None:
    """Writes both tables as parquet files."""
    _write(folder / SESSIONS_FILE, SessionRow, sessions)
    _write(folder / EVENTS_FILE, EventRow, events)


def write_step_rows(folder: Path, steps: Sequence[StepRow]) -> None:
    """Writes the table of steps as a parquet file."""
    _write(folder / STEPS_FILE, StepRow, steps)


def _write(path: Path, row_type: type, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema(row_type))
    pq.write_table(table, path, compression="zstd")


def read_session_rows(folder: Path) -> list[SessionRow]:
    """Reads the table of sessions."""
    return [SessionRow(**row) for row in pq.read_table(folder / SESSIONS_FILE).to_pylist()]


def read_step_rows(folder: Path) -> list[StepRow]:
    """Reads the table of steps; empty if the run was not simulated."""
    path = folder / STEPS_FILE
    return [StepRow(**row) for row in pq.read_table(path).to_pylist()] if path.exists() else []


def read_event_rows(folder: Path) -> list[EventRow]:
    """Reads the table of events."""
    return [EventRow(**row) for row in pq.read_table(folder / EVENTS_FILE).to_pylist()]
