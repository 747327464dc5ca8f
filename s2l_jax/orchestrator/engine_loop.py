"""The engine thread: plans, submits, collects, commits, and hands output to the sinks."""

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from s2l_jax.core.errors import InternalError, S2LError, Unavailable
from s2l_jax.core.outcome import Output, SessionStats
from s2l_jax.core.plan import StepPlan
from s2l_jax.engine.errors import EngineGone, KVLost
from s2l_jax.engine.protocol import Progress
from s2l_jax.orchestrator.counters import Ending
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent, TokenEvent
from s2l_jax.orchestrator.failures import emit_failures
from s2l_jax.orchestrator.masks import Constrained, as_planned, with_masks
from s2l_jax.orchestrator.member import Member
from s2l_jax.orchestrator.observer import Blind, Observer, quiet
from s2l_jax.orchestrator.open_session import OpenSession
from s2l_jax.orchestrator.pace import Pace
from s2l_jax.orchestrator.page_moves import PageMoves
from s2l_jax.orchestrator.recovery import Recovery
from s2l_jax.orchestrator.registry import Registry
from s2l_jax.orchestrator.watchdog import Pulse

_log = logging.getLogger(__name__)
_LOOK_S = 0.002
_LONGEST_WAIT_S = 0.25  # so that a clock which jumps ahead, as after a suspend, is noticed


class _Abandoned(Exception):
    """The engine has been given up while this thread was stuck in it: its sessions are others' now."""


