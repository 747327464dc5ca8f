"""The fake engine as a device for the law: it looks at every page that the scheduler believes to hold something."""

from collections.abc import Mapping

from s2l_jax.core.ids import SessionId
from s2l_jax.core.scheduler import Scheduler
from tests.fakes import Context, FakeEngine


class FakeDevice(FakeEngine):
    """Spoils whatever is free, and checks whatever is held."""

    def inspect(self, scheduler: Scheduler, contexts: Mapping[SessionId, Context]) -> None:
        """Raises `BadPlan` unless sessions hold the KV of their contexts. All that was planned must have run."""
        memory = scheduler._memory
        self.poison(memory.pool._free.values())
        if memory.host is not None:
            self.poison_host(memory.host._free)
        for session_id, context in contexts.items():
            session = scheduler.session(session_id)
            count = min(session.computed, len(context.tokens))
            self.check_kv(session_id, session.blocks.view, count, context)
