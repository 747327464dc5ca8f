"""Sessions on their way from a simulated prefill engine to one that generates."""

from collections import deque
from math import inf

from s2l_jax.core.costs import CostModel
from s2l_jax.core.ids import SessionId
from workloads.replay.simulated_engine import SimulatedEngine


class Handoffs:
    """A link that copies one session's KV after the other, and a queue of those for which there is no room yet.

    Until its KV has arrived, a session holds its blocks on both sides.
    """

    def __init__(self, source: SimulatedEngine, target: SimulatedEngine, costs: CostModel) -> None:
        self._source = source
        self._target = target
        self._costs = costs
        self._waiting: deque[SessionId] = deque()
        self._moving: deque[tuple[float, SessionId]] = deque()

    @property
    def due_s(self) -> float:
        """When the next session arrives; inf if none is on its way."""
        return self._moving[0][0] if self._moving else inf

    def push(self, session_id: SessionId) -> None:
        """A session has its first token."""
        self._waiting.append(session_id)

    def start(self, now_s: float) -> None:
        """Sends those for which the other side has room, in the order of their first tokens."""
        while self._waiting:
            handoff = self._source.scheduler.hand_over(self._waiting[0])
            blocks = self._target.scheduler.adopt(handoff)
            if blocks is None:
                return
            begins_s = max(now_s, self._moving[-1][0] if self._moving else 0.0)
            self._moving.append((begins_s + self._costs.handoff(len(blocks)), self._waiting.popleft()))

    def arrive(self, now_s: float) -> None:
        """The first session on its way is there."""
        _, session_id = self._moving.popleft()
        self._source.scheduler.cancel(session_id)
        self._target.scheduler.arrive(session_id, now_s)
        self._source.wake(now_s)
        self._target.wake(now_s)
