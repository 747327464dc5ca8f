"""What becomes of sessions whose step, KV, pages or engine is lost."""

from collections.abc import Sequence
from functools import partial

from s2l_jax.core.errors import InternalError, S2LError, Unavailable
from s2l_jax.core.outcome import SessionStats
from s2l_jax.core.plan import StepPlan
from s2l_jax.orchestrator.failures import Failures, MakeError
from s2l_jax.orchestrator.member import Member
from s2l_jax.orchestrator.open_session import OpenSession
from s2l_jax.orchestrator.registry import Registry
from s2l_jax.orchestrator.run import Run
from s2l_jax.orchestrator.transfers import Transfer

MOST_FAILURES = 2
"""A session that was in more steps than this which took their engine along, with no token in between, may be why: it is
not tried again."""


class Recovery:
    """Has sessions computed again, from their tokens, by engines that are left; ends them where that cannot be.

    Every method needs the registry's lock, and none blocks. Each returns the sessions that have ended: their sinks are
    to be told once the lock is released.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._fleet = registry.fleet

    def fail_steps(self, member: Member, plans: Sequence[StepPlan], make_error: MakeError, now_s: float) -> Failures:
        """Ends the sessions of all steps in flight, oldest first, since one of them failed."""
        left = self._fail(member, plans)
        return [self._end(session, stats, make_error(), now_s) for session, stats, _ in left]

    def lose_kv(self, member: Member, plans: Sequence[StepPlan], make_error: MakeError, now_s: float) -> Failures:
        """A failed step took all KV of its engine along.

        Whom it served is computed again elsewhere, up to `MOST_FAILURES` times. Others stay, and compute theirs again.
        Without another engine, those whom the step served end.
        """
        if len(self._fleet.alive) == 1:
            failures = self.fail_steps(member, plans, make_error, now_s)
        else:
            left = self._fail(member, plans)
            failures = self._recompute_moving(member, now_s)
            for session, stats, lost in left:
                failures += self._move(session, stats, lost, make_error, now_s)
        self._fleet.transfers.ahead.drop_to(member)
        member.scheduler.forget_kv()
        return failures

    def lose_run(self, run: Run, now_s: float) -> Failures:
        """Pages have not arrived. If their session moves it is computed again, else they move with the others later."""
        transfer = run.move
        if not isinstance(transfer, Transfer):
            self._fleet.transfers.ahead.lose(run)
            return []
        if not self._fleet.transfers.is_moving(transfer):
            return []
        self._registry.counters.handoff_failures += 1
        return self._recompute(transfer.session, now_s)

    def lose_member(
        self, member: Member, plans: Sequence[StepPlan], failure: str, now_s: float, *, was_asked: bool = False
    ) -> Failures:
        """An engine does nothing any more, and its scheduler is in doubt: its sessions go to others, or fail.

        `was_asked` means that somebody had it end, so that no session is the reason.
        """
        member.failure = failure
        if not self._fleet.alive:
            return self._registry.abandon_all(failure)
        suspects = set() if was_asked else _served(plans)
        self._fleet.transfers.ahead.drop_to(member)
        failures = self._recompute_moving(member, now_s)
        for session in self._registry.sessions_of(member):
            stats, lost = self._registry.leave(session)
            if session.id in suspects:
                failures += self._move(session, stats, lost, partial(_taken_along, session.id), now_s)
            else:
                failures += self._settle(session, stats, lost, now_s)
        self._fleet.wake()
        return failures

    def _fail(self, member: Member, plans: Sequence[StepPlan]) -> list[tuple[OpenSession, SessionStats, int]]:
        """Fails steps; returns the sessions that are open nowhere now, their counters, and how many tokens had KV."""
        served = _served(plans)
        touched = [session for session in self._registry.sessions_of(member) if session.id in served]
        states = [(session, *self._registry.state_of(session)) for session in touched]
        failed = set(member.scheduler.fail(plans[0])) if plans else set()
        self._registry.counters.step_failures += len(plans)
        return [state for state in states if state[0].id in failed]

    def _recompute_moving(self, member: Member, now_s: float) -> Failures:
        """Computes sessions again that are on their way from or to a member."""
        moving = [transfer.session for transfer in self._fleet.transfers.touching(member)]
        return [failure for session in moving for failure in self._recompute(session, now_s)]

    def _recompute(self, session: OpenSession, now_s: float) -> Failures:
        stats, lost = self._registry.leave(session)
        return self._settle(session, stats, lost, now_s)

    def _move(
        self, session: OpenSession, stats: SessionStats, lost: int, make_error: MakeError, now_s: float
    ) -> Failures:
        """Computes a session again whose step took an engine along, unless that has happened to it too often."""
        session.record.failures += 1
        if session.record.failures > MOST_FAILURES:
            return [self._end(session, stats, make_error(), now_s)]
        return self._settle(session, stats, lost, now_s)

    def _settle(self, session: OpenSession, stats: SessionStats, lost: int, now_s: float) -> Failures:
        """Finds an engine for a session that is open nowhere; without one it fails."""
        if self._fleet.resume(session, stats, lost, now_s):
            self._registry.counters.sessions_resumed += 1
            return []
        wait_s = self._registry.retry_after_s(now_s)
        error = Unavailable(
            f"the session's engine has stopped and no other has room for it: open it again in {wait_s:.2g} s", wait_s
        )
        return [self._end(session, stats, error, now_s)]

    def _end(
        self, session: OpenSession, stats: SessionStats, error: S2LError, now_s: float
    ) -> tuple[OpenSession, S2LError]:
        self._registry.remove(session, "failed", stats, now_s)
        return session, error


def _served(plans: Sequence[StepPlan]) -> set[str]:
    """Sessions in any of these steps."""
    return {row.session_id for plan in plans for rows in (plan.chunks, plan.samples) for row in rows}


def _taken_along(session_id: str) -> S2LError:
    return InternalError(
        f"{MOST_FAILURES + 1} engines have stopped in turn at the same token of session {session_id!r}: not again"
    )
