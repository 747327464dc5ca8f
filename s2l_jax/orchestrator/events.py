"""What a session's sink receives, and what a client may send as context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s2l_jax.core.errors import S2LError
from s2l_jax.core.outcome import SessionStats

Content = str | Sequence[int] | None


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """Sampled tokens and the text they completed. There is one event for each sampled token.

    Attributes:
      ids: the tokens; an end-of-sequence token is among them.
      text: may be empty, while a character or the possible beginning of a stop string is incomplete, and then comes
        with a later event.
      logprobs: log probability of each token, if asked for, else empty.
      top: for each token the `(token id, logprob)` of the most likely ones, if asked for, else empty.
    """

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How much of the context is computed; sent at most a few times a second.

    Attributes:
      computed_tokens: leading tokens of the context whose KV exists.
      context_tokens: length of the context.
    """

    computed_tokens: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The session has ended as it should; nothing follows.

    Attributes:
      finish_reason: `stop`, `length` or `cancelled`.
      stats: what it cost and how long it took.
    """

    finish_reason: str
    stats: SessionStats


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The session has been ended by an error; nothing follows.

    Attributes:
      error: what went wrong; its class names the status.
    """

    error: S2LError


type SinkEvent = TokenEvent | ProgressEvent | DoneEvent | FailedEvent

type Sink = Callable[[SinkEvent], None]
"""Receives the events of one session, one at a time and in order, mostly on the engine thread, so it must not block.

The last event is a `DoneEvent` or a `FailedEvent`, and there is exactly one of them. A sink that raises loses its
session and is not called again.
"""
