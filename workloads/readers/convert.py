"""Writes what a reader finds as a trace of ours, session by session."""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2l_jax.core.errors import InvalidArgument
from workloads.readers.encode import Encoding
from workloads.readers.found import Bad, Draft, Skipped, Source
from workloads.trace import Event, Header, TraceError, TraceWriter
from workloads.trace.order import EventOrder

_NAMED = 5  # bad rows that are kept by their places


@dataclass(frozen=True, slots=True)
class Limits:
    """What is left out.

    Attributes:
      sessions: at most so many, the first ones; None is all.
      max_prompt_tokens: sessions with a longer context are skipped; None takes all.
      skip_bad: skip bad rows instead of stopping at the first.
    """

    sessions: int | None = None
    max_prompt_tokens: int | None = None
    skip_bad: bool = False


@dataclass(slots=True)
class Converted:
    """What was written, and what was not.

    Attributes:
      sessions: written.
      events: written.
      skipped: how often what was left out.
      bad: the first few bad rows.
    """

    sessions: int = 0
    events: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


def header_of(source: Source, encoding: Encoding) -> Header:
    """The header of the trace that a source becomes."""
    details: dict[str, Any] = dict(source.details)
    if encoding.tokens:
        details["tokens"] = encoding.tokens
    if made_up := "; ".join((*source.made_up, *encoding.made_up)):
        details["made_up"] = made_up
    return Header(source.name, source.source, details)


def convert(source: Source, encoding: Encoding, out: Path, limits: Limits) -> Converted:
    """Converts a source; memory holds the sessions that are open at one time.

    Raises:
      TraceError: the source has a bad row, or nothing that could be written.
      InvalidArgument: a limit in tokens is given, but the trace is to be text.
    """
    done = Converted()
    order = EventOrder()
    with TraceWriter(out, header_of(source, encoding)) as writer:
        for found in source.found:
            if isinstance(found, Draft):
                events = encoding.encode(found.events)
                if limits.max_prompt_tokens is not None and prompt_tokens(events) > limits.max_prompt_tokens:
                    done.skipped[f"sessions of more than {limits.max_prompt_tokens} tokens"] += 1
                    continue
                done.events += _write(writer, order, events[0].t_s)
                order.add(events)
                done.sessions += 1
                if done.sessions == limits.sessions:
                    break
            elif isinstance(found, Skipped):
                done.skipped[found.what] += 1
            else:
                _refuse(found, done, limits.skip_bad)
        done.events += _write(writer, order, math.inf)
        if not done.sessions:
            raise TraceError(f"no session could be written; skipped: {dict(done.skipped) or 'nothing'}")
    return done


def prompt_tokens(events: tuple[Event, ...]) -> int:
    """Tokens of a session's complete context.

    Raises:
      InvalidArgument: the context is text.
    """
    tokens = 0
    for event in events:
        if event.text is not None:
            raise InvalidArgument("a limit in tokens needs tokens: give --tokenize MODEL or --tokens-per-char")
        tokens = event.size + (event.keep_tokens if event.op == "update" else tokens)
    return tokens


def _write(writer: TraceWriter, order: EventOrder, until_s: float) -> int:
    count = 0
    for event in order.until(until_s):
        writer.write(event)
        count += 1
    return count


def _refuse(bad: Bad, done: Converted, skip: bool) -> None:
    text = f"{bad.where}: {bad.problem}"
    if not skip:
        raise TraceError(f"{text} (--skip-bad leaves such rows out)")
    done.skipped["bad rows"] += 1
    if len(done.bad) < _NAMED:
        done.bad.append(text)
