"""How the processes of a world find each other."""

import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from s2l_jax.core.errors import InvalidArgument, Unavailable
from serving.config import ServeConfig
from serving.world.config import WorldConfig
from serving.world.frame import Kind
from serving.world.link import Link
from serving.world.meeting import meet
from serving.world.start import facts_of
from tests.serving.world.harness import TIMEOUT_S, free_ports

FACTS = facts_of(ServeConfig(slices="cpu=2"))


class Meeting:
    """Processes, as threads, that meet at one address."""

    def __init__(self, size: int, join_s: float = TIMEOUT_S) -> None:
        self.port = free_ports()
        self._size, self._join_s = size, join_s
        self._pool = ThreadPoolExecutor(8)

    def comes(self, rank: int, size: int | None = None, **changed: str) -> Future[dict[int, Link]]:
        config = WorldConfig(size or self._size, rank, "127.0.0.1", self.port, join_s=self._join_s)
        return self._pool.submit(meet, config, FACTS | changed)


def test_all_find_each_other_in_any_order() -> None:
    meeting = Meeting(3)
    second, first = meeting.comes(2), meeting.comes(1)
    leader = meeting.comes(0).result(TIMEOUT_S)
    assert sorted(leader) == [1, 2]
    for rank, follower in ((1, first), (2, second)):
        leader[rank].send(Kind.AGREE, b"%d" % rank)
        assert follower.result(TIMEOUT_S)[0].receive(TIMEOUT_S).payload == b"%d" % rank


def test_who_was_started_otherwise_is_told_how() -> None:
    meeting = Meeting(2)
    leader = meeting.comes(0)
    with pytest.raises(InvalidArgument, match="rank 1 has --model other, rank 0 has smollm2-135m: start all processes"):
        meeting.comes(1, **{"--model": "other"}).result(TIMEOUT_S)
    with pytest.raises(InvalidArgument, match="rank 1 was started with --world-size 3, rank 0 with 2"):
        meeting.comes(1, 3).result(TIMEOUT_S)
    meeting.comes(1).result(TIMEOUT_S)
    assert sorted(leader.result(TIMEOUT_S)) == [1]


def test_strangers_are_sent_away_and_a_process_may_be_started_again() -> None:
    meeting = Meeting(3)
    leader = meeting.comes(0)
    stranger = None
    while stranger is None:
        try:
            stranger = socket.create_connection(("127.0.0.1", meeting.port))
        except OSError:
            threading.Event().wait(0.02)
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" + bytes(64))
    assert stranger.recv(1) == b""
    gone = Link(socket.create_connection(("127.0.0.1", meeting.port)))
    gone.send(Kind.HELLO, b'{"rank": 1, "size": 3, "facts": {}}')
    assert gone.receive(TIMEOUT_S).kind is Kind.REFUSED
    gone.close()
    first, second = meeting.comes(1), meeting.comes(2)
    assert sorted(leader.result(TIMEOUT_S)) == [1, 2]
    first.result(TIMEOUT_S), second.result(TIMEOUT_S)


def test_who_does_not_come_is_named() -> None:
    meeting = Meeting(3, join_s=1.0)
    leader, first = meeting.comes(0), meeting.comes(1)
    with pytest.raises(Unavailable, match=r"no process of rank 2 came to 127\.0\.0\.1:\d+ in 1 s"):
        leader.result(TIMEOUT_S)
    with pytest.raises(Unavailable, match="rank 0 could not be reached"):
        first.result(TIMEOUT_S)


def test_an_address_that_is_taken_is_named() -> None:
    meeting = Meeting(2)
    with (
        socket.create_server(("127.0.0.1", meeting.port)),
        pytest.raises(InvalidArgument, match="rank 0 cannot listen on"),
    ):
        meeting.comes(0).result(TIMEOUT_S)
