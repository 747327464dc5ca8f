"""An open session as the orchestrator holds it: the client's side, beside the scheduler's."""

import threading
from collections.abc import Callable

import numpy as np

from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Output
from s2l_jax.core.params import SamplingParams
from s2l_jax.models.grammar import GrammarState
from s2l_jax.models.stream_decoder import StreamDecoder
from s2l_jax.models.tokenizer import Tokenizer
from s2l_jax.orchestrator.context import SessionContext
from s2l_jax.orchestrator.events import Sink
from s2l_jax.orchestrator.member import Member
from s2l_jax.orchestrator.observer import WatchedSession
from s2l_jax.orchestrator.outlet import Outlet
from s2l_jax.orchestrator.record import Record
from s2l_jax.orchestrator.stop import StopFilter


class OpenSession:
    """The buffers of one session. All of them go with this object when the session ends.

    Attributes:
      id: the session.
      lock: held while an event of the client is applied, tokenization included, so that events stay in order.
      context: the client's context; None once it is complete. Guarded by `lock`.
      outlet: where events go.
      watched: is told what its client does.
      open_s: when the session was opened.
      progress_s: when its last progress event was sent. Only the thread of its engine uses it.
      member: the engine that serves it. Guarded by the registry's lock, and set once it is open; so is `record`.
      record: what it takes to serve it elsewhere.
    """

    member: Member
    record: Record

    def __init__(
        self,
        session_id: SessionId,
        tokenizer: Tokenizer,
        params: SamplingParams,
        sink: Sink,
        watched: WatchedSession,
        on_sink_error: Callable[[Exception], None],
        *,
        add_bos: bool,
        now_s: float,
        grammar: GrammarState | None = None,
    ) -> None:
        self.id = session_id
        self.lock = threading.Lock()
        self.context: SessionContext | None = SessionContext(tokenizer, add_bos=add_bos)
        self.outlet = Outlet(watched.around(sink), on_sink_error)
        self.watched = watched
        self.open_s = now_s
        self.progress_s = now_s
        self._decoder = StreamDecoder(tokenizer, continues=True)
        self._stop = StopFilter(params.stop)
        self._grammar = grammar

    def mask(self, output: np.ndarray) -> np.ndarray | None:
        """Which tokens may follow its output, int32 `[n]`: see `GrammarState.mask`, whose errors these are.

        None lets all tokens come. Only the thread of its engine calls this.
        """
        return None if self._grammar is None else self._grammar.mask(output)

    def render(self, output: Output) -> tuple[str, str | None]:
        """Turns a sampled token into text. Only the thread of its engine calls this, in order.

        Returns:
          The text that may be shown now, and why the session ends with it, or None. A token that ends the output has
          no text of its own; what was held back before it comes out with it. A constraint that is satisfied, so that
          nothing may follow, ends the session as well.
        """
        reason = output.finish_reason
        text = "" if reason == "stop" else self._decoder.push(output.token.token_id)
        if reason != "stop" and self._grammar is not None and self._grammar.push(output.token.token_id):
            reason = "stop"
        if reason is not None:
            text += self._decoder.flush()
        text, is_stopped = self._stop.push(text)
        if is_stopped:
            return text, "stop"
        if reason is not None:
            text += self._stop.flush()
        return text, reason
