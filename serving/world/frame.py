"""One message between two processes of a world.

    magic     4 bytes   b"s2lw"
    version   uint8     of this format; another one is refused
    kind      uint8     see `Kind`
    reserved  uint16    0
    length    uint32    bytes of the payload
    number    uint64    counts the messages of this direction from 0
    crc32     uint32    of all of the above and the payload

All numbers are little-endian.
"""

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

VERSION = 1
LARGEST_BYTES = 1 << 28

_MAGIC = b"s2lw"
_HEAD = struct.Struct("<4sBBHIQ")
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CRC.size


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1  # JSON: rank, and what the process was started with
    WELCOME = 2  # everybody is there
    REFUSED = 3  # text: why a process cannot be part of this world
    AGREE = 4  # JSON: something that all must have alike
    ORDER = 5  # see `serving.world.orders`
    DONE = 6  # likewise
    BEAT = 7  # says that the process is there
    DRAIN = 8  # a process was asked to stop
    END = 9  # text: why this world has ended


class Frame(NamedTuple):
    """A message.

    Attributes:
      kind: what it is.
      number: of this direction.
      payload: what it says.
    """

    kind: Kind
    number: int
    payload: bytes


class DamagedFrameError(Exception):
    """What came is no message, or not the next one."""


def to_bytes(frame: Frame) -> bytes:
    """A message as it travels."""
    head = _HEAD.pack(_MAGIC, VERSION, frame.kind, 0, len(frame.payload), frame.number)
    return head + _CRC.pack(zlib.crc32(frame.payload, zlib.crc32(head))) + frame.payload


def payload_bytes(head: bytes) -> int:
    """How much follows the first `HEAD_BYTES` of a message.

    Raises:
      DamagedFrameError: they are not the beginning of one.
    """
    magic, version, _, _, length, _ = _HEAD.unpack_from(head)
    if magic != _MAGIC:
        raise DamagedFrameError("what came is no message of a world")
    if version != VERSION:
        raise DamagedFrameError(f"messages are of version {version} there and {VERSION} here: run one release")
    if length > LARGEST_BYTES:
        raise DamagedFrameError(f"a message of {length} bytes came, more than {LARGEST_BYTES}")
    return length


def from_bytes(head: bytes, payload: bytes, number: int) -> Frame:
    """The message that was to be the next one.

    Raises:
      DamagedFrameError: it is another, or not as it was sent.
    """
    _, _, kind, _, _, found = _HEAD.unpack_from(head)
    (crc32,) = _CRC.unpack_from(head, _HEAD.size)
    if zlib.crc32(payload, zlib.crc32(head[: _HEAD.size])) != crc32:
        raise DamagedFrameError(f"message {found} is damaged")
    if found != number:
        raise DamagedFrameError(f"message {found} came in place of {number}")
    try:
        return Frame(Kind(kind), found, payload)
    except ValueError:
        raise DamagedFrameError(f"message {found} is of unknown kind {kind}") from None
