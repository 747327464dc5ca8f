"""Messages between the processes of a world."""

import threading

import pytest

from serving.world.frame import HEAD_BYTES, DamagedFrameError, Frame, Kind, from_bytes, payload_bytes, to_bytes
from serving.world.link import LinkBroken
from tests.serving.world.harness import connected


def test_messages_arrive_as_they_were_and_in_order() -> None:
    a, b = connected()
    large = bytes(range(256)) * 20_000
    sender = threading.Thread(target=lambda: [a.send(Kind.ORDER, payload) for payload in (b"", b"one", large)])
    sender.start()
    frames = [b.receive(5.0) for _ in range(3)]
    sender.join()
    assert frames == [Frame(Kind.ORDER, number, payload) for number, payload in enumerate((b"", b"one", large))]
    b.send(Kind.DONE, b"back")
    assert a.receive(5.0) == Frame(Kind.DONE, 0, b"back")


@pytest.mark.parametrize(
    ("place", "says"),
    [(0, "is no message of a world"), (4, "are of version"), (5, "is damaged"), (12, "is damaged"), (-1, "is damaged")],
)
def test_a_flipped_bit_is_noticed(place: int, says: str) -> None:
    content = bytearray(to_bytes(Frame(Kind.ORDER, 7, b"payload")))
    content[place] ^= 1
    with pytest.raises(DamagedFrameError, match=says):
        head = bytes(content[:HEAD_BYTES])
        payload_bytes(head)
        from_bytes(head, bytes(content[HEAD_BYTES:]), 7)


def test_what_is_not_next_or_of_no_kind_is_noticed() -> None:
    content = to_bytes(Frame(Kind.ORDER, 7, b"payload"))
    with pytest.raises(DamagedFrameError, match="message 7 came in place of 6"):
        from_bytes(content[:HEAD_BYTES], content[HEAD_BYTES:], 6)
    content = to_bytes(Frame(200, 7, b""))  # type: ignore[arg-type]
    with pytest.raises(DamagedFrameError, match="unknown kind 200"):
        from_bytes(content, b"", 7)


def test_ends_and_silences_are_told_apart() -> None:
    a, b = connected()
    with pytest.raises(LinkBroken, match=r"nothing came for 0\.05 s"):
        b.receive(0.05)
    a.close()
    with pytest.raises(LinkBroken, match="closed by the other side"):
        b.receive()
    with pytest.raises(LinkBroken, match="the connection has ended"):
        for _ in range(2):
            b.send(Kind.BEAT)


def test_a_peer_that_takes_nothing_holds_up_nobody() -> None:
    a, _b = connected()
    with pytest.raises(LinkBroken):
        for _ in range(100):
            a.send(Kind.ORDER, bytes(1 << 20), within_s=0.1)
