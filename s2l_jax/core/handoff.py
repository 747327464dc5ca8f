"""What one scheduler must tell another, so that a session goes on there after its first token."""

from dataclasses import dataclass

import numpy as np

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.outcome import SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.session import Session, SessionState


@dataclass(frozen=True, slots=True)
class Handoff:
    """A session between its first token and its second (design: "Engine and orchestrator").

    Attributes:
      session_id: the caller's name for it.
      tokens: prompt and first token, int32 `[n]`.
      computed: leading tokens whose KV there is: all but the last, or none if the device has lost it.
      blocks: where it is, int32 `[ceil(computed / block_size)]`.
      prompt_tokens: length of the prompt.
      params: how it samples.
      seed: what its random draws depend on.
      tenant: whose it is.
      priority: sessions of higher priority go first.
      open_s: when it was opened.
      final_s: when its context was complete.
      first_token_s: when its first token came.
      stats: counters so far.
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
    final_s: float
    first_token_s: float
    stats: SessionStats


def pack(session: Session) -> Handoff:
    """Describes a session that has its first token."""
    assert session.final_s is not None and session.first_token_s is not None
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
    )
    session.tokens.extend(handoff.tokens)
    session.prompt_tokens = handoff.prompt_tokens
    session.max_length = handoff.prompt_tokens + handoff.params.max_tokens
    session.is_final = True
    session.final_s = handoff.final_s
    session.first_token_s = handoff.first_token_s
    session.is_arriving = True
    session.state = SessionState.HANDOFF
    stats = handoff.stats
    session.computed_total = stats.computed_tokens
    session.reused = stats.reused_tokens
    session.restored = stats.restored_tokens
    session.recomputed = stats.recomputed_tokens
    session.invalidated = stats.invalidated_tokens
    session.preemptions = stats.preemptions
    return session
