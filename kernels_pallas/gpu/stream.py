"""Blocks of a sequence's KV on their way into shared memory."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

type Ref = Any
type Scalar = Any


@dataclass(frozen=True)
class BlockStream:
    """Copies the pages of one sequence and KV head, block by block, into a ring of slots.

    Attributes:
      kv_pages: `[pages, kv_heads, page_size, 2 * head_dim]` in global memory.
      tables: `[seqs, table_pages]` in global memory.
      seq: the sequence.
      kv_head: the KV head.
      end_token: tokens of the sequence that anybody here looks at; nothing is copied of pages behind them.
      buffer: `[slots, block_tokens, 2 * head_dim]` in shared memory.
      arrived: barriers with `copies` arrivals.
      first_barrier: number of the first slot's barrier; those of the other slots follow it.
    """

    kv_pages: Ref
    tables: Ref
    seq: Scalar
    kv_head: Scalar
    end_token: Scalar
    buffer: Ref
    arrived: Ref
    first_barrier: Scalar

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        tokens: int = self.buffer.shape[1]
        return tokens

    @property
    def slots(self) -> int:
        """Blocks in the ring."""
        slots: int = self.buffer.shape[0]
        return slots

    def slot(self, block: Scalar, first_block: Scalar) -> Scalar:
        """Where in the ring a block lies."""
        return lax.rem(block - first_block, jnp.int32(self.slots))

    def fetch(self, block: Scalar, slot: Scalar) -> None:
        """Starts the copies of a block that begins before `end_token`."""
        page_size = self.kv_pages.shape[2]
        piece = min(page_size, self.block_tokens)
        for number in range(self.block_tokens // piece):
            first_token = block * self.block_tokens + number * piece

            def copy(number: int = number, first_token: Scalar = first_token) -> None:
                page = self.tables[self.seq, lax.div(first_token, jnp.int32(page_size))]
                row = lax.rem(first_token, jnp.int32(page_size)) if page_size > piece else 0
                plgpu.copy_gmem_to_smem(
                    self.kv_pages.at[page, self.kv_head, pl.ds(row, piece)],
                    self.buffer.at[slot, pl.ds(number * piece, piece)],
                    self.arrived.at[self.first_barrier + slot],
                )

            if number == 0:
                copy()
            else:
                seen = first_token < self.end_token
                pl.when(seen)(copy)
                # The barrier counts the same arrivals whatever is left of the sequence.
                pl.when(jnp.logical_not(seen))(lambda: plgpu.barrier_arrive(self.arrived.at[self.first_barrier + slot]))

    def wait(self, slot: Scalar) -> None:
        """Waits for the block of a slot."""
        plgpu.barrier_wait(self.arrived.at[self.first_barrier + slot])


def copies(page_size: int, block_tokens: int) -> int:
    """Copies that bring a block."""
    return block_tokens // min(page_size, block_tokens)
