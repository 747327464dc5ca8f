"""One tenant's limits, by a clock that only the test moves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from s2l_jax.core.errors import InvalidArgument, NotFound, ResourceExhausted
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, Sink, SinkEvent, TokenEvent
from serving.tenants.account import Account
from serving.tenants.limits import TenantLimits

STATS = SessionStats(1, 1, 1, 0, 0, 0, 0, 0, 0.1, 0.1)
DONE = DoneEvent("length", STATS)


class FakeOrchestrator:
    """Sessions of token lists, without an engine."""

    def __init__(self) -> None:
        self.config = OrchestratorConfig()
        self.sinks: dict[str, Sink] = {}
        self.tenants: dict[str, str] = {}
        self.lengths: dict[str, int] = {}
        self.error: Exception | None = None

    def open(self, *, sink: Sink, session_id: str, tenant: str, content: Any, **_: Any) -> Ack:
        if self.error is not None:
            raise self.error
        self.sinks[session_id], self.tenants[session_id] = sink, tenant
        self.lengths[session_id] = len(content or ())
        return Ack(SessionId(session_id), 1, self.lengths[session_id], 0, 0)

    def append(self, session_id: str, content: Any, *, final: bool = False, seq: int = 0) -> Ack:
        before = self.lengths[session_id]
        if seq == 1:
            return Ack(SessionId(session_id), 1, before, 0, 0, duplicate=True)
        self.lengths[session_id] = before + len(content or ())
        return Ack(SessionId(session_id), 2, self.lengths[session_id], before, 0)

    def finish(self, session_id: str, *, seq: int = 0) -> Ack:
        return self.append(session_id, None, final=True, seq=seq)

    def update(self, session_id: str, content: Any, *, keep_tokens: int = 0, **_: Any) -> Ack:
        self.lengths[session_id] = keep_tokens + len(content or ())
        return Ack(SessionId(session_id), 2, self.lengths[session_id], keep_tokens, 0)

    def cancel(self, session_id: str, *, seq: int = 0) -> None:
        self.sinks[session_id](DoneEvent("cancelled", STATS))


@dataclasses.dataclass
class Desk:
    account: Account
    orchestrator: FakeOrchestrator
    now_s: float = 0.0

    def open(self, session_id: str | None = None, content: Any = None, sink: Sink = lambda event: None) -> Ack:
        return self.account.open(
            sink=sink, params=SamplingParams(), content=content, final=False, session_id=session_id
        )


def _desk(tenant: str = "acme", **limits: int) -> Desk:
    orchestrator = FakeOrchestrator()
    desk: list[Desk] = []
    clock: Callable[[], float] = lambda: desk[0].now_s if desk else 0.0  # noqa: E731
    account = Account(tenant, TenantLimits(**limits), orchestrator, clock)  # type: ignore[arg-type]
    desk.append(Desk(account, orchestrator))
    return desk[0]


def test_sessions_are_the_tenants_own() -> None:
    desk = _desk()
    assert desk.open("a").session_id == "a"
    assert desk.orchestrator.tenants == {"acme/a": "acme"}
    made = desk.open().session_id
    assert f"acme/{made}" in desk.orchestrator.sinks and "/" not in made
    assert desk.account.append("a", [1, 2]).session_id == "a"
    for bad in ("", "x" * 96):
        with pytest.raises(InvalidArgument, match="1 to 95"):
            desk.open(bad)


def test_without_a_tenant_nothing_is_changed_or_counted() -> None:
    desk = _desk("")
    events: list[SinkEvent] = []
    desk.open("a", sink=events.append)
    assert desk.orchestrator.sinks == {"a": events.append} and desk.account.streams == 0


def test_streams_come_back_however_they_end() -> None:
    desk = _desk(max_streams=2)
    desk.open("a")
    desk.open("b")
    with pytest.raises(ResourceExhausted, match="2 open streams, and 2 is its limit") as full:
        desk.open("c")
    assert full.value.retry_after_s > 0
    desk.orchestrator.sinks["acme/a"](DONE)
    desk.orchestrator.sinks["acme/b"](FailedEvent(NotFound("gone")))
    assert desk.account.streams == 0
    desk.orchestrator.error = InvalidArgument("no")
    with pytest.raises(InvalidArgument):
        desk.open("c")
    assert desk.account.streams == 0
    desk.orchestrator.error = None

    def broken(event: SinkEvent) -> None:
        raise RuntimeError

    desk.open("d", sink=broken)
    with pytest.raises(RuntimeError):
        desk.orchestrator.sinks["acme/d"](TokenEvent((1,), "x"))
    assert desk.account.streams == 0
    desk.open("e")
    desk.account.cancel("e")
    assert desk.account.streams == 0


def test_prompt_and_output_tokens_are_paid_for_once() -> None:
    desk = _desk(tokens_per_minute=60)
    desk.open("a", [0] * 20)  # 40 left
    desk.account.append("a", [0] * 10, seq=2)  # 30
    desk.account.append("a", [0] * 10, seq=1)  # a repeat
    desk.account.update("a", [0] * 10, keep_tokens=25)  # 20
    for _ in range(19):
        desk.orchestrator.sinks["acme/a"](TokenEvent((1,), "x"))  # 1
    desk.account.append("a", [0] * 31)  # may overdraw: -30
    for refused in (
        lambda: desk.open("b"),
        lambda: desk.account.append("a", [0]),
        lambda: desk.account.update("a", [0]),
    ):
        with pytest.raises(ResourceExhausted, match="60 tokens a minute: try again in 31 s") as spent:
            refused()
        assert spent.value.retry_after_s == pytest.approx(31)
    assert desk.account.streams == 1
    desk.account.finish("a")  # costs nothing, so it is always taken
    desk.account.cancel("a")
    desk.now_s = 30.9
    with pytest.raises(ResourceExhausted):
        desk.open("b")
    desk.now_s = 31.1
    desk.open("b")
    desk.now_s = 10_000.0  # a minute's worth at most is saved
    desk.open("c", [0] * 60)
    with pytest.raises(ResourceExhausted):
        desk.open("d")


def test_requests_per_minute() -> None:
    desk = _desk(requests_per_minute=3)
    for _ in range(3):
        desk.account.admit()
    with pytest.raises(ResourceExhausted, match="3 requests a minute") as spent:
        desk.account.admit()
    assert spent.value.retry_after_s == pytest.approx(20)
    desk.now_s = 20.0
    desk.account.admit()


def test_new_limits_forget_nothing_that_stays() -> None:
    desk = _desk(requests_per_minute=1, tokens_per_minute=100)
    desk.account.admit()
    desk.account.limit(TenantLimits(requests_per_minute=1, max_streams=1))
    with pytest.raises(ResourceExhausted):
        desk.account.admit()
    desk.open("a", [0] * 1000)
    with pytest.raises(ResourceExhausted, match="open streams"):
        desk.open("b")
    desk.account.limit(TenantLimits())
    desk.account.admit()
    desk.open("b")
