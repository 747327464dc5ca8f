"""What an orchestrator keeps of a session, so that any engine can compute it from the beginning."""

from math import inf

import numpy as np

from s2l_jax.core.handoff import Handoff
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.tokens import Int32Buffer

_NO_BLOCKS = np.empty(0, np.int32)


class Record:
    """Tokens, parameters and times of one session, beside the scheduler's own and independent of it.

    Guarded by the registry's lock.

    Attributes:
      failures: steps with this session in them that took their engine's KV along, or the engine itself, since its last
        token.
      tenant: whose it is.
    """

    def __init__(
        self, params: SamplingParams, *, tenant: str, priority: int, deadline_s: float | None, open_s: float
    ) -> None:
        self.failures = 0
        self._params = params
        self.tenant = tenant
        self._priority = priority
        self._deadline_s = inf if deadline_s is None else deadline_s
        self._open_s = open_s
        self._seed = 0
        self._tokens = Int32Buffer()
        self._prompt_tokens = 0
        self._final_s: float | None = None
        self._first_token_s: float | None = None
        self._last_ack: Ack | None = None

    @property
    def has_output(self) -> bool:
        """True once the first token has come."""
        return self._first_token_s is not None

    @property
    def will_move(self) -> bool:
        """True if it is to be handed over after its first token, unless that is its last."""
        return not self.has_output and self._params.max_tokens > 1

    @property
    def tokens(self) -> np.ndarray:
        """Prompt and output so far, int32 `[n]`."""
        return self._tokens.view

    def stats(self) -> SessionStats:
        """Counters of a session whose scheduler has lost them: lengths and times, the rest is 0."""
        first_s, final_s = self._first_token_s, self._final_s
        return SessionStats(
            prompt_tokens=self._prompt_tokens,
            output_tokens=len(self._tokens) - self._prompt_tokens,
            computed_tokens=0,
            reused_tokens=0,
            restored_tokens=0,
            recomputed_tokens=0,
            invalidated_tokens=0,
            preemptions=0,
            ttft_open_s=None if first_s is None else first_s - self._open_s,
            ttft_final_s=None if first_s is None or final_s is None else first_s - final_s,
        )

    def opened(self, seed: int) -> None:
        """The session has been opened, and draws with this seed."""
        self._seed = seed

    def changed(self, keep: int, tail: np.ndarray, ack: Ack, now_s: float, *, final: bool) -> None:
        """An event has been applied: the first `keep` tokens have stayed, `tail`, int32 `[n]`, follows them."""
        self._tokens.truncate(keep)
        self._tokens.extend(tail)
        self._prompt_tokens = len(self._tokens)
        self._last_ack = ack
        if final:
            self._final_s = now_s

    def sampled(self, token_id: int, now_s: float) -> None:
        """A token has come, so what happened before it is not the session's fault."""
        self.failures = 0
        self._tokens.push(token_id)
        if self._first_token_s is None:
            self._first_token_s = now_s

    def handoff(self, session_id: SessionId, stats: SessionStats, lost: int) -> Handoff:
        """The session without KV, for `Scheduler.resume`.

        Args:
          session_id: its name.
          stats: counters so far.
          lost: leading tokens whose KV it has had.
        """
        return Handoff(
            session_id,
            self._tokens.view,
            0,
            _NO_BLOCKS,
            self._prompt_tokens,
            self._params,
            self._seed,
            self.tenant,
            self._priority,
            self._open_s,
            self._final_s,
            self._first_token_s,
            stats,
            self._deadline_s,
            lost,
            self._last_ack,
        )
