"""One session: its tokens, how far they are computed, and the states it may be in (design: "Session semantics")."""

from dataclasses import replace
from enum import StrEnum

import numpy as np

from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.outcome import Ack, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.tokens import Int32Buffer


class SessionState(StrEnum):
    """Where a session stands. Where its KV lives is a property of its blocks, not of its state."""

    WAITING_CONTEXT = "waiting_context"  # caught up, stream still open
    READY = "ready"  # tokens to compute, or a first token to sample
    RUNNING = "running"  # context in the step in flight
    DECODING = "decoding"  # first token sampled, KV complete
    DONE = "done"


_S = SessionState
TRANSITIONS: dict[SessionState, frozenset[SessionState]] = {
    _S.WAITING_CONTEXT: frozenset({_S.READY, _S.DONE}),
    _S.READY: frozenset({_S.WAITING_CONTEXT, _S.RUNNING, _S.DONE}),
    _S.RUNNING: frozenset({_S.WAITING_CONTEXT, _S.READY, _S.DECODING, _S.DONE}),
    _S.DECODING: frozenset({_S.READY, _S.DONE}),
    _S.DONE: frozenset(),
}


class Session:
    """Bookkeeping of one session; only the scheduler changes it.

    Attributes:
      id: the caller's name for it.
      slot: its row in the per-session device buffers.
      params: how it samples.
      seed: what its random draws depend on, besides the position.
      arrival: rank of its opening among all sessions.
      tokens: prompt, then output.
      prompt_tokens: length of the prompt.
      computed: leading tokens whose KV exists once the step in flight has run.
      kept: the position up to which the hidden state kept in `slot` was computed, 0 if it is of no use. If it equals
        `len(tokens)`, the next token can be sampled without running the model.
      blocks: block table; always `ceil(computed / block_size)` long.
      is_final: the context is complete.
      seq: number of the last event applied.
      last_ack: its answer, given again if the event is repeated.
      last_event_s: when it came.
    """

    __slots__ = (
        "arrival",
        "blocks",
        "computed",
        "computed_total",
        "final_s",
        "first_token_s",
        "id",
        "invalidated",
        "is_final",
        "kept",
        "last_ack",
        "last_event_s",
        "open_s",
        "params",
        "preemptions",
        "prompt_tokens",
        "seed",
        "seq",
        "slot",
        "state",
        "tokens",
    )

    def __init__(
        self, session_id: SessionId, slot: SlotId, params: SamplingParams, seed: int, arrival: int, now_s: float
    ) -> None:
        self.id = session_id
        self.slot = slot
        self.params = params
        self.seed = seed
        self.arrival = arrival
        self.state = SessionState.WAITING_CONTEXT
        self.tokens = Int32Buffer()
        self.prompt_tokens = 0
        self.computed = 0
        self.kept = 0
        self.blocks = Int32Buffer()
        self.is_final = False
        self.seq = 0
        self.last_ack: Ack | None = None
        self.last_event_s = now_s
        self.open_s = now_s
        self.final_s: float | None = None
        self.first_token_s: float | None = None
        self.computed_total = 0
        self.invalidated = 0
        self.preemptions = 0

    @property
    def output_tokens(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Tokens still to run through the model."""
        return len(self.tokens) - self.computed

    @property
    def is_decode(self) -> bool:
        """True if all that is left to compute is the token sampled last."""
        return self.output_tokens > 0 and self.remaining == 1

    def move_to(self, state: SessionState) -> None:
        """Changes the state.

        Raises:
          RuntimeError: the transition is not in the table.
        """
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"session {self.id}: {self.state} -> {state} is not a transition")
        self.state = state

    def resting_state(self) -> SessionState:
        """The state that follows from tokens and computed while no step has the session in flight."""
        if self.is_final:
            return SessionState.DECODING if self.is_decode else SessionState.READY
        return SessionState.READY if self.remaining else SessionState.WAITING_CONTEXT

    def advance(self, count: int) -> tuple[int, np.ndarray]:
        """Accounts for the next `count` tokens as computed; returns their first position and a copy of them."""
        start = self.computed
        self.computed = self.kept = start + count
        self.computed_total += max(0, min(self.computed, self.prompt_tokens) - start)
        return start, self.tokens.copy(start, self.computed)

    def keep_computed(self, tokens: int, block_size: int, pool: BlockPool) -> None:
        """Forgets the KV past the first `tokens` tokens, if there is any, and gives its blocks back."""
        if tokens < self.computed:
            self.computed = tokens
            pool.release(self.blocks.truncate(-(-tokens // block_size)).tolist())

    def is_repeat(self, seq: int) -> bool:
        """True if the event numbered `seq` has been applied; 0 stands for the next number.

        Raises:
          InvalidArgument: events in between are missing.
        """
        if seq > self.seq + 1:
            raise InvalidArgument(
                f"session {self.id!r}: event {seq} came after {self.seq}: send {self.seq + 1} first, events are missing"
            )
        return 0 < seq <= self.seq

    def repeated_ack(self, seq: int) -> Ack:
        """Answers a repeat: as before if it is the last event, else with the context as it is."""
        if self.last_ack is not None and self.last_ack.seq == seq:
            return replace(self.last_ack, duplicate=True)
        return Ack(self.id, seq, self.prompt_tokens, self.prompt_tokens, 0, duplicate=True)

    def check_integrity(self, block_size: int, *, in_flight: bool) -> None:
        """Raises RuntimeError unless counters, block table and state fit each other."""
        good = (
            0 <= self.computed <= len(self.tokens)
            and len(self.blocks) == -(-self.computed // block_size)
            and self.kept <= len(self.tokens)
            and 0 <= self.prompt_tokens <= len(self.tokens)
            and (in_flight or self.state is self.resting_state())
            and (self.state is not SessionState.RUNNING or in_flight)
        )
        if not good:
            raise RuntimeError(
                f"session {self.id} is inconsistent: {self.state}, {self.computed} of {len(self.tokens)} tokens "
                f"computed, {len(self.blocks)} blocks of {block_size}, hidden state of {self.kept}"
            )

    def stats(self) -> SessionStats:
        """Counters so far."""
        first = self.first_token_s
        return SessionStats(
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            computed_tokens=self.computed_total,
            reused_tokens=0,
            invalidated_tokens=self.invalidated,
            preemptions=self.preemptions,
            ttft_open_s=None if first is None else first - self.open_s,
            ttft_final_s=None if first is None or self.final_s is None else first - self.final_s,
        )
