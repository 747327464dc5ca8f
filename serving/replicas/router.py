"""What servers of this process talk to, in place of an orchestrator: sessions that replicas serve."""

import asyncio
import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace

import numpy as np

from s2l_jax.core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    S2LError,
    Unavailable,
)
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack, SchedulerStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.models.tokenizer import Tokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.context import Edit, SessionContext
from s2l_jax.orchestrator.counters import Counters, OrchestratorStats
from s2l_jax.orchestrator.events import Content, DoneEvent, FailedEvent, Sink, SinkEvent
from s2l_jax.orchestrator.observer import Blind, Observer, Op, Opening, WatchedSession, quiet
from s2l_jax.orchestrator.outlet import Outlet
from serving.replicas.output import RoutedOutput
from serving.replicas.protocol import Replicas
from serving.replicas.routed_session import Ask, RoutedSession

_log = logging.getLogger(__name__)
_MAX_SESSION_ID_CHARS = 128
_SEED_BITS = 64


class _Entry:
    """An open session as its client's thread sees it.

    Attributes:
      lock: held while an event is applied, so that events stay in order.
      context: the client's context; None once it is complete.
      routed: the session itself, in the event loop.
      outlet: where its events go.
      watched: is told what its client does.
      last_ack: answers the last event.
    """

    routed: RoutedSession
    outlet: Outlet

    def __init__(self, name: SessionId, context: SessionContext, watched: WatchedSession) -> None:
        self.watched = watched
        self.lock = threading.Lock()
        self.context: SessionContext | None = context
        self.last_ack = Ack(name, 0, 0, 0, 0)


