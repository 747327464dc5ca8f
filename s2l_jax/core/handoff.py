"""What one scheduler must tell another, so that a session goes on there."""

from dataclasses import dataclass
from math import inf

import numpy as np

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.outcome import Ack, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.session import Session


@dataclass(frozen=True, slots=True)
class Handoff:
    """A session on its way: between its first token and its second (design: "Engine and orchestrator"), or without KV.

    Attributes:
      session_id: the caller's name for it.
      tokens: prompt and output so far, int32 `[n]`.
      computed: leading tokens whose KV there is: all but the last, or none if it is lost.
      blocks: where it is, int32 `[ceil(computed / block_size)]`.
      prompt_tokens: length of the prompt.
      params: how it samples.
      seed: what its random draws depend on.
      tenant: whose it is.
      priority: sessions of higher priority go first.
      open_s: when it was opened.
      final_s: when its context was complete; None if it is not.
      first_token_s: when its first token came; None before that.
      stats: counters so far.
      deadline_s: when its first token is wanted, infinite if no matter.
      lost: leading tokens whose KV it has had.
      last_ack: the answer to its last event.
    """

    session_id: SessionId
    tokens: np.ndarray
    computed: int
    blocks: np.ndarray
    prompt_tokens: int
    params: SamplingParams
    seed: int
    tenant: str
    priority: int
    open_s: float
    final_s: float | None
    first_token_s: float | None
    stats: SessionStats
    deadline_s: float = inf
    lost: int = 0
    last_ack: Ack | None = None


def pack(session: Session) -> Handoff:
    """Describes a session as it is."""
    return Handoff(
        session.id,
        session.tokens.view,
        session.computed,
        session.blocks.view,
        session.prompt_tokens,
        session.params,
        session.seed,
        session.tenant,
        session.priority,
        session.open_s,
        session.final_s,
        session.first_token_s,
        session.stats(),
        session.deadline_s,
        session.lost,
        session.last_ack,
    )


def unpack(handoff: Handoff, slot: SlotId, arrival: int, block_size: int) -> Session:
    """The session on the other side; it holds no blocks yet.

    Args:
      handoff: what the first side said.
      slot: its row in the per-session device buffers.
      arrival: rank among all sessions there.
      block_size: tokens a block holds there.
    """
    session = Session(
        handoff.session_id,
        slot,
        handoff.params,
        seed=handoff.seed,
        arrival=arrival,
        now_s=handoff.open_s,
        block_size=block_size,
        tenant=handoff.tenant,
        priority=handoff.priority,
        deadline_s=handoff.deadline_s if handoff.first_token_s is None else inf,
    )
    session.tokens.extend(handoff.tokens)
    session.prompt_tokens = handoff.prompt_tokens
    session.max_length = handoff.prompt_tokens + handoff.params.max_tokens
    session.is_final = handoff.final_s is not None
    session.final_s = handoff.final_s
    session.first_token_s = handoff.first_token_s
    session.last_ack = handoff.last_ack
    session.seq = 0 if handoff.last_ack is None else handoff.last_ack.seq
    stats = handoff.stats
    session.computed_total = stats.computed_tokens
    session.reused = stats.reused_tokens
    session.restored = stats.restored_tokens
    session.recomputed = stats.recomputed_tokens
    session.invalidated = stats.invalidated_tokens
    session.preemptions = stats.preemptions
    return session
