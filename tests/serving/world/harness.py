"""A world of threads: rank 0 with fake devices, and followers with theirs, over real connections."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.world import following, leading_engine, watchdog
from serving.world.config import WorldConfig
from serving.world.follower import Follower
from serving.world.following import carry_out_all
from serving.world.leader import Leader
from serving.world.leading_engine import LeadingEngine
from serving.world.link import Link
from tests.fakes import FakeEngine
from tests.orchestrator.harness import LETTERS

TIMEOUT_S = 10.0


def connected() -> tuple[Link, Link]:
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return Link(near), Link(far)


def free_ports() -> int:
    """The first of two ports that are free, one behind the other."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = one.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return int(port)


def make_engine(**options: Any) -> FakeEngine:
    return FakeEngine(64, 4, 12, vocab_size=258, alphabet=LETTERS, token_budget=32, max_batch=8, **options)


@dataclass
class World:
    """What a test looks at.

    Attributes:
      leader: rank 0.
      engine: what an orchestrator would use.
      engines: of all ranks.
      followers: all other ranks.
      ended: what processes said at their end.
      drains: how often rank 0 was asked to drain.
    """

    leader: Leader
    engine: LeadingEngine
    engines: Sequence[FakeEngine]
    followers: Sequence[Follower]
    ended: list[str] = field(default_factory=list)
    drains: list[None] = field(default_factory=list)


@contextmanager
def world(
    monkeypatch: pytest.MonkeyPatch,
    engines: Sequence[FakeEngine],
    *,
    silence_s: float = TIMEOUT_S,
    step_s: float = TIMEOUT_S,
    follower_of: Callable[[Link, WorldConfig, float], Follower] = Follower,
) -> Iterator[World]:
    """Starts a world; the first engine is rank 0's."""
    ended: list[str] = []
    drains: list[None] = []
    monkeypatch.setattr(watchdog, "end_at_once", ended.append)
    for module in (leading_engine, following):
        monkeypatch.setattr(module, "rehearse", lambda _: None)
    size = len(engines)
    pairs = {rank: connected() for rank in range(1, size)}
    followers = [
        follower_of(far, WorldConfig(size, rank, "127.0.0.1", silence_s=silence_s), step_s)
        for rank, (_, far) in pairs.items()
    ]
    config = WorldConfig(size, 0, "127.0.0.1", silence_s=silence_s)
    leader = Leader({rank: near for rank, (near, _) in pairs.items()}, config, step_s, lambda: drains.append(None))

    def follow(follower: Follower, engine: FakeEngine) -> None:
        carry_out_all(engine, follower, lambda *_: None, lambda: None)  # type: ignore[arg-type]
        if follower.watchdog.lost is None:
            follower.close()

    threads = [
        threading.Thread(target=follow, args=item, name="test-follower", daemon=True)
        for item in zip(followers, engines[1:], strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield World(leader, LeadingEngine(engines[0], leader), engines, followers, ended, drains)  # type: ignore[arg-type]
    finally:
        for near, far in pairs.values():
            near.close()
            far.close()
        leader.watchdog.stop()
        for follower in followers:
            follower.watchdog.stop()