class EngineLoop:
    """Owns an engine: every call to it comes from this thread, from `warmup` to `close`.

    While a step runs, the next one is planned and submitted, so that the device never waits for the host; as late as
    that allows (`Pace`), so that it serves what has arrived meanwhile. Then the step that runs is collected, and its
    output handed out under the next one. Pages of sessions that come or go are moved between steps (`PageMoves`); a
    step that may end with sessions to be handed over is collected before the next one begins, so that their pages leave
    at once instead of behind it.

    The registry's lock is taken for planning and committing only. If a step fails, its sessions end, with those of the
    step behind it, and the loop goes on; if anything else fails, the engine's sessions go to other engines, or end if
    there is none, and then later calls raise Unavailable. No error is lost silently.

    If the engine hangs, another thread calls `abandon`; should the engine come back, this one lets go of it without
    touching anything that is not its own any more.

    Attributes:
      pulse: shows that the engine does not hang.
    """

    def __init__(self, member: Member, registry: Registry, clock: Callable[[], float]) -> None:
        self._member = member
        self._engine = member.engine
        self._registry = registry
        self._clock = clock
        self._recovery = Recovery(registry)
        self._moves = PageMoves(member, registry, clock)
        self._progress: Progress | None = None
        self._is_warm = threading.Event()
        self._is_stopping = False
        self._outstanding: deque[StepPlan] = deque()
        self._pace = Pace()
        self._lost: EngineGone | None = None
        self.pulse = Pulse()
        self.watch(Blind())
        self._thread = threading.Thread(target=self._main, name=f"s2l-engine-{member.index}", daemon=True)

    def watch(self, observer: Observer) -> None:
        """Tells an observer about steps from now on, under this engine's index."""
        index = self._member.index
        self._submitted = quiet(functools.partial(observer.submitted, engine=index))
        self._collected = quiet(functools.partial(observer.collected, engine=index))

    def start(self, progress: Progress | None) -> None:
        """Starts the thread and waits until the engine is warm.

        Raises:
          EngineGone: the engine is elsewhere, and not there; it may be replaced when it is.
          Unavailable: the engine could not be made ready.
        """
        self._progress = progress
        self._thread.start()
        self._is_warm.wait()
        with self._registry.lock:
            failure = self._registry.failure or self._member.failure
            if self._lost is not None and self._registry.failure is None:
                raise self._lost
            if failure is not None:
                raise Unavailable(failure)

    def ask_to_stop(self) -> None:
        """Ends the thread after the steps in flight."""
        with self._registry.lock:
            self._is_stopping = True
            self._member.work.notify_all()

    def lose(self, why: EngineGone) -> None:
        """The engine is known to be gone: the thread ends as if it had found out itself."""
        with self._registry.lock:
            self._lost = why
            self._member.work.notify_all()

    def abandon(self, silent_s: float) -> None:
        """The engine hangs: its sessions go to others. Nothing happens if it has failed already."""
        failure = f"engine {self._member} has ended no step for {silent_s:g} s, and the server must be restarted"
        with self._registry.lock:
            if not self._member.is_alive:
                return
            failed = self._recovery.lose_member(self._member, tuple(self._outstanding), failure, self._clock())
        _log.critical("%s", failure)
        emit_failures(failed)

    def wait(self, timeout_s: float) -> None:
        """Waits for the thread to end."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.error("the engine thread is still in a step after %g s and is left behind", timeout_s)

    def _main(self) -> None:
        try:
            self._engine.warmup(self._progress)
            self._is_warm.set()
            while self._turn():
                pass
        except _Abandoned:
            _log.warning("engine %s has come back after it was given up, and stays out", self._member)
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody may be left waiting
            self._die(error)
        finally:
            self._is_warm.set()
            self._close_engine()

    def _turn(self) -> bool:
        """Gets the next step under way and the last one home, or waits for work; False when told to stop."""
        registry, member = self._registry, self._member
        if self._outstanding:
            self._pace.hold(self._engine.is_ready)
            self._stay_free()
            if member.role == "prefill" and any(plan.samples for plan in self._outstanding):
                self._collect()
        if not self._outstanding:
            self._beat(0.0)
        self._move_pages()
        with registry.lock:
            self._check_alive()
            now_s = self._clock()
            is_stopping = self._is_stopping
            expired = registry.end_expired(now_s)
            plan = None if is_stopping else registry.plan(member, now_s)
            constrained = [] if plan is None else registry.constrained(member, plan)
            is_busy = plan or expired or self._outstanding or is_stopping
            if not is_busy:
                if not registry.fleet.transfers.is_due(member):
                    member.work.wait(registry.wait_s(now_s, _LONGEST_WAIT_S))
                return True
        emit_failures(expired)
        is_behind = bool(self._outstanding)
        if plan is not None:
            self._submit(plan, constrained)
        if is_behind and self._outstanding:
            self._collect()
        return not is_stopping

    def _beat(self, expected_s: float) -> None:
        """A sign of life; the device goes on with a step that was predicted to take this long."""
        self.pulse.expected_s = expected_s
        self.pulse.beats += 1

    def _check_alive(self) -> None:
        """Ends the thread if it has nothing to say any more. Needs the registry's lock."""
        if not self._member.is_alive:
            raise _Abandoned
        if self._lost is not None:
            raise self._lost

    def _stay_free(self) -> None:
        """Waits for the end of the step if what would follow it is work ahead of time.

        Such a step would be queued for little, and a session that becomes complete now would have to wait for it.
        """
        while not self._engine.is_ready():
            with self._registry.lock:
                if self._is_stopping or not self._member.scheduler.is_ahead:
                    return
                self._member.work.wait(_LOOK_S)

    def _move_pages(self) -> None:
        try:
            self._moves.serve()
        except EngineGone:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_submit`
            self._fail_steps(error)

    def _submit(self, plan: StepPlan, constrained: Sequence[Constrained]) -> None:
        masked, failed = with_masks(plan, constrained)
        for session, error in failed:
            self._fail(session, error)
        self._outstanding.append(plan)
        try:
            self._engine.submit(masked)
        except EngineGone:
            raise
        except Exception as error:  # noqa: BLE001 - an engine may fail in any way, and the loop goes on
            self._fail_steps(error)
            return
        if len(self._outstanding) == 1:
            self._begins(plan)
        self._submitted(plan, self._clock())

    def _collect(self) -> None:
        """Brings the oldest step home; the one behind it, if there is one, begins on the device."""
        try:
            result = as_planned(self._engine.collect(), self._outstanding[0])
        except EngineGone:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_steps(error)
            return
        self._pace.end()
        plan = self._outstanding.popleft()
        if self._outstanding:
            self._begins(self._outstanding[0])
        with self._registry.lock:
            self._check_alive()
            now_s = self._clock()
            outputs = self._registry.commit(self._member, result, now_s)
            progress = self._registry.progress(self._member, plan, now_s)
        self._collected(result, now_s)
        for session, event in progress:
            session.outlet.emit(event)
        for session, output in outputs:
            self._deliver(session, output)

    def _begins(self, plan: StepPlan) -> None:
        """The device goes on with this step now."""
        costs = self._member.scheduler.costs
        predicted_s = costs.step(plan.shape) + costs.swap_in(len(plan.loads))
        self._pace.start(predicted_s)
        self._beat(predicted_s)

    def _deliver(self, session: OpenSession, output: Output) -> None:
        if output.finish_reason == "error":
            error = InternalError("the model gave no finite logits, so no token could be sampled: check its weights")
            session.outlet.emit(FailedEvent(error))
            return
        try:
            text, reason = session.render(output)
        except Exception:  # noqa: BLE001 - a defect of one session's text is that session's end only
            about = {"session": session.id}
            _log.exception("session %s: token %d has no text", session.id, output.token.token_id, extra=about)
            self._fail(session, InternalError("the output could not be turned into text"))
            return
        token = output.token
        logprobs = () if token.logprob is None else (token.logprob,)
        session.outlet.emit(TokenEvent((token.token_id,), text, logprobs, (token.top,) if token.top else ()))
        if output.finish_reason is not None and output.stats is not None:
            session.outlet.emit(DoneEvent(reason or output.finish_reason, output.stats))
        elif reason is not None:
            self._end(session, "completed", lambda stats: DoneEvent(reason, stats))

    def _fail(self, session: OpenSession, error: S2LError) -> None:
        self._end(session, "failed", lambda _: FailedEvent(error))

    def _end(self, session: OpenSession, ending: Ending, last_event: Callable[[SessionStats], SinkEvent]) -> None:
        """Ends a session that the scheduler would go on with, unless its client has just done so."""
        with self._registry.lock:
            ended = self._registry.end(session, ending, self._clock())
        if ended is not None:
            session.outlet.emit(last_event(ended[1]))

    def _fail_steps(self, error: Exception) -> None:
        """The engine has dropped all outstanding steps."""

        def make_error() -> InternalError:
            return InternalError(f"an engine step that served this session failed, open it again: {error!r:.500}")

        plans = list(self._outstanding)
        self._outstanding.clear()
        with self._registry.lock:
            self._check_alive()
            fail = self._recovery.lose_kv if isinstance(error, KVLost) else self._recovery.fail_steps
            failed = fail(self._member, plans, make_error, self._clock())
        ids = ", ".join(session.id for session, _ in failed)
        steps = " and ".join(str(plan.step_id) for plan in plans)
        _log.error("engine step %s failed, which ends sessions %s", steps, ids, exc_info=error)
        emit_failures(failed)

    def _die(self, error: BaseException) -> None:
        was_asked = False
        if isinstance(error, EngineGone):
            self._lost, was_asked = error, error.was_asked
            failure = f"engine {self._member} is lost: {error}"
            _log.error("%s", failure)
        else:
            failure = f"the engine has stopped and the server must be restarted: {error!r:.500}"
            _log.critical("the thread of engine %s ended", self._member, exc_info=error)
        with self._registry.lock:
            if not self._member.is_alive:
                return  # it was abandoned
            failed = self._recovery.lose_member(
                self._member, self._outstanding, failure, self._clock(), was_asked=was_asked
            )
        emit_failures(failed)

    def _close_engine(self) -> None:
        try:
            self._engine.close()
        except Exception:  # noqa: BLE001 - the thread ends here, and callers have been told all they need
            _log.exception("the engine could not be closed")
