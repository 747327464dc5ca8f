"""Blocks of KV pages on their way from HBM to VMEM, several ahead of where they are needed, across tiles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

type Scalar = Any  # an int32 in a kernel
type Ref = Any

_TILE, _BLOCK, _FETCH_SLOT, _TAKE_SLOT = range(4)
CURSOR_SIZE = 4


def start(copy: Any) -> None:
    """Starts a copy."""
    copy.start()


def wait(copy: Any) -> None:
    """Waits for a copy of so many bytes."""
    copy.wait()


def following(slot: Scalar, slots: int) -> Scalar:
    """The slot after `slot`."""
    return jnp.where(slot == slots - 1, 0, slot + 1)


@dataclass(frozen=True)
class BlockStream:
    """The blocks of all tiles, one behind the other, through a ring of slots.

    All slots but one are ahead: that one is read. A kernel goes through the blocks of its tiles with `for_each_block`.

    Attributes:
      kv_pages: `[pages, kv_heads, page_size, kv_dim]` in HBM.
      tables: pages of each sequence, one sequence behind the other, in SMEM: an address less to compute for each copy.
      table_pages: of each sequence in `tables`.
      num_tiles: one number, in SMEM.
      seqs: sequence of each tile, in SMEM.
      positions: of each tile's first query, in SMEM.
      ends: tokens that each tile's last query sees, in SMEM.
      buffer: `[slots, pages, kv_heads, page_size, kv_dim]` in VMEM.
      semaphores: one a slot.
      cursor: `CURSOR_SIZE` numbers in SMEM that stay from tile to tile.
      sliding_window: as in `paged_attention`.
    """

    kv_pages: Ref
    tables: Ref
    table_pages: int
    num_tiles: Ref
    seqs: Ref
    positions: Ref
    ends: Ref
    buffer: Ref
    semaphores: Ref
    cursor: Ref
    sliding_window: int | None

    @property
    def slots(self) -> int:
        """Blocks in VMEM."""
        return self.buffer.shape[0]

    @property
    def block_pages(self) -> int:
        """Pages of a block."""
        return self.buffer.shape[1]

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return self.buffer.shape[1] * self.buffer.shape[3]

    def begin(self) -> None:
        """Starts to fetch the first tile; once, before all tiles."""
        self.cursor[_TILE] = 0
        self.cursor[_BLOCK] = self._first_block(0)
        self.cursor[_FETCH_SLOT] = 0
        self.cursor[_TAKE_SLOT] = 0
        for _ in range(self.slots):
            self._fetch_next()

    def for_each_block(self, tile: Scalar, attend: Callable[[Scalar, Scalar, bool], None]) -> None:
        """Calls `attend(slot, first_token, masked)` for all blocks of a tile, in order, when they are there.

        Where `masked` is false, all queries of the tile see all of the block.
        """
        position, end = self.positions[tile], self.ends[tile]
        first, last = self._first_block(tile), self._end_block(tile)
        whole = pl.cdiv(end, self.buffer.shape[3]) // self.block_pages  # blocks with all their pages
        # The plain loop has no branch: what it fetches ahead is whole, and of this tile.
        plain_first = first
        if self.sliding_window is not None:
            plain_first = jnp.maximum(pl.cdiv(end - self.sliding_window, self.block_tokens), first)
        plain_end = jnp.minimum((position + 1) // self.block_tokens, whole - self.slots)
        plain_end = jnp.maximum(plain_end, plain_first)

        def plain(block: Scalar, slot: Scalar) -> Scalar:
            wait(pltpu.make_async_copy(self.buffer.at[slot], self.buffer.at[slot], self.semaphores.at[slot]))
            attend(slot, block * self.block_tokens, False)
            entry = self._table_entry(tile, block + self.slots)
            for page in range(self.block_pages):
                start(self._page_copy(entry, page, slot))
            return following(slot, self.slots)

        def any_block(block: Scalar, slot: Scalar) -> Scalar:
            pages = self._pages(tile, block)

            def wait_for_page(page: Scalar, _: None) -> None:
                target = self.buffer.at[slot, page]
                wait(pltpu.make_async_copy(target, target, self.semaphores.at[slot]))

            lax.fori_loop(0, pages, wait_for_page, None)
            self._clear(slot, end - block * self.block_tokens)
            attend(slot, block * self.block_tokens, True)
            self._fetch_next()
            return following(slot, self.slots)

        slot = self.cursor[_TAKE_SLOT]
        if self.sliding_window is not None:
            plain_first = jnp.minimum(plain_first, last)
            plain_end = jnp.maximum(plain_end, plain_first)
            slot = lax.fori_loop(first, plain_first, any_block, slot)

        @pl.when(plain_end > plain_first)
        def _() -> None:
            blocks = plain_end - plain_first
            self._move_cursor(tile, self.cursor[_BLOCK] + blocks)
            self.cursor[_FETCH_SLOT] = lax.rem(self.cursor[_FETCH_SLOT] + blocks, self.slots)

        slot = lax.fori_loop(plain_first, plain_end, plain, slot)
        self.cursor[_TAKE_SLOT] = lax.fori_loop(plain_end, last, any_block, slot)

    def _clear(self, slot: Scalar, tokens: Scalar) -> None:
        """Zeroes what lies behind the first `tokens` of a block: a weight of zero does not cancel NaN."""
        _, _, kv_heads, page_size, kv_dim = self.buffer.shape

        def clear_page(page: Scalar, _: None) -> None:
            row = page * page_size + lax.broadcasted_iota(jnp.int32, (kv_heads, page_size, kv_dim), 1)
            held = self.buffer[slot, page]
            self.buffer[slot, page] = jnp.where(row < tokens, held, jnp.zeros_like(held))

        lax.fori_loop(tokens // page_size, self.block_pages, clear_page, None)

    def _first_block(self, tile: Scalar) -> Scalar:
        if self.sliding_window is None:
            return 0
        return jnp.maximum(self.positions[tile] - self.sliding_window + 1, 0) // self.block_tokens

    def _end_block(self, tile: Scalar) -> Scalar:
        """At least one block, so that a fetch always has a tile to go with."""
        return jnp.maximum(pl.cdiv(self.ends[tile], self.block_tokens), self._first_block(tile) + 1)

    def _pages(self, tile: Scalar, block: Scalar) -> Scalar:
        """Pages of a block that hold tokens of the sequence."""
        pages = pl.cdiv(self.ends[tile], self.buffer.shape[3])
        return jnp.minimum(pages - block * self.block_pages, self.block_pages)

    def _table_entry(self, tile: Scalar, block: Scalar) -> Scalar:
        return self.seqs[tile] * self.table_pages + block * self.block_pages

    def _page_copy(self, entry: Scalar, page: Scalar, slot: Scalar) -> Any:
        number = self.tables[entry + page]
        return pltpu.make_async_copy(self.kv_pages.at[number], self.buffer.at[slot, page], self.semaphores.at[slot])

    def _fetch_next(self) -> None:
        """Starts to fetch the block at the cursor, if there is one, and moves the cursor on."""
        tile, block, slot = self.cursor[_TILE], self.cursor[_BLOCK], self.cursor[_FETCH_SLOT]

        @pl.when(tile < self.num_tiles[0])
        def _() -> None:
            entry = self._table_entry(tile, block)
            lax.fori_loop(0, self._pages(tile, block), lambda page, _: start(self._page_copy(entry, page, slot)), None)
            self._move_cursor(tile, block + 1)
            self.cursor[_FETCH_SLOT] = following(slot, self.slots)

    def _move_cursor(self, tile: Scalar, block: Scalar) -> None:
        """To a block of a tile, or to the next tile's first one if this tile has no such block."""
        is_past = block >= self._end_block(tile)
        next_tile = jnp.minimum(tile + 1, self.seqs.shape[0] - 1)
        self.cursor[_TILE] = jnp.where(is_past, tile + 1, tile)
        self.cursor[_BLOCK] = jnp.where(is_past, self._first_block(next_tile), block)
