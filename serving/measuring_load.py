"""A small load of sessions that stream, for steps as a server runs them."""

import threading
import time

import numpy as np

from s2l_jax.core.errors import S2LError
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent
from s2l_jax.orchestrator.orchestrator import Orchestrator

_SESSIONS = 16  # on two cores of a CPU, with a model of 135 million parameters: half a minute
_TOGETHER = 4
_PIECES = 4
_OUTPUT_TOKENS = 16
_GAP_S = 0.1
_MOST_PIECE_TOKENS = 128
_LEAST_TOKEN = 64  # below it there may be special ones


def stream_sessions(orchestrator: Orchestrator, vocab_size: int, max_model_len: int, max_sessions: int) -> None:
    """Streams contexts in pieces of random length, several at a time, and waits for all output.

    Raises:
      S2LError: a session failed.
    """
    rng = np.random.default_rng(0)
    most_tokens = max(1, min(_MOST_PIECE_TOKENS, (max_model_len - _OUTPUT_TOKENS) // _PIECES))
    params = SamplingParams(max_tokens=max(1, min(_OUTPUT_TOKENS, max_model_len - _PIECES * most_tokens)))
    together = min(_TOGETHER, max_sessions)
    for _ in range(_SESSIONS // together):
        running = [_Streamed() for _ in range(together)]
        for piece in range(_PIECES):
            for session in running:
                content = rng.integers(_LEAST_TOKEN, vocab_size, rng.integers(1, most_tokens + 1)).tolist()
                session.send(orchestrator, content, params, final=piece == _PIECES - 1)
                time.sleep(_GAP_S * rng.random())
        for session in running:
            session.wait()


class _Streamed:
    """One session."""

    def __init__(self) -> None:
        self._session_id = ""
        self._ended = threading.Event()
        self._error: S2LError | None = None

    def send(self, orchestrator: Orchestrator, content: list[int], params: SamplingParams, *, final: bool) -> None:
        if self._session_id:
            orchestrator.append(self._session_id, content, final=final)
        else:
            self._session_id = orchestrator.open(
                sink=self._receive, params=params, content=content, final=final
            ).session_id

    def wait(self) -> None:
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def _receive(self, event: SinkEvent) -> None:
        if isinstance(event, FailedEvent):
            self._error = event.error
        if isinstance(event, FailedEvent | DoneEvent):
            self._ended.set()
