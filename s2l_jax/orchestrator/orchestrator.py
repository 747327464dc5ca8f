"""The orchestrator: many clients in front of one engine or several."""

import contextlib
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence

import numpy as np

from s2l_jax.core.errors import FailedPrecondition, InternalError, InvalidArgument, S2LError, Unavailable
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack
from s2l_jax.core.params import SamplingParams
from s2l_jax.engine.errors import EngineGone
from s2l_jax.engine.protocol import Progress
from s2l_jax.models.grammar import GrammarCompiler
from s2l_jax.models.tokenizer import Tokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.context import Edit, SessionContext
from s2l_jax.orchestrator.counters import OrchestratorStats
from s2l_jax.orchestrator.engine_loop import EngineLoop
from s2l_jax.orchestrator.events import Content, DoneEvent, FailedEvent, Sink
from s2l_jax.orchestrator.failures import emit_failures
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.observer import Blind, Observer, Op, Opening, WatchedSession, quiet
from s2l_jax.orchestrator.open_session import OpenSession
from s2l_jax.orchestrator.registry import Registry
from s2l_jax.orchestrator.watchdog import Watchdog
from s2l_jax.transport.in_process import InProcessTransport
from s2l_jax.transport.protocol import KVTransport

_log = logging.getLogger(__name__)
_MAX_SESSION_ID_CHARS = 128
_MAX_PRIORITY = 1000


