"""Sessions by what they can do in the next step. A session is in one queue, or in none if it has nothing to do."""

from collections import OrderedDict
from collections.abc import Iterable

from s2l_jax.core.ids import SessionId
from s2l_jax.core.session import Session

type Queue = dict[SessionId, Session]


class Queues:
    """Where the scheduler finds work, without looking at sessions that have none.

    Attributes:
      decodes: complete, all but the token sampled last computed.
      ready: complete, all computed: only the next token has to be sampled.
      prompts: complete, with more to compute.
      streams: incomplete, with tokens to compute.
      holders: incomplete sessions that hold blocks; the one that has not changed for the longest time first.
    """

    def __init__(self) -> None:
        self.decodes: Queue = {}
        self.ready: Queue = {}
        self.prompts: Queue = {}
        self.streams: Queue = {}
        self.holders: OrderedDict[SessionId, Session] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self.decodes or self.ready or self.prompts or self.streams)

    def place(self, session: Session) -> None:
        """Puts a session where its tokens and KV say, and into the state they say."""
        queue = self.queue_of(session)
        if queue is not session.queue:
            self._move(session, queue)
        state = session.resting_state()
        if state is not session.state:
            session.move_to(state)
        if session.is_final or not session.blocks.size:
            self.holders.pop(session.id, None)
        else:
            self.holders[session.id] = session
            self.holders.move_to_end(session.id)

    def remove(self, session: Session) -> None:
        """Takes out a session that has ended."""
        self._move(session, None)
        self.holders.pop(session.id, None)

    def queue_of(self, session: Session) -> Queue | None:
        """Where a session belongs; None if it waits for an event, the token of a step in flight, or its KV."""
        length = session.tokens.size + session.pending
        has_output = length > session.prompt_tokens
        if session.is_arriving or (has_output and session.hands_over):
            return None
        remaining = length - session.computed
        if not session.is_final:
            return self.streams if remaining else None
        is_decode = remaining == 1 and has_output
        if not session.pending:
            if is_decode:
                return self.decodes
            return self.prompts if remaining else self.ready
        if not is_decode or session.needs_output:
            return None
        return self.decodes if length < session.max_length else None

    def check_integrity(self, sessions: Iterable[Session]) -> None:
        """Raises RuntimeError unless every session, and nobody else, is where it belongs."""
        count = 0
        for session in sessions:
            if session.queue is not self.queue_of(session):
                raise RuntimeError(f"session {session.id} is {session.state}, but not in the queue that says so")
            count += session.queue is not None
            holds = not session.is_final and len(session.blocks) > 0
            if (session.id in self.holders) != holds:
                raise RuntimeError(f"session {session.id} holds {len(session.blocks)} blocks, the queues say otherwise")
        if count != len(self.decodes) + len(self.ready) + len(self.prompts) + len(self.streams):
            raise RuntimeError("a session that has ended is still in a queue")

    def _move(self, session: Session, queue: Queue | None) -> None:
        if session.queue is not None:
            del session.queue[session.id]
        if queue is not None:
            queue[session.id] = session
        session.queue = queue
