"""What rank 0 tells the others to do with their engines, in order, and how all of them notice that they differ.

An order is a call to an engine, and every rank makes the same ones: what reaches the devices is then the same too, for
an engine decides nothing that depends on time. `History` is a digest of all calls and of what came of them, sampled
tokens included. Each order carries that of rank 0 before it, and each answer that of its sender after it.
"""

import hashlib
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from s2l_jax.core.plan import StepPlan, StepResult
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.remote.codec import ints_of, ints_to_bytes, plan_of, step_message

_DIGEST_BYTES = 8
_ORDER = struct.Struct(f"<BQ{_DIGEST_BYTES}s")
_COUNT = struct.Struct("<I")
_DONE = struct.Struct(f"<Q{_DIGEST_BYTES}s")


class Call(IntEnum):
    """Calls to an engine."""

    WARMUP = 1
    SUBMIT = 2
    COLLECT = 3
    CLOSE = 4
    GATHER = 5
    SCATTER = 6


ANSWERED = frozenset({Call.WARMUP, Call.COLLECT, Call.CLOSE})
"""Calls whose end a rank reports; what other calls give shows in the history that the next report brings."""

UNBOUNDED = frozenset({Call.WARMUP})
"""Calls that may take any time: who compiles takes long."""


class Order(NamedTuple):
    """A call that all ranks make.

    Attributes:
      number: counts orders from 1.
      call: which.
      body: its argument.
      history: of rank 0, before it.
    """

    number: int
    call: Call
    body: bytes
    history: bytes

    def to_bytes(self) -> bytes:
        """As the payload of a message."""
        return _ORDER.pack(self.call, self.number, self.history) + self.body

    @classmethod
    def from_bytes(cls, payload: bytes) -> "Order":
        """The other way round."""
        call, number, history = _ORDER.unpack_from(payload)
        return cls(number, Call(call), payload[_ORDER.size :], history)


class Done(NamedTuple):
    """That a rank is through with an order.

    Attributes:
      number: of the order.
      history: of that rank, after it.
    """

    number: int
    history: bytes

    def to_bytes(self) -> bytes:
        """As the payload of a message."""
        return _DONE.pack(*self)

    @classmethod
    def from_bytes(cls, payload: bytes) -> "Done":
        """The other way round."""
        return cls(*_DONE.unpack(payload))


class History:
    """What an engine was told, and what came of it: equal on all ranks as long as all do the same.

    Attributes:
      digest: of it all.
      orders: how many there were.
    """

    def __init__(self) -> None:
        self.digest = bytes(_DIGEST_BYTES)
        self.orders = 0

    def told(self, call: Call, body: bytes) -> Order:
        """Notes a call; returns it as an order."""
        order = Order(self.orders + 1, call, body, self.digest)
        self.orders += 1
        self._add(bytes([call]), body)
        return order

    def gave(self, result: bytes) -> None:
        """Notes what the last call gave."""
        self._add(b"=", result)

    def _add(self, *parts: bytes) -> None:
        digest = hashlib.blake2b(self.digest, digest_size=_DIGEST_BYTES)
        for part in parts:
            digest.update(part)
        self.digest = digest.digest()


def plan_to_bytes(plan: StepPlan) -> bytes:
    """A plan as the body of an order."""
    return step_message(plan, 0).SerializeToString(deterministic=True)


def plan_from_bytes(body: bytes) -> StepPlan:
    """The other way round."""
    return plan_of(pb.Step.FromString(body))


def result_to_bytes(result: StepResult) -> bytes:
    """What must be equal on all ranks of what a step gave."""
    return ints_to_bytes([token.token_id for token in result.tokens])


def blocks_to_bytes(blocks: Sequence[int]) -> bytes:
    """Numbers of blocks as the body of an order."""
    return ints_to_bytes(blocks)


def blocks_from_bytes(body: bytes) -> list[int]:
    """The other way round."""
    return ints_of(body).tolist()


def pages_to_bytes(blocks: Sequence[int], pages: np.ndarray) -> bytes:
    """Whole pages, `[pages, layers, kv_heads, block_size, kv_dim]`, and the blocks they are for, as a body."""
    part = pb.PagePart(shape=pages.shape, dtype=str(pages.dtype), content=pages.tobytes())
    return _COUNT.pack(len(blocks)) + ints_to_bytes(blocks) + part.SerializeToString(deterministic=True)


def pages_from_bytes(body: bytes) -> tuple[list[int], np.ndarray]:
    """The other way round."""
    end = _COUNT.size + 4 * _COUNT.unpack_from(body)[0]
    part = pb.PagePart.FromString(body[end:])
    pages = np.frombuffer(part.content, jnp.dtype(part.dtype)).reshape(tuple(part.shape))
    return ints_of(body[_COUNT.size : end]).tolist(), pages
