"""Decodes: sessions that run one token each in a step, the one they sampled last. What most steps consist of."""

import numpy as np

from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.draft import Draft
from s2l_jax.core.plan import LAST_SAMPLED
from s2l_jax.core.queues import Queues
from s2l_jax.core.session import Session

_LAST = np.array([LAST_SAMPLED], np.int32)
_LAST.flags.writeable = False


def decode(sessions: list[Session], draft: Draft, queues: Queues, pool: BlockPool) -> None:
    """Runs and samples a token of each session; there are blocks for all of them.

    This runs most often, so it does by hand, in one loop, what `Draft.compute` and `Draft.sample` do.
    """
    step_id, contexts = draft.step_id, 0
    add_chunk, add_sample = draft.singles.append, draft.samples.append
    for session in sessions:
        start = session.computed
        end = start + 1
        if start == session.capacity:
            session.add_block(pool.allocate_one())
        name, slot = session.id, session.slot
        if session.knows_last:
            tokens = _LAST
        else:
            tokens = session.tokens.view[start:end]
            session.knows_last = True
        history = session.tokens.view[:end] if session.has_penalties else None
        add_chunk((name, slot, start, tokens, session.blocks.view))
        add_sample((name, slot, session.params, session.seed, end, history, session.prompt_tokens, None))
        if start < session.lost:
            session.recomputed += 1
        else:
            session.lost = end
        session.computed = session.kept = end
        session.pending += 1
        session.ends.append(end)
        session.planned = step_id
        contexts += start
        if session.needs_output or end + 1 >= session.max_length:
            queues.place(session)
    draft.contexts += contexts
    draft.sessions += sessions
    draft.sampling += sessions
