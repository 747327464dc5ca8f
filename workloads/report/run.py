"""A finished run, read back from its folder."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2l_jax.core.errors import InvalidArgument
from workloads.replay.rows import EventRow, SessionRow, StepRow, read_event_rows, read_session_rows, read_step_rows
from workloads.replay.summary import read_summary


@dataclass(frozen=True, slots=True)
class Run:
    """A run as reports see it.

    Attributes:
      name: short, unique among the runs of a report.
      summary: contents of `summary.json`.
      sessions: rows of `sessions.parquet`.
      events: rows of `events.parquet`.
      steps: rows of `steps.parquet`; empty unless the run was simulated.
    """

    name: str
    summary: dict[str, Any]
    sessions: list[SessionRow]
    events: list[EventRow]
    steps: list[StepRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether runs gave the same answers.

    Attributes:
      compared: sessions that completed in every run.
      differing: those of them whose answers differ: `(question, (answer of each run, ...))`.
      mismatch: why the answers cannot be compared, empty if they can.
    """

    compared: int
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    mismatch: str = ""

    @property
    def equal(self) -> int:
        """Sessions whose answers are equal in all runs."""
        return self.compared - len(self.differing)

    def describe(self) -> str:
        """In a sentence, with the questions whose answers differ."""
        if self.mismatch:
            return f"Answers cannot be compared: {self.mismatch}."
        lines = [f"{self.equal} of {self.compared} answers are equal in all runs."]
        return "\n".join(lines + [f"  differs: {question}" for question, _ in self.differing])


def failures(run: Run) -> list[str]:
    """Why sessions of a run did not complete, each reason once with how many it hit, the commonest first."""
    reasons = Counter(row.error or row.finish_reason or "no end" for row in run.sessions if not row.completed)
    return [f"{count} of {len(run.sessions)} sessions: {reason}" for reason, count in reasons.most_common()]


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs, named by their folders; by as much of the path as it takes to tell them apart.

    Raises:
      InvalidArgument: a folder does not hold a run, or is given twice.
    """
    folders = [folder.resolve() for folder in folders]
    if len(set(folders)) < len(folders):
        raise InvalidArgument("a folder is given twice; compare different runs")
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return [_load(folder, "/".join(folder.parts[-depth:])) for folder in folders]


def _load(folder: Path, name: str) -> Run:
    summary = read_summary(folder)
    try:
        return Run(name, summary, read_session_rows(folder), read_event_rows(folder), read_step_rows(folder))
    except OSError as error:
        raise InvalidArgument(f"{folder}: the run's tables cannot be read ({error})") from error


def answers_agree(runs: Sequence[Run]) -> Agreement:
    """Compares answers session by session; greedy decoding must give equal ones however the context was sent."""
    if len({run.summary.get("trace_sha256") for run in runs}) > 1:
        return Agreement(0, (), "the runs replayed different traces")
    if any("simulation" in run.summary for run in runs):
        return Agreement(0, (), "a simulated run has no answers")
    if len({run.summary.get("model") for run in runs}) > 1:
        return Agreement(0, (), "the runs used different models")
    answers = [{row.session: row for row in run.sessions if row.completed} for run in runs]
    common = [session for session in answers[0] if all(session in rows for rows in answers)]
    differing = []
    for session in common:
        texts = tuple(rows[session].text for rows in answers)
        if len(set(texts)) > 1:
            differing.append((answers[0][session].question or session, texts))
    return Agreement(len(common), tuple(differing))
