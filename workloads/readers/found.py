"""What readers find in the files of other formats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2l_jax.core.errors import InvalidArgument
from workloads.prompt import Prompt
from workloads.trace import Event, Op

Progress = Callable[[int, int], None]
"""Told `(done, total)`, in bytes or files; a total of 0 is unknown."""


def ignore(done: int, total: int) -> None:
    """A `Progress` that nobody looks at."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A text by name; texts of the same name are equal."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class TextEvent:
    """An event that brings text; how it is written (as text, as tokens, by its size) is decided later.

    Attributes:
      t_s: seconds since the start of the trace.
      session: the session's id.
      op: what happens.
      pieces: the content; an `update` brings all of the new context.
      max_tokens: output tokens at most, `open` only.
      note: for people.
    """

    t_s: float
    session: str
    op: Op
    pieces: tuple[TextPiece, ...] = ()
    max_tokens: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A whole session, in order of time; `finish` is its last event."""

    events: tuple[Event | TextEvent, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is as its format has it, but of no use in a trace.

    Attributes:
      what: says so, in the plural; equal ones are counted together.
      where: file, and row if there is one.
    """

    what: str
    where: str


@dataclass(frozen=True, slots=True)
class Bad:
    """Something that is not as its format has it.

    Attributes:
      where: file and line.
      problem: what was expected, and what was found.
    """

    where: str
    problem: str


class RowError(Exception):
    """What is wrong with a row; its reader knows where it is and makes a `Bad` of it."""


Found = Draft | Skipped | Bad


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What formats leave open.

    Attributes:
      seed: of all that is made up.
      qps: Poisson arrivals per second, where a format has no arrivals.
      chunks: make up when pieces of context arrive, where a format does not tell; False makes plain requests.
      max_tokens: output tokens at most, where a format does not tell; those that tell are cut to it. None leaves them,
        and asks for one token where nothing is told, as the paper's workloads do.
      prompt: what stands around texts.
    """

    seed: int = 0
    qps: float = 1.0
    chunks: bool = True
    max_tokens: int | None = None
    prompt: Prompt = field(default_factory=Prompt)

    def __post_init__(self) -> None:
        if not 0.0 < self.qps < float("inf"):
            raise InvalidArgument(f"qps is {self.qps}, but must be above 0")

    def output_tokens(self, told: int | None = None) -> int:
        """Output tokens of a session, given what its format tells."""
        if told is None:
            return self.max_tokens or 1
        return told if self.max_tokens is None else min(told, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Source:
    """An opened file or folder.

    Attributes:
      name: of the workload.
      source: where its content and timing come from, and under which licence.
      made_up: what it does not tell and the reader makes up.
      found: what is in it; sessions in order of arrival.
      details: for the header.
    """

    name: str
    source: str
    made_up: tuple[str, ...]
    found: Iterator[Found]
    details: dict[str, Any] = field(default_factory=dict)


Reader = Callable[[Path, ReadOptions, Progress], Source]
