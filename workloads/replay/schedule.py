"""When each session arrives and what is sent when: fixed before a replay begins, so a slow server changes nothing."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from s2l_jax.core.errors import InvalidArgument
from workloads.content import joined, made_up
from workloads.replay.target import Piece
from workloads.trace import Event, Session

Mode = Literal["stream", "wait"]
MODES: tuple[Mode, ...] = ("stream", "wait")
DEFAULT_MAX_TOKENS = 32


@dataclass(frozen=True, slots=True)
class PlannedSession:
    """A session as it will be sent.

    Attributes:
      session: its id.
      question: for people.
      arrival_s: when the query arrives, in seconds since the replay's start.
      complete_s: when its context is complete.
      max_tokens: output tokens at most.
      pieces: `(due_s, piece)`, due in seconds since the replay's start; the last piece is final.
      chunks_s: when the retriever brought a piece of context, however it is sent.
    """

    session: str
    question: str
    arrival_s: float
    complete_s: float
    max_tokens: int
    pieces: tuple[tuple[float, Piece], ...]
    chunks_s: tuple[float, ...]


def arrivals(sessions: Sequence[Session], qps: float | None, seed: int) -> list[float]:
    """When sessions arrive, in seconds: a Poisson process at `qps`, or as recorded if that is None.

    The first one arrives at 0.

    Raises:
      InvalidArgument: `qps` is not above 0.
    """
    if qps is None:
        first_s = sessions[0].arrival_s
        return [session.arrival_s - first_s for session in sessions]
    if not 0.0 < qps < float("inf"):
        raise InvalidArgument(f"qps is {qps}, but must be above 0 (leave it out to replay arrivals as recorded)")
    gaps_s = np.random.default_rng(seed).exponential(1.0 / qps, size=len(sessions))
    gaps_s[0] = 0.0
    return np.cumsum(gaps_s).tolist()


def plan_sessions(
    sessions: Sequence[Session], mode: Mode, qps: float | None, seed: int, vocab_size: int
) -> list[PlannedSession]:
    """Lays out a whole replay.

    Args:
      sessions: in order of arrival.
      mode: `stream` sends each event when it happens, `wait` sends one plain request when the context is complete.
      qps: as `arrivals`.
      seed: for arrivals and for made-up tokens.
      vocab_size: made-up tokens are below it.
    """
    planned = []
    for session, arrival_s in zip(sessions, arrivals(sessions, qps, seed), strict=True):
        pieces = _pieces(session, arrival_s - session.arrival_s, seed, vocab_size)
        complete_s = pieces[-1][0]
        chunks_s = tuple(due_s for due_s, piece in pieces if piece.size and piece.op != "open")
        if mode == "wait":
            whole = Piece("open", _whole(piece for _, piece in pieces), final=True)
            pieces = [(complete_s, whole)]
        opened = session.events[0]
        max_tokens = opened.max_tokens or DEFAULT_MAX_TOKENS
        planned.append(
            PlannedSession(session.session, opened.note, arrival_s, complete_s, max_tokens, tuple(pieces), chunks_s)
        )
    return planned


def _pieces(session: Session, shift_s: float, seed: int, vocab_size: int) -> list[tuple[float, Piece]]:
    """The session's events as pieces; a finish at the time of the event before it makes that one final instead."""
    rng = np.random.default_rng([seed, zlib.crc32(session.session.encode())])
    *events, finish = session.events
    merged = finish.t_s == events[-1].t_s
    pieces = []
    for event in events:
        final = merged and event is events[-1]
        content = _content(event, rng, vocab_size)
        pieces.append((event.t_s + shift_s, Piece(event.op, content, event.keep_tokens, event.keep_chars, final)))
    if not merged:
        pieces.append((finish.t_s + shift_s, Piece("finish", None, final=True)))
    return pieces


def _content(event: Event, rng: np.random.Generator, vocab_size: int) -> str | np.ndarray | None:
    if event.n_tokens is not None:
        return made_up(rng, event.n_tokens, vocab_size)
    if event.parts is not None:
        return joined(event.parts, vocab_size)
    return event.text if event.tokens is None else np.array(event.tokens, np.int32)


def _whole(pieces: Iterable[Piece]) -> str | np.ndarray:
    """The context that the pieces add up to."""
    text = ""
    tokens: list[np.ndarray] = []
    for piece in pieces:
        if isinstance(piece.content, str):
            text = (text[: piece.keep_chars] if piece.op == "update" else text) + piece.content
        elif piece.content is not None:
            kept = [np.concatenate(tokens)[: piece.keep_tokens]] if tokens and piece.op == "update" else tokens
            tokens = [*kept, piece.content]
    return np.concatenate(tokens) if tokens else text


def peak_context_tokens(planned: Iterable[PlannedSession]) -> int:
    """Most tokens of context that are open at the same time if every session ends the moment it is complete.

    Args:
      planned: sessions whose content is tokens, laid out for streaming.
    """
    changes: list[tuple[float, int, int]] = []
    for session in planned:
        tokens = 0
        for due_s, piece in session.pieces:
            kept = piece.keep_tokens if piece.op == "update" else tokens
            grown = kept + piece.size
            changes.append((due_s, 0, grown - tokens))
            tokens = grown
        changes.append((session.complete_s, 1, -tokens))
    open_tokens = peak = 0
    for _, _, change in sorted(changes):
        open_tokens += change
        peak = max(peak, open_tokens)
    return peak
