"""Sizes of blocks, and what they cost in shared memory and in bytes read."""

import math
from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a kernel is cut up.

    Attributes:
      rows: query rows of a warpgroup: what one instruction of the tensor cores takes.
      tokens: KV tokens of a block.
      columns: of values in one product: its result needs registers beside what is summed up already.
      slots: blocks of KV in a ring in shared memory; one is read while the others are on their way.
      warpgroups: that compute.
      sharers: warpgroups that have the same rows and divide the columns of the values among them, where one has not
        enough registers for all.
    """

    rows: int
    tokens: int
    columns: int
    slots: int
    warpgroups: int
    sharers: int = 1

    @property
    def tile_rows(self) -> int:
        """Query rows of a block of threads."""
        return self.rows * self.warpgroups // self.sharers


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


def decode_blocks(head_dim: int, *, blackwell: bool) -> Blocks | None:
    """Sizes for decoding, or None where it must be done like prefill."""
    if head_dim > 128:
        return None
    columns = _value_columns(head_dim)
    if blackwell:
        return Blocks(rows=128, tokens=64, columns=columns, slots=4, warpgroups=1)
    return Blocks(rows=64, tokens=64, columns=columns, slots=3, warpgroups=2)


def prefill_blocks(head_dim: int, *, blackwell: bool) -> Blocks:
    """Sizes for prefill: the warpgroups share the slots."""
    columns = _value_columns(head_dim)
    if blackwell:
        return Blocks(rows=128, tokens=64, columns=columns, slots=3, warpgroups=1)
    if head_dim > 128:
        # Blocks of 64 tokens spilled three registers.
        return Blocks(rows=64, tokens=32, columns=32, slots=4, warpgroups=2, sharers=2)
    return Blocks(rows=64, tokens=64, columns=columns, slots=4, warpgroups=2)


def _value_columns(head_dim: int) -> int:
    return 64 if head_dim % 64 == 0 else 32
