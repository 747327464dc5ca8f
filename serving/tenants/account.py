"""One tenant before the orchestrator: its sessions under its own names, within its limits."""

import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from s2l_jax.core.errors import InvalidArgument, ResourceExhausted
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import Content, DoneEvent, FailedEvent, Sink, SinkEvent, TokenEvent
from serving.session_owner import SessionOwner
from serving.tenants.allowance import Allowance
from serving.tenants.limits import TenantLimits

MAX_TENANT_CHARS = 32
_MAX_ID_CHARS = 128 - MAX_TENANT_CHARS - 1  # so that the tenant's name fits before it


class Account:
    """What one tenant may do, and what it has had.

    Sessions are opened and changed through it. Ids are the tenant's own: two tenants may both have a session "a", and
    neither finds the other's. Every method may be called from any thread.

    Args:
      tenant: the tenant's name; empty is everybody on a server without keys, who has no limits.
      limits: of the tenant.
      orchestrator: owns the sessions.
      clock: seconds, rising.
    """

    def __init__(
        self,
        tenant: str,
        limits: TenantLimits,
        orchestrator: SessionOwner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tenant = tenant
        self._orchestrator = orchestrator
        self._clock = clock
        self._lock = threading.Lock()
        self._streams = 0
        self._limits = TenantLimits()
        self._tokens: Allowance | None = None
        self._requests: Allowance | None = None
        self.limit(limits)

    @property
    def streams(self) -> int:
        """Sessions that are open; not counted on a server without keys."""
        return self._streams

    def limit(self, limits: TenantLimits) -> None:
        """Sets new limits; of those that stay, what has been used stays used."""
        now_s = self._clock()
        with self._lock:
            self._limits = limits
            self._tokens = _of(limits.tokens_per_minute, self._tokens, now_s)
            self._requests = _of(limits.requests_per_minute, self._requests, now_s)

    def admit(self) -> None:
        """Counts a request.

        Raises:
          ResourceExhausted: the tenant has had its requests for now.
        """
        with self._lock:
            now_s = self._clock()
            self._check(self._requests, "requests", now_s)
            if self._requests is not None:
                self._requests.spend(1, now_s)

    def open(
        self,
        *,
        sink: Sink,
        params: SamplingParams,
        content: Content,
        final: bool,
        session_id: str | None = None,
        add_bos: bool = False,
        priority: int = 0,
        first_token_within_s: float | None = None,
    ) -> Ack:
        """Opens a session of the tenant. Arguments and errors are those of `Orchestrator.open`.

        Raises:
          ResourceExhausted: the tenant has as many streams as it may have, or has had its tokens for now.
        """
        guest = self._enter(sink) if self.tenant else None
        try:
            ack = self._orchestrator.open(
                sink=sink if guest is None else guest.take,
                params=params,
                content=content,
                session_id=self._inner(session_id, is_new=True),
                final=final,
                add_bos=add_bos,
                tenant=self.tenant,
                priority=priority,
                first_token_within_s=first_token_within_s,
            )
        except BaseException:
            if guest is not None:
                guest.leave()
            raise
        return self._charged(ack)

    def append(self, session_id: str, content: Content, *, final: bool = False, seq: int = 0) -> Ack:
        """As `Orchestrator.append`.

        Raises:
          ResourceExhausted: the tenant has had its tokens for now; nothing has changed.
        """
        if content is not None:
            self._check_tokens()
        return self._charged(self._orchestrator.append(str(self._inner(session_id)), content, final=final, seq=seq))

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
        """As `Orchestrator.update`.

        Raises:
          ResourceExhausted: the tenant has had its tokens for now; nothing has changed.
        """
        if content is not None:
            self._check_tokens()
        return self._charged(
            self._orchestrator.update(
                str(self._inner(session_id)),
                content,
                keep_tokens=keep_tokens,
                keep_chars=keep_chars,
                final=final,
                seq=seq,
            )
        )

    def finish(self, session_id: str, *, seq: int = 0) -> Ack:
        """As `Orchestrator.finish`."""
        return self._charged(self._orchestrator.finish(str(self._inner(session_id)), seq=seq))

    def cancel(self, session_id: str, *, seq: int = 0) -> None:
        """As `Orchestrator.cancel`."""
        self._orchestrator.cancel(str(self._inner(session_id)), seq=seq)

    # How it is done

    def _inner(self, session_id: str | None, *, is_new: bool = False) -> str | None:
        """The orchestrator's name for a session of this tenant."""
        if not self.tenant:
            return session_id
        if session_id is None:
            session_id = uuid.uuid4().hex
        if is_new and not 0 < len(session_id) <= _MAX_ID_CHARS:
            raise InvalidArgument(
                f"session_id has {len(session_id)} characters, but must have 1 to {_MAX_ID_CHARS}: shorten it, or "
                "leave it out to get one"
            )
        return f"{self.tenant}/{session_id}"

    def _charged(self, ack: Ack) -> Ack:
        """The tenant's view of an acknowledgement, whose new tokens it pays for; a repeat costs nothing."""
        if not self.tenant:
            return ack
        if not ack.duplicate:
            self._spend(ack.context_tokens - ack.kept_tokens)
        return replace(ack, session_id=SessionId(ack.session_id.removeprefix(f"{self.tenant}/")))

    def _enter(self, sink: Sink) -> "_Guest":
        with self._lock:
            limit = self._limits.max_streams
            if limit is not None and self._streams >= limit:
                retry_after_s = self._orchestrator.config.retry_after_s
                raise ResourceExhausted(
                    f"tenant {self.tenant!r} has {self._streams} open streams, and {limit} is its limit: end one, or "
                    f"try again in {retry_after_s:.2g} s",
                    retry_after_s,
                )
            self._check(self._tokens, "tokens", self._clock())
            self._streams += 1
        return _Guest(sink, self._spend, self._leave)

    def _leave(self) -> None:
        with self._lock:
            self._streams -= 1

    def _spend(self, tokens: int) -> None:
        with self._lock:
            if self._tokens is not None:
                self._tokens.spend(tokens, self._clock())

    def _check_tokens(self) -> None:
        with self._lock:
            self._check(self._tokens, "tokens", self._clock())

    def _check(self, allowance: Allowance | None, what: str, now_s: float) -> None:
        wait_s = 0.0 if allowance is None else allowance.wait_s(now_s)
        if allowance is not None and wait_s > 0:
            raise ResourceExhausted(
                f"tenant {self.tenant!r} has had its {allowance.per_minute} {what} a minute: try again in "
                f"{math.ceil(wait_s)} s",
                wait_s,
            )


class _Guest:
    """One open session on its tenant's account: its output is paid for, and it leaves once."""

    def __init__(self, sink: Sink, spend: Callable[[int], None], on_leave: Callable[[], None]) -> None:
        self._sink = sink
        self._spend = spend
        self._on_leave: Callable[[], None] | None = on_leave

    def take(self, event: SinkEvent) -> None:
        """Passes an event of the session on."""
        if isinstance(event, TokenEvent):
            self._spend(len(event.ids))
        try:
            self._sink(event)
        except BaseException:
            self.leave()  # a sink that raises is not called again
            raise
        if isinstance(event, DoneEvent | FailedEvent):
            self.leave()

    def leave(self) -> None:
        """The session has ended."""
        on_leave, self._on_leave = self._on_leave, None
        if on_leave is not None:
            on_leave()


def _of(per_minute: int | None, before: Allowance | None, now_s: float) -> Allowance | None:
    if per_minute is None:
        return None
    if before is not None and before.per_minute == per_minute:
        return before
    return Allowance(per_minute, now_s)
