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
_LONE_SESSIONS = 8
LONE_GAP_S = (0.2, 0.8)  # so that the device stands idle before each piece
_MOST_PIECE_TOKENS = 128
_LEAST_TOKEN = 64  # below it there may be special ones


def stream_sessions(
    orchestrator: Orchestrator, vocab_size: int, max_model_len: int, max_sessions: int, *, seed: int = 0
) -> None:
    """Streams contexts in pieces of random length and waits for all output: several at a time, then one by one.

    The first ones keep the device busy; the others leave it idle before each of their pieces.

    Args:
      orchestrator: where to.
      vocab_size: tokens are below it.
      max_model_len: tokens of a session, at most.
      max_sessions: that may be open at a time.
      seed: of the content; what an engine has computed before is not computed again.

    Raises:
      S2LError: a session failed.
    """
    rng = np.random.default_rng(seed)
    most_tokens = max(1, min(_MOST_PIECE_TOKENS, (max_model_len - _OUTPUT_TOKENS) // _PIECES))
    params = SamplingParams(max_tokens=max(1, min(_OUTPUT_TOKENS, max_model_len - _PIECES * most_tokens)))
    together = min(_TOGETHER, max_sessions)
    for sessions, gap_s in [(together, (0.0, _GAP_S))] * (_SESSIONS // together) + [(1, LONE_GAP_S)] * _LONE_SESSIONS:
        running = [_Streamed() for _ in range(sessions)]
        for piece in range(_PIECES):
            for session in running:
                time.sleep(rng.uniform(*gap_s))
                content = rng.integers(_LEAST_TOKEN, vocab_size, rng.integers(1, most_tokens + 1)).tolist()
                session.send(orchestrator, content, params, final=piece == _PIECES - 1)
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