class Orchestrator:
    """Thread-safe front of schedulers and engines.

    Every method may be called from any thread. Events are answered at once, also while a step runs: the one lock
    (`Registry.lock`) is held for bookkeeping only. Text is tokenized in the caller's thread, under the lock of its
    session, so the events of one session are applied one after the other and those of different sessions side by side.

    Engines and schedulers belong to the orchestrator from `start` on: each engine has a thread that is the only one to
    call it, and `close` closes it. If one fails, its sessions are computed again by others, from their tokens.

    Args:
      units: engines with their schedulers, of one model and one `max_model_len`: one that does all, or some that
        compute contexts and some that generate.
      tokenizer: of the engines' model.
      config: limits.
      clock: seconds, rising; sessions are timed with it.
      transport: carries KV between engines; None copies within this process.

    Raises:
      InvalidArgument: nobody computes contexts, or nobody generates.
    """

    def __init__(
        self,
        units: Sequence[EngineUnit],
        tokenizer: Tokenizer,
        config: OrchestratorConfig,
        clock: Callable[[], float] = time.monotonic,
        transport: KVTransport | None = None,
    ) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._grammars = GrammarCompiler(tokenizer)
        self._clock = clock
        self._transport = transport or InProcessTransport()
        self._registry = Registry(units, self._transport, config)
        self._loops = [EngineLoop(member, self._registry, clock) for member in self._registry.fleet.members]
        self._watchdog = Watchdog(lambda: self._loops, config.step_timeout_s, self._end_expired)
        self._observer: Observer = Blind()
        self._opening = quiet(self._observer.opening)

    # Life

    def observe(self, observer: Observer) -> None:
        """Tells an observer about steps, and about sessions opened, from now on; there is one at most."""
        self._observer = observer
        self._opening = quiet(observer.opening)
        for loop in self._loops:
            loop.watch(observer)

    def start(self, progress: Progress | None = None) -> None:
        """Starts the engine threads, one after the other, and waits until all are warm. To be called once.

        Engines in other processes may be missing: they are replaced once they are there.

        Args:
          progress: told about each warm-up, on the engine's thread.

        Raises:
          Unavailable: an engine could not be made ready.
        """
        for loop in self._loops:
            with contextlib.suppress(EngineGone):
                loop.start(progress)
        self._watchdog.start()

    def lose(self, index: int, why: EngineGone) -> None:
        """An engine is known to be gone, though its thread may not know yet: its sessions go to others soon."""
        self._loops[index].lose(why)

    def replace(self, index: int, unit: EngineUnit) -> None:
        """Puts an engine in the place of one that has failed, once it is warm. For an index, one thread may call it.

        Args:
          index: of the one that has failed.
          unit: fresh.

        Raises:
          FailedPrecondition: the old one works, or the server is shutting down.
          EngineGone: the new one has gone as well.
          Unavailable: the new one could not be made ready.
        """
        registry = self._registry
        with registry.lock:
            if registry.failure is not None or registry.fleet.members[index].is_alive:
                raise FailedPrecondition(f"engine {index} cannot be replaced: it works, or nothing does")
            member = registry.fleet.member_of(unit, index)
        loop = EngineLoop(member, registry, self._clock)
        loop.watch(self._observer)
        loop.start(None)
        with registry.lock:
            registry.fleet.members[index] = member
            self._loops[index] = loop
            is_closing = registry.failure is not None
        if is_closing:
            loop.ask_to_stop()

    def drain(self, timeout_s: float) -> bool:
        """Lets open sessions come to their ends, but no new ones in; what is left after the time-out fails.

        Returns:
          True if no session had to be ended.
        """
        registry = self._registry
        with registry.lock:
            registry.refusal = "the server is shutting down: open the session elsewhere"
            is_empty = registry.empty.wait_for(registry.is_empty, timeout_s)
        self._end_all("the server is shutting down, and the session did not end in time")
        return is_empty

    def close(self, timeout_s: float = 60.0) -> None:
        """Ends what is left, and each engine thread after the step in flight. May be called again.

        Args:
          timeout_s: how long to wait for these steps. A thread that is stuck in the device is left behind, with a log
            entry; it does not keep the process alive.
        """
        with self._registry.lock:
            if self._registry.failure is None:
                self._registry.failure = "the server has shut down"
        self._end_all("the server has shut down")
        self._watchdog.stop()
        for loop in self._loops:
            loop.ask_to_stop()
        end_s = time.monotonic() + timeout_s
        for loop in self._loops:
            loop.wait(max(0.0, end_s - time.monotonic()))
        self._transport.close()

    # Events

    def open(
        self,
        *,
        sink: Sink,
        params: SamplingParams | None = None,
        content: Content = None,
        session_id: str | None = None,
        final: bool = False,
        add_bos: bool = False,
        tenant: str = "",
        priority: int = 0,
        first_token_within_s: float | None = None,
    ) -> Ack:
        """Opens a session. This is event 1 of it.

        Args:
          sink: receives what becomes of it; may be called before this returns.
          params: how to sample; None decodes greedily, `config.default_max_tokens` at most.
          content: the beginning of the context, or None.
          session_id: the client's name for it; None lets the server make one.
          final: the context is complete: a plain request.
          add_bos: begin with the begin-of-sequence token, if the model has one.
          tenant: whose it is; KV is never shared between tenants.
          priority: -1000 to 1000; what it does is up to the policy, the default lets higher ones go first.
          first_token_within_s: the first token is wanted within this time from now; None or 0: no matter.

        Raises:
          Unavailable: the server is shutting down, or its engine has stopped.
          ResourceExhausted: there is no room; the error says when to try again.
          AlreadyExists: a session of this id is open.
          InvalidArgument: parameters or content are out of range, or the constraint cannot be compiled; the message
            says which.
        """
        if params is None:
            params = SamplingParams(max_tokens=self.config.default_max_tokens)
        if params.max_tokens > self.config.limit_max_tokens:
            raise InvalidArgument(f"max_tokens is {params.max_tokens}, but the limit is {self.config.limit_max_tokens}")
        name = _checked_id(session_id)
        _check_urgency(priority, first_token_within_s)
        now_s = self._clock()
        with self._registry.lock:
            self._registry.check_room(now_s)
        grammar = None
        if params.constraint is not None:
            grammar = self._grammars.start(params.constraint, ignore_eos=params.ignore_eos)

        watch = self._opening(Opening(name, tenant, params.max_tokens, final, now_s))
        watched = WatchedSession(watch or Blind(), self._clock)

        def on_sink_error(error: Exception) -> None:
            about = {"session": name}
            _log.error("the sink of session %s raised, which ends the session", name, exc_info=error, extra=about)
            watched.emitted(FailedEvent(InternalError("the session's output could not be delivered")))
            with self._registry.lock:
                self._registry.end(session, "failed", self._clock())

        session = OpenSession(
            name,
            self._tokenizer,
            params,
            sink,
            watched,
            on_sink_error,
            add_bos=add_bos,
            now_s=now_s,
            grammar=grammar,
        )
        try:
            with session.lock:
                context = _context_of(session)
                edit = _encode(name, lambda: context.append(content))
                tokens = np.concatenate([context.head, edit.tail])
                if final:
                    session.context = None
                with self._registry.lock:
                    ack = self._registry.open(
                        session,
                        tokens,
                        params,
                        final=final,
                        tenant=tenant,
                        priority=priority,
                        deadline_s=now_s + first_token_within_s if first_token_within_s else None,
                    )
        except S2LError as error:
            watched.refused(error)
            raise
        watched.changed("open", ack, final=final, now_s=now_s)
        return ack

    def append(self, session_id: str, content: Content, *, final: bool = False, seq: int = 0) -> Ack:
        """Adds content to the end of a session's context.

        An event that is refused changes nothing, and the session goes on.

        Args:
          session_id: the session.
          content: text or token ids, as the session's first content was; None adds nothing.
          final: the context is complete with this.
          seq: the event's number, one more than the last event's; 0 takes the next. A repeat changes nothing.

        Raises:
          NotFound: no such session, or it has ended.
          FailedPrecondition: the context was complete already.
          InvalidArgument: events in between are missing, the content is out of range, or the context grows too long.
          Unavailable: the engine has stopped.
        """
        op: Op = "finish" if final and content is None else "append"
        return self._apply(session_id, op, lambda context: context.append(content), final=final, seq=seq)

    def update(
        self,
        session_id: str,
        content: Content,
        *,
        keep_tokens: int = 0,
        keep_chars: int = 0,
        final: bool = False,
        seq: int = 0,
    ) -> Ack:
        """Replaces the context behind its first `keep_tokens` tokens or `keep_chars` characters.

        KV of the longest common prefix of old and new context stays, however little is named as kept. Other arguments
        and errors are those of `append`; also:

        Raises:
          InvalidArgument: more is kept than there is, or it is counted in the other kind's unit.
        """

        def edit(context: SessionContext) -> Edit:
            return context.update(content, keep_tokens=keep_tokens, keep_chars=keep_chars)

        return self._apply(session_id, "update", edit, final=final, seq=seq)

    def finish(self, session_id: str, *, seq: int = 0) -> Ack:
        """Says that the context is complete; output follows. Errors are those of `append`."""
        return self.append(session_id, None, final=True, seq=seq)

    def cancel(self, session_id: str, *, seq: int = 0) -> None:
        """Ends a session at once, whatever it is doing; its sink receives `DoneEvent("cancelled", ...)`.

        A session that is not open is no error, since it may just have ended.

        Raises:
          InvalidArgument: `seq` shows that events are missing.
        """
        with self._registry.lock:
            ended = self._registry.end_by_client(session_id, seq, self._clock())
        if ended is not None:
            session, stats = ended
            session.outlet.emit(DoneEvent("cancelled", stats))

    def unready(self) -> str | None:
        """Why no session may be opened any more, None if sessions may; a full house does not count."""
        with self._registry.lock:
            return self._registry.failure or self._registry.refusal

    def stats(self) -> OrchestratorStats:
        """A snapshot of counters and queues."""
        with self._registry.lock:
            return self._registry.stats()

    # How it is done

    def _apply(
        self, session_id: str, op: Op, make_edit: Callable[[SessionContext], Edit], *, final: bool, seq: int
    ) -> Ack:
        registry = self._registry
        with registry.lock:
            session = registry.find(session_id)
        with session.lock:
            with registry.lock:
                repeated = registry.check_event(session, seq, self._clock())
            if repeated is not None:
                return repeated
            context = _context_of(session)
            edit = _encode(session.id, lambda: make_edit(context))
            try:
                with registry.lock:
                    now_s = self._clock()
                    ack = registry.apply(session, edit, now_s, seq=seq, final=final)
            except BaseException:
                edit.undo()
                raise
            if final:
                session.context = None
            session.watched.changed(op, ack, final=final, now_s=now_s)
            return ack

    def _end_expired(self) -> None:
        with self._registry.lock:
            expired = self._registry.end_expired(self._clock())
        emit_failures(expired)

    def _end_all(self, why: str) -> None:
        with self._registry.lock:
            failed = self._registry.end_all(lambda: Unavailable(why), self._clock())
        emit_failures(failed)