class Router:
    """Gives each session to a replica, and to another one if that is lost.

    It has those methods of `Orchestrator` that servers call.

    Thread-safe. Text is tokenized here, in the caller's thread, so that sessions can be sent to where the beginning of
    their context is; `open` and events wait for the replica's answer, so callers need threads to spare, and the event
    loop must not be one of them. `cancel` waits for nothing.

    Args:
      replicas: who serves.
      loop: the event loop of the replicas; runs as long as this is used.
      tokenizer: of the model.
      eos_token_ids: tokens that end an output.
      config: limits of this process; replicas have their own.
      clock: seconds, rising.
    """

    def __init__(
        self,
        replicas: Replicas,
        loop: asyncio.AbstractEventLoop,
        tokenizer: Tokenizer,
        eos_token_ids: Collection[int],
        config: OrchestratorConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._replicas = replicas
        self._loop = loop
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._clock = clock
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)
        self._entries: dict[SessionId, _Entry] = {}
        self._counters = Counters()
        self._refusal: str | None = None
        self._opening = quiet(Blind().opening)

    def observe(self, observer: Observer) -> None:
        """Tells an observer about sessions opened from now on; steps are the replicas'. There is one at most."""
        self._opening = quiet(observer.opening)

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
        """Opens a session; arguments and errors are those of `Orchestrator.open`.

        Raises:
          Unavailable: there is no replica.
        """
        params = params or SamplingParams(max_tokens=self.config.default_max_tokens)
        if not params.is_greedy and params.seed is None:
            params = replace(params, seed=secrets.randbits(_SEED_BITS))
        name = _checked_id(session_id)
        context = SessionContext(self._tokenizer, add_bos=add_bos)
        edit = context.append(content)
        now_s = self._clock()
        watch = self._opening(Opening(name, tenant, params.max_tokens, final, now_s))
        entry = _Entry(name, context, WatchedSession(watch or Blind(), self._clock))
        entry.outlet = Outlet(entry.watched.around(sink), lambda error: self._drop(name, entry, error))
        entry.routed = RoutedSession(
            Ask(name, params, tenant, priority, first_token_within_s),
            self._replicas,
            RoutedOutput(self._tokenizer, params, self._eos_token_ids),
            lambda event: self._emit(name, entry, event),
            self._count_move,
            self._clock,
        )
        try:
            with entry.lock:
                self._enter(name, entry)
                try:
                    tokens = np.concatenate([context.head, edit.tail])
                    entry.last_ack = self._wait(entry.routed.open(tokens, final=final))
                except BaseException:
                    self._leave(name, entry)
                    raise
                if final:
                    entry.context = None
        except S2LError as error:
            entry.watched.refused(error)
            raise
        entry.watched.changed("open", entry.last_ack, final=final, now_s=now_s)
        with self._lock:
            self._counters.sessions_opened += 1
        return entry.last_ack

    def append(self, session_id: str, content: Content, *, final: bool = False, seq: int = 0) -> Ack:
        """As `Orchestrator.append`."""
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
        """As `Orchestrator.update`."""

        def edit(context: SessionContext) -> Edit:
            return context.update(content, keep_tokens=keep_tokens, keep_chars=keep_chars)

        return self._apply(session_id, "update", edit, final=final, seq=seq)

    def finish(self, session_id: str, *, seq: int = 0) -> Ack:
        """As `Orchestrator.finish`."""
        return self.append(session_id, None, final=True, seq=seq)

    def cancel(self, session_id: str, *, seq: int = 0) -> None:
        """As `Orchestrator.cancel`."""
        with self._lock:
            entry = self._entries.get(SessionId(session_id))
        if entry is None or (seq and _is_repeat(entry.last_ack, seq)):
            return
        self._emit(SessionId(session_id), entry, DoneEvent("cancelled", entry.routed.stats()))
        self._close(entry)

    def unready(self) -> str | None:
        """Why no session may be opened, None if sessions may."""
        return self._refusal or (
            None if self._replicas.present() else "no server is there that sessions could be given to"
        )

    def stats(self) -> OrchestratorStats:
        """A snapshot of this process's counters; of blocks and steps, replicas know."""
        with self._lock:
            sessions = len(self._entries)
            return OrchestratorStats(
                replace(self._counters), sessions, 0, SchedulerStats({"routed": sessions}, 0, 0, 0, 0, 0)
            )

    def drain(self, timeout_s: float) -> bool:
        """As `Orchestrator.drain`."""
        with self._lock:
            self._refusal = "the router is shutting down: open the session elsewhere"
            is_empty = self._empty.wait_for(lambda: not self._entries, timeout_s)
        self._end_all("the router is shutting down, and the session did not end in time")
        return is_empty

    def close(self) -> None:
        """Ends what is left."""
        self._refusal = self._refusal or "the router has shut down"
        self._end_all("the router has shut down")

    # How it is done

    def _apply(
        self, session_id: str, op: Op, make_edit: Callable[[SessionContext], Edit], *, final: bool, seq: int
    ) -> Ack:
        with self._lock:
            entry = self._entries.get(SessionId(session_id))
        if entry is None:
            raise NotFound(f"session {session_id!r} is not open: it was never opened, or it has ended")
        with entry.lock:
            if _is_repeat(entry.last_ack, seq):
                return _repeated(entry.last_ack, seq)
            if entry.context is None:
                raise FailedPrecondition(f"session {session_id!r}: the context was declared complete, it cannot change")
            edit = make_edit(entry.context)
            try:
                entry.last_ack = self._wait(entry.routed.update(edit.keep, edit.tail, final=final))
            except BaseException:
                edit.undo()
                raise
            if final:
                entry.context = None
            entry.watched.changed(op, entry.last_ack, final=final, now_s=self._clock())
            return entry.last_ack

    def _wait[T](self, call: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def _enter(self, name: SessionId, entry: _Entry) -> None:
        with self._lock:
            if self._refusal is not None:
                raise Unavailable(self._refusal)
            if name in self._entries:
                raise AlreadyExists(f"session {name!r} is open already: choose another id")
            if len(self._entries) >= self.config.max_sessions:
                self._counters.sessions_refused += 1
                wait_s = self.config.retry_after_s
                raise ResourceExhausted(
                    f"all {len(self._entries)} sessions are in use: try again in {wait_s:g} s", wait_s
                )
            self._entries[name] = entry

    def _leave(self, name: SessionId, entry: _Entry) -> bool:
        with self._lock:
            if self._entries.get(name) is not entry:
                return False
            del self._entries[name]
            if not self._entries:
                self._empty.notify_all()
            return True

    def _emit(self, name: SessionId, entry: _Entry, event: SinkEvent) -> None:
        if isinstance(event, DoneEvent | FailedEvent) and self._leave(name, entry):
            stats = entry.routed.stats()
            with self._lock:
                reason = "failed" if isinstance(event, FailedEvent) else event.finish_reason
                self._counters.count_end(
                    "failed" if reason == "failed" else "cancelled" if reason == "cancelled" else "completed", stats
                )
                self._counters.tokens_output += stats.output_tokens
        entry.outlet.emit(event)

    def _drop(self, name: SessionId, entry: _Entry, error: Exception) -> None:
        _log.error(
            "the sink of session %s raised, which ends the session", name, exc_info=error, extra={"session": name}
        )
        entry.watched.emitted(FailedEvent(InternalError("the session's output could not be delivered")))
        self._leave(name, entry)
        self._close(entry)

    def _close(self, entry: _Entry) -> None:
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(entry.routed.close(), self._loop)

    def _count_move(self) -> None:
        with self._lock:
            self._counters.sessions_resumed += 1

    def _end_all(self, why: str) -> None:
        with self._lock:
            entries = list(self._entries.items())
        for name, entry in entries:
            self._emit(name, entry, FailedEvent(Unavailable(why)))
            self._close(entry)


def _checked_id(session_id: str | None) -> SessionId:
    if session_id is None:
        return SessionId(uuid.uuid4().hex)
    if not 0 < len(session_id) <= _MAX_SESSION_ID_CHARS:
        raise InvalidArgument(
            f"session_id has {len(session_id)} characters, but must have 1 to {_MAX_SESSION_ID_CHARS}: shorten it, or "
            "leave it out to get one"
        )
    return SessionId(session_id)


def _repeated(last: Ack, seq: int) -> Ack:
    """Answers a repeat: as before if it is the last event, else with the context as it is."""
    if seq == last.seq:
        return replace(last, duplicate=True)
    return Ack(last.session_id, seq, last.context_tokens, last.context_tokens, 0, duplicate=True)


def _is_repeat(last: Ack, seq: int) -> bool:
    """True if the event numbered `seq` has been applied; 0 stands for the next number."""
    if seq > last.seq + 1:
        raise InvalidArgument(
            f"session {last.session_id!r}: event {seq} came after {last.seq}: send {last.seq + 1} first, events are "
            "missing"
        )
    return 0 < seq <= last.seq
