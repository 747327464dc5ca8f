"""The ragged batch of a step as one int32 array, and back.

A step's inputs travel to the device in a single transfer: on the host the chunks of a plan are laid into one array
(`pack_chunks`), in the jitted forward it is cut up again by static offsets (`unpack_chunks`), which costs nothing.

A token that only the device knows is packed as `-1 - slot`, where `slot` is the session's; `resolve` looks it up.
"""

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from s2l_jax.core.errors import InternalError
from s2l_jax.core.plan import LAST_SAMPLED, Chunk
from s2l_jax.core.records import fields_of
from s2l_jax.engine.buckets import ForwardShape
from s2l_jax.engine.config import EngineConfig
from s2l_jax.models.batch import RaggedBatch


class ForwardInputs(NamedTuple):
    """What a forward step reads besides weights and pages.

    Attributes:
      tokens: token ids, 0 for padding; negative ones are for `resolve`.
      positions: position of each token in its sequence, 0 for padding.
      batch: how the rows make up sequences.
      session_slots: where the last hidden state of each sequence goes; outside the buffer for padding.
    """

    tokens: Int[Array, "tokens"]
    positions: Int[Array, "tokens"]
    batch: RaggedBatch
    session_slots: Int[Array, "seqs"]


def packed_size(shape: ForwardShape) -> int:
    """Length of the packed array of a shape."""
    return _parts(shape)[-1].stop


def pack_chunks(chunks: Sequence[Chunk], shape: ForwardShape, config: EngineConfig) -> np.ndarray:
    """Lays chunks out for `unpack_chunks`.

    Args:
      chunks: what to run, chunks of one token first; at least one, and no more than `shape` holds.
      shape: the bucket to pad to.
      config: sizes of pool and session buffers, and what padding must lie outside of.

    Returns:
      int32 `[packed_size(shape)]`; a new array, since the device may still read the last one.

    Raises:
      InternalError: a chunk does not fit its block table, the pool or the bucket, or a token is not one.
    """
    packed = np.zeros(packed_size(shape), np.int32)
    tokens, positions, slots, cu_q_lens, kv_lens, session_slots, counts, tables = (
        packed[part] for part in _parts(shape)
    )
    tables = tables.reshape(shape.sequences, shape.blocks)
    seqs = len(chunks)
    _, rows, first, content, held = zip(*fields_of(chunks), strict=True)
    lens = np.fromiter(map(len, content), np.int32, seqs)
    starts = np.array(first, np.int32)
    _check(chunks, lens, starts, shape, config)
    total = int(lens.sum())
    np.concatenate(content, out=tokens[:total])
    for row, table in zip(tables, held, strict=False):
        row[: len(table)] = table
    np.cumsum(lens, out=cu_q_lens[1 : seqs + 1])
    cu_q_lens[seqs + 1 :] = total
    kv_lens[:seqs] = starts + lens
    sequence = np.repeat(np.arange(seqs), lens)
    positions[:total] = np.arange(total) + (starts - cu_q_lens[:seqs])[sequence]
    page, offset = np.divmod(positions[:total], config.block_size)
    slots[:total] = tables[sequence, page] * config.block_size + offset
    slots[total:] = config.num_blocks * config.block_size
    session_slots[:seqs] = rows
    session_slots[seqs:] = config.max_sessions
    _point_to_sampled(tokens[:total], cu_q_lens[1 : seqs + 1] - 1, session_slots[:seqs])
    longer = np.flatnonzero(lens > 1)
    counts[:] = (longer[0] if longer.size else seqs), seqs
    return packed


def pack_nothing(shape: ForwardShape, config: EngineConfig) -> np.ndarray:
    """A step of padding, laid out as `pack_chunks` does: it changes no page and no session."""
    packed = np.zeros(packed_size(shape), np.int32)
    _, _, slots, _, _, session_slots, _, _ = (packed[part] for part in _parts(shape))
    slots[:] = config.num_blocks * config.block_size
    session_slots[:] = config.max_sessions
    return packed


def unpack_chunks(packed: Int[Array, "packed"], shape: ForwardShape) -> ForwardInputs:
    """Cuts up what `pack_chunks` laid out; to be traced."""
    tokens, positions, slots, cu_q_lens, kv_lens, session_slots, counts, tables = (
        packed[part] for part in _parts(shape)
    )
    batch = RaggedBatch(
        slots=slots,
        block_tables=tables.reshape(shape.sequences, shape.blocks),
        cu_q_lens=cu_q_lens,
        kv_lens=kv_lens,
        num_decodes=counts[0],
        num_seqs=counts[1],
    )
    return ForwardInputs(tokens, positions, batch, session_slots)


def resolve(tokens: Int[Array, "tokens"], last_tokens: Int[Array, "sessions"]) -> Int[Array, "tokens"]:
    """Replaces tokens that stand for what a session sampled last; to be traced."""
    return jnp.where(tokens < 0, last_tokens.at[-1 - tokens].get(mode="clip"), tokens)


@functools.cache
def _parts(shape: ForwardShape) -> tuple[slice, ...]:
    """Where tokens, positions, slots, cu_q_lens, kv_lens, session_slots, two counts and tables lie."""
    seqs = shape.sequences
    sizes = (*(shape.tokens,) * 3, seqs + 1, seqs, seqs, 2, seqs * shape.blocks)
    return tuple(slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True))


def _point_to_sampled(tokens: np.ndarray, last_rows: np.ndarray, slots: np.ndarray) -> None:
    """Replaces `LAST_SAMPLED` in the last rows of chunks by what `resolve` reads."""
    last = tokens[last_rows]
    is_sampled = last == LAST_SAMPLED
    if np.count_nonzero(tokens < 0) != np.count_nonzero(is_sampled):
        raise InternalError("a chunk holds a negative token that is not a LAST_SAMPLED at its end")
    tokens[last_rows] = np.where(is_sampled, -1 - slots, last)


def _check(
    chunks: Sequence[Chunk], lens: np.ndarray, starts: np.ndarray, shape: ForwardShape, config: EngineConfig
) -> None:
    """Refuses what would write outside its place on the device, where nobody would notice."""
    if lens.sum() > shape.tokens or len(chunks) > shape.sequences or lens.min() < 1:
        raise InternalError(
            f"a step of {lens.sum()} tokens in {len(chunks)} chunks (shortest {lens.min()}) does not fit "
            f"{shape.tokens} tokens and {shape.sequences} sequences"
        )
    for (name, slot, _, _, table), end in zip(fields_of(chunks), (starts + lens).tolist(), strict=True):
        held = len(table)
        if not -(-end // config.block_size) <= held <= shape.blocks:
            raise InternalError(
                f"session {name}: {end} tokens and a table of {held} blocks of {config.block_size} do not "
                f"fit each other or the limit of {shape.blocks} blocks"
            )
        if not 0 <= slot < config.max_sessions:
            raise InternalError(f"session {name}: slot {slot} is outside 0..{config.max_sessions}")
        if not 0 <= table.min() <= table.max() < config.num_blocks:
            raise InternalError(f"session {name}: a block is outside the pool of {config.num_blocks}")