def _checked_id(session_id: str | None) -> SessionId:
    if session_id is None:
        return SessionId(uuid.uuid4().hex)
    if not 0 < len(session_id) <= _MAX_SESSION_ID_CHARS:
        raise InvalidArgument(
            f"session_id has {len(session_id)} characters, but must have 1 to {_MAX_SESSION_ID_CHARS}: shorten it, or "
            "leave it out to get one"
        )
    return SessionId(session_id)


def _check_urgency(priority: int, first_token_within_s: float | None) -> None:
    if not -_MAX_PRIORITY <= priority <= _MAX_PRIORITY:
        raise InvalidArgument(f"priority is {priority}, but must be between {-_MAX_PRIORITY} and {_MAX_PRIORITY}")
    if first_token_within_s is not None and not 0 <= first_token_within_s < math.inf:
        raise InvalidArgument(
            f"first_token_within_s is {first_token_within_s}, but must be 0 (no matter when) or more, and finite"
        )


def _context_of(session: OpenSession) -> SessionContext:
    if session.context is None:
        raise InternalError(f"session {session.id!r} has no context, though it is not complete")
    return session.context


def _encode(session_id: SessionId, make_edit: Callable[[], Edit]) -> Edit:
    try:
        return make_edit()
    except S2LError:
        raise
    except Exception as error:
        _log.exception("session %s: content could not be tokenized", session_id, extra={"session": session_id})
        raise InternalError(f"the content could not be tokenized: {error!r:.500}") from error
