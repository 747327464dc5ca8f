"""One session: its tokens, where their KV is, and the states it may be in (design: "Session semantics")."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np

from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.keys import BlockKey, child_key, root_key
from s2l_jax.core.outcome import Ack, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.tokens import Int32Buffer


class SessionState(StrEnum):
    """Where a session stands. Where its KV lives is a property of its blocks, not of its state."""

    WAITING_CONTEXT = "waiting_context"  # caught up, stream still open
    READY = "ready"  # tokens to compute, or a first token to sample
    RUNNING = "running"  # context, or the first sample, in a step in flight
    DECODING = "decoding"  # first token sampled, KV complete
    HANDOFF = "handoff"  # first token sampled, KV on its way to another engine
    DONE = "done"


_S = SessionState
TRANSITIONS: dict[SessionState, frozenset[SessionState]] = {
    _S.WAITING_CONTEXT: frozenset({_S.READY, _S.DONE}),
    _S.READY: frozenset({_S.WAITING_CONTEXT, _S.RUNNING, _S.DECODING, _S.DONE}),
    _S.RUNNING: frozenset({_S.WAITING_CONTEXT, _S.READY, _S.DECODING, _S.HANDOFF, _S.DONE}),
    _S.HANDOFF: frozenset({_S.DECODING, _S.READY, _S.DONE}),
    _S.DECODING: frozenset({_S.READY, _S.RUNNING, _S.DONE}),
    _S.DONE: frozenset(),
}


class Session:
    """Bookkeeping of one session; only the scheduler and its parts change it.

    KV positions: `landed <= computed`. What is computed has been planned; what has landed was planned in steps that
    have been committed since, so its content may be shared.

    Attributes:
      id: the caller's name for it.
      slot: its row in the per-session device buffers.
      params: how it samples.
      seed: what its random draws depend on, besides the position.
      arrival: rank of its opening among all sessions.
      tenant: whose it is; tenants share no KV.
      priority: sessions of higher priority go first.
      deadline_s: when its first token is wanted, infinite if no matter.
      tokens: prompt, then output as far as it is known.
      pending: tokens sampled in steps in flight, so not known yet; they follow `tokens`.
      prompt_tokens: length of the prompt.
      max_length: tokens of prompt and output together, at most.
      has_penalties: sampling needs all tokens before.
      needs_output: sampling needs the token before, so the session does not run ahead.
      computed: leading tokens whose KV is on the device once the steps in flight have run.
      landed: leading tokens whose KV is there for certain.
      ends: for each step in flight that the session is in, the position up to which it computes.
      kept: the position up to which the hidden state kept in `slot` was computed, 0 if it is of no use. If it equals
        the number of tokens, the next one can be sampled without running the model.
      lost: leading tokens whose KV the session has had; those past `computed` it has lost to evictions.
      blocks: block table; always `ceil(computed / block_size)` long.
      capacity: tokens that these blocks hold.
      is_final: the context is complete.
      hands_over: after its first token it goes on in another engine.
      is_arriving: it comes from another engine, and its KV is not here yet.
      knows_last: the device knows the token sampled last.
      seq: number of the last event applied.
      last_ack: its answer, given again if the event is repeated.
      last_event_s: when it came.
      gap_s: estimate of the time between two of its events; 0 before there were two.
      admitted: rank of its first block among all sessions that hold blocks, None if it holds none.
      planned: the last step that it was planned in.
      rank: what a policy may keep with it.
    """

    __slots__ = (
        "_indexed",
        "_keys",
        "admitted",
        "arrival",
        "block_size",
        "blocks",
        "capacity",
        "computed",
        "computed_total",
        "deadline_s",
        "ends",
        "final_s",
        "first_token_s",
        "gap_s",
        "hands_over",
        "has_penalties",
        "id",
        "invalidated",
        "is_arriving",
        "is_final",
        "kept",
        "knows_last",
        "landed",
        "last_ack",
        "last_event_s",
        "lost",
        "max_length",
        "needs_output",
        "open_s",
        "params",
        "pending",
        "planned",
        "preemptions",
        "priority",
        "prompt_tokens",
        "queue",
        "rank",
        "recomputed",
        "restored",
        "reused",
        "root",
        "seed",
        "seq",
        "slot",
        "state",
        "tenant",
        "tokens",
    )

    def __init__(
        self,
        session_id: SessionId,
        slot: SlotId,
        params: SamplingParams,
        *,
        seed: int,
        arrival: int,
        now_s: float,
        block_size: int,
        tenant: str = "",
        priority: int = 0,
        deadline_s: float = float("inf"),
    ) -> None:
        self.id = session_id
        self.slot = slot
        self.params = params
        self.seed = seed
        self.arrival = arrival
        self.tenant = tenant
        self.priority = priority
        self.deadline_s = deadline_s
        self.has_penalties = params.has_penalties
        self.needs_output = params.needs_output
        self.max_length = params.max_tokens
        self.state = SessionState.WAITING_CONTEXT
        self.queue: dict[SessionId, Session] | None = None
        self.tokens = Int32Buffer()
        self.pending = 0
        self.prompt_tokens = 0
        self.block_size = block_size
        self.computed = 0
        self.landed = 0
        self.ends: deque[int] = deque()
        self.kept = 0
        self.lost = 0
        self.blocks = Int32Buffer()
        self.capacity = 0
        self.root = root_key(tenant)
        self._keys: list[BlockKey] = []
        self._indexed = 0
        self.is_final = False
        self.hands_over = False
        self.is_arriving = False
        self.knows_last = False
        self.seq = 0
        self.last_ack: Ack | None = None
        self.last_event_s = now_s
        self.gap_s = 0.0
        self.open_s = now_s
        self.final_s: float | None = None
        self.first_token_s: float | None = None
        self.admitted: int | None = None
        self.planned = 0
        self.rank: tuple[float, ...] = ()
        self.computed_total = 0
        self.reused = 0
        self.restored = 0
        self.recomputed = 0
        self.invalidated = 0
        self.preemptions = 0

    # Tokens

    @property
    def length(self) -> int:
        """Tokens known, and those that steps in flight are sampling."""
        return self.tokens.size + self.pending

    @property
    def output_tokens(self) -> int:
        """Tokens sampled so far, as far as they are known."""
        return self.tokens.size - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Tokens still to run through the model."""
        return self.tokens.size + self.pending - self.computed

    @property
    def reach(self) -> int:
        """Leading tokens that need not be run, should their KV be found somewhere.

        All, if the hidden state of the last one is kept; else the last one must run for it.
        """
        known = self.tokens.size
        return known if self.kept == known else known - 1

    # States

    def move_to(self, state: SessionState) -> None:
        """Changes the state.

        Raises:
          RuntimeError: the transition is not in the table.
        """
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"session {self.id}: {self.state} -> {state} is not a transition")
        self.state = state

    def resting_state(self) -> SessionState:
        """The state that follows from tokens, KV and steps in flight."""
        known = self.tokens.size
        has_output = known > self.prompt_tokens
        if self.is_arriving or (has_output and self.hands_over):
            return SessionState.HANDOFF
        remaining = known + self.pending - self.computed
        if has_output and self.is_final and remaining <= 1:
            return SessionState.DECODING
        if self.ends:
            return SessionState.RUNNING
        return SessionState.READY if self.is_final or remaining else SessionState.WAITING_CONTEXT

    # KV

    def add_blocks(self, blocks: Sequence[int] | np.ndarray) -> None:
        """Adds blocks to the table's end."""
        self.blocks.extend(blocks)
        self.capacity += len(blocks) * self.block_size

    def add_block(self, block: int) -> None:
        """Adds one block: `add_blocks` in half the time."""
        self.blocks.push(block)
        self.capacity += self.block_size

    def key(self, index: int) -> BlockKey:
        """Content key of a full block of known tokens; of none, at index -1, the tenant's root."""
        if index < 0:
            return self.root
        if len(self._keys) <= index:
            self._hash_up_to(index)
        return self._keys[index]

    def keys(self, start: int, end: int) -> list[BlockKey]:
        """Content keys of full blocks of known tokens."""
        if len(self._keys) < end:
            self._hash_up_to(end - 1)
        return self._keys[start:end]

    def hash_blocks(self) -> None:
        """Makes the keys of all full blocks, so that planning need not."""
        self.keys(0, self.tokens.size // self.block_size)

    def _hash_up_to(self, index: int) -> None:
        keys = self._keys
        start, size = len(keys), self.block_size
        content = self.tokens.view[start * size : (index + 1) * size].tobytes()
        step = len(content) // (index + 1 - start)
        parent = keys[-1] if keys else self.root
        for at in range(0, len(content), step):
            parent = child_key(parent, content[at : at + step])
            keys.append(parent)

    def block_tokens(self, index: int) -> bytes:
        """Tokens of a block, int32 as bytes."""
        start = index * self.block_size
        return self.tokens.view[start : start + self.block_size].tobytes()

    def hold_found(self, tokens: int) -> None:
        """Accounts for KV that was found: `computed` goes on by `tokens`, which need not run."""
        start = self.computed
        self.computed = start + tokens
        restored = max(0, min(self.computed, self.lost) - start)
        self.restored += restored
        self.reused += tokens - restored
        self.lost = max(self.lost, self.computed)

    def advance(self, count: int) -> int:
        """Accounts for the next `count` tokens as computed by the step being planned; returns their first position."""
        start, prompt, lost = self.computed, self.prompt_tokens, self.lost
        self.computed = self.kept = end = start + count
        if start < prompt:
            self.computed_total += (end if end < prompt else prompt) - start
        if start < lost:
            self.recomputed += (end if end < lost else lost) - start
        if end > lost:
            self.lost = end
        return start

    def land(self) -> None:
        """The oldest step in flight has run."""
        end = self.ends.popleft()
        self.landed = max(self.landed, end) if self.ends else self.computed

    def index_landed(self, pool: BlockPool) -> list[tuple[int, BlockKey]]:
        """Names the full blocks that have landed, so that others can share them; returns those newly named."""
        named: list[tuple[int, BlockKey]] = []
        size, index = self.block_size, pool.index
        start, full = self._indexed, min(self.landed, self.tokens.size) // size
        if full <= start:
            return named
        self.key(full - 1)
        parent = self.key(start - 1)
        content = self.tokens.view[start * size : full * size].tobytes()
        places = range(0, len(content), len(content) // (full - start))
        for block, key, at in zip(self.blocks.view[start:full].tolist(), self._keys[start:full], places, strict=True):
            if block not in index and index.add(block, parent, key, content[at : at + places.step]):
                named.append((block, key))
            parent = key
        self._indexed = full
        return named

    def keep_computed(self, tokens: int, pool: BlockPool) -> None:
        """Forgets the KV past the first `tokens` tokens, if there is any, and gives its blocks back.

        What has landed in them stays cached. A block that holds tokens on both sides is not cut short if that would
        spoil content: it is given back as well, and its beginning copied when the session goes on.
        """
        if tokens >= self.computed:
            return
        self.index_landed(pool)
        last, rest = divmod(tokens, self.block_size)
        in_place = rest > 0 and self.landed <= tokens and int(self.blocks.view[last]) not in pool.index
        if self.landed % self.block_size and len(self.tokens) >= self.landed > tokens:
            self._index_part(self.landed // self.block_size, pool)
        self.computed = tokens if in_place else tokens - rest
        self.landed = min(self.landed, self.computed)
        if self.ends:
            self.ends = deque(min(end, self.computed) for end in self.ends)
        kept_blocks = last + in_place
        self._indexed = min(self._indexed, kept_blocks)
        pool.release(self.blocks.truncate(kept_blocks)[::-1])
        self.capacity = kept_blocks * self.block_size
        if not kept_blocks:
            self.admitted = None

    def _index_part(self, index: int, pool: BlockPool) -> None:
        block = int(self.blocks.view[index])
        if block not in pool.index:
            tokens = self.tokens.view[index * self.block_size : self.landed].tobytes()
            pool.index.add(block, self.key(index - 1), None, tokens)

    def keep_tokens(self, tokens: int) -> None:
        """Forgets the tokens past the first `tokens`; their KV has been forgotten before."""
        self.tokens.truncate(tokens)
        del self._keys[tokens // self.block_size :]
        self.lost = min(self.lost, tokens)

    # Events

    def note_event(self, now_s: float) -> None:
        """Learns how often events come."""
        gap_s = now_s - self.last_event_s
        self.last_event_s = now_s
        if self.seq:
            self.gap_s = gap_s if self.seq == 1 else 0.5 * (self.gap_s + gap_s)

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

    # Views

    def check_integrity(self) -> None:
        """Raises RuntimeError unless counters, block table and state fit each other."""
        good = (
            0 <= self.landed <= self.computed <= self.length
            and len(self.blocks) == -(-self.computed // self.block_size)
            and self.capacity == len(self.blocks) * self.block_size
            and all(end <= self.computed for end in self.ends)
            and (self.landed == self.computed or bool(self.ends))
            and self.kept <= self.length
            and self.computed <= max(self.lost, self.computed) <= self.length
            and 0 <= self.prompt_tokens <= len(self.tokens)
            and 0 <= self.pending <= len(self.ends)
            and self.state is self.resting_state()
        )
        if not good:
            raise RuntimeError(
                f"session {self.id} is inconsistent: {self.state}, {self.computed} of {self.length} tokens computed, "
                f"{self.landed} landed, {self.lost} lost, ends {list(self.ends)}, {len(self.blocks)} blocks of "
                f"{self.block_size}, hidden state of {self.kept}"
            )

    def stats(self) -> SessionStats:
        """Counters so far."""
        first = self.first_token_s
        return SessionStats(
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            computed_tokens=self.computed_total,
            reused_tokens=self.reused,
            restored_tokens=self.restored,
            recomputed_tokens=self.recomputed,
            invalidated_tokens=self.invalidated,
            preemptions=self.preemptions,
            ttft_open_s=None if first is None else first - self.open_s,
            ttft_final_s=None if first is None or self.final_s is None else first - self.final_s,
        )
