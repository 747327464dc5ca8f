"""Sizes of blocks, and what they cost in shared memory and in bytes read."""

import math
from dataclasses import dataclass

import jax.numpy as jnp

SHARED_BYTES = 232_448  # what a block of threads may ask for on Hopper and Blackwell (compute capability 9.0, 10.0)
_BARRIER_BYTES = 1024  # barriers, and scratch of the compiler


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a kernel is cut up.

    Attributes:
      rows: query rows of a warpgroup: what one instruction of the tensor cores takes.
      tokens: KV tokens of a block.
      columns: of values in one product: its result needs registers beside what is summed up already.
      slots: blocks of KV in shared memory; one is read while the others are on their way.
      warpgroups: that compute.
    """

    rows: int
    tokens: int
    columns: int
    slots: int
    warpgroups: int


def shared_bytes(blocks: Blocks, head_dim: int, streams: int) -> int:
    """Shared memory of a block of threads with bfloat16 queries, weights and KV.

    Args:
      blocks: sizes.
      head_dim: of keys and of values.
      streams: sequences of KV blocks that are read side by side.
    """
    kv = streams * blocks.slots * blocks.tokens * 2 * head_dim
    weights = blocks.warpgroups * blocks.rows * blocks.tokens
    queries = (1 if streams > 1 else blocks.warpgroups) * blocks.rows * head_dim
    return 2 * (kv + weights + queries) + _BARRIER_BYTES


def fetched_tokens(page_size: int, blocks: Blocks) -> int:
    """Tokens that one copy brings: a page, or as much of it as fits a block."""
    return min(page_size, blocks.tokens)


def bytes_per_kv_token(kv_len: int, page_size: int, head_dim: int, blocks: Blocks, *, itemsize: int = 2) -> float:
    """Bytes that decoding reads of a KV head for each token of a sequence: each piece of a page once, for all heads.

    Args:
      kv_len: tokens of the sequence.
      page_size: tokens of a page.
      head_dim: of keys and of values.
      blocks: sizes.
      itemsize: bytes of a stored number.
    """
    piece = fetched_tokens(page_size, blocks)
    pieces = math.ceil(kv_len / piece)
    table_bytes = pieces * jnp.dtype(jnp.int32).itemsize
    return (pieces * piece * 2 * head_dim * itemsize + table_bytes) / kv_len


def decode_blocks(head_dim: int, *, blackwell: bool) -> Blocks:
    """Sizes for decoding: on Hopper two warpgroups with three slots each where shared memory suffices."""
    columns = 64 if head_dim % 64 == 0 else head_dim
    if blackwell:
        return Blocks(rows=128, tokens=64, columns=columns, slots=4, warpgroups=1)
    if head_dim > 128:
        return Blocks(rows=64, tokens=64, columns=columns, slots=2, warpgroups=1)
    return Blocks(rows=64, tokens=64, columns=columns, slots=3, warpgroups=2)


def prefill_blocks(head_dim: int, *, blackwell: bool) -> Blocks:
    """Sizes for prefill: two warpgroups that multiply share the slots."""
    columns = 64 if head_dim % 64 == 0 else head_dim
    if blackwell:
        return Blocks(rows=128, tokens=64, columns=columns, slots=3, warpgroups=1)
    return Blocks(rows=64, tokens=64, columns=columns, slots=2 if head_dim > 128 else 4, warpgroups=2)
