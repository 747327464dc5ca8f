"""The packed ragged batch against a token-by-token description of it."""

from typing import Any

import numpy as np
import pytest

from s2l_jax.core.errors import InternalError
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, Sample
from s2l_jax.engine.buckets import Buckets, Variant
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.packing import pack_chunks, packed_size, unpack_chunks
from s2l_jax.engine.sample_packing import group_samples, pack_history, pack_masks, pack_samples, unpack_rows

CONFIG = EngineConfig(num_blocks=50, block_size=4, token_budget=64, max_batch=12, max_sessions=16, max_model_len=40)
BUCKETS = Buckets(CONFIG)


def make_chunk(start: int, length: int, slot: int = 0, **changed: Any) -> Chunk:
    rng = np.random.default_rng([start, length, slot])
    fields = {
        "session_id": SessionId(f"session-{slot}"),
        "slot": SlotId(slot),
        "start": start,
        "tokens": rng.integers(0, 1000, length).astype(np.int32),
        "block_table": rng.permutation(50)[: -(-(start + length) // 4)].astype(np.int32),
    }
    return Chunk(**{**fields, **changed})


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 1)],
        [(7, 1), (8, 1), (39, 1)],
        [(0, 40)],
        [(3, 1), (11, 1), (0, 7), (4, 20), (2, 2)],
        [(5, 3), (1, 1)],  # not as a scheduler would order them, but valid
        [(9, 1)] * 12,
    ],
)
def test_what_is_packed_is_what_the_chunks_say(ranges: list[tuple[int, int]]) -> None:
    chunks = [make_chunk(start, length, slot) for slot, (start, length) in enumerate(ranges)]
    total = sum(length for _, length in ranges)
    shape = BUCKETS.forward(total)
    packed = pack_chunks(chunks, shape, CONFIG)
    assert packed.shape == (packed_size(shape),)
    tokens, positions, batch, session_slots = unpack_chunks(packed, shape)

    row = 0
    for index, chunk in enumerate(chunks):
        assert batch.cu_q_lens[index] == row
        assert batch.kv_lens[index] == chunk.end
        assert session_slots[index] == chunk.slot
        np.testing.assert_array_equal(batch.block_tables[index, : len(chunk.block_table)], chunk.block_table)
        for offset, token in enumerate(chunk.tokens):
            position = chunk.start + offset
            assert (tokens[row], positions[row]) == (token, position)
            assert batch.slots[row] == chunk.block_table[position // 4] * 4 + position % 4
            row += 1
    np.testing.assert_array_equal(batch.cu_q_lens[len(chunks) :], total)
    assert (batch.slots[total:] == 50 * 4).all()
    assert (session_slots[len(chunks) :] == 16).all()
    assert batch.num_seqs == len(chunks)
    leading = next((i for i, (_, length) in enumerate(ranges) if length > 1), len(ranges))
    assert batch.num_decodes == leading
    assert ((batch.block_tables >= 0) & (batch.block_tables < 50)).all()


@pytest.mark.parametrize(
    "chunk",
    [
        make_chunk(0, 4, block_table=np.arange(0, dtype=np.int32)),
        make_chunk(0, 5, block_table=np.arange(1, dtype=np.int32)),
        make_chunk(0, 1, block_table=np.arange(11, dtype=np.int32)),
        make_chunk(0, 1, block_table=np.array([50], np.int32)),
        make_chunk(0, 1, block_table=np.array([-1], np.int32)),
        make_chunk(0, 1, slot=16),
        make_chunk(0, 1, tokens=np.arange(0, dtype=np.int32)),
    ],
    ids=["no table", "short table", "long table", "block too high", "block negative", "slot too high", "no tokens"],
)
def test_a_chunk_that_would_write_elsewhere_is_refused(chunk: Chunk) -> None:
    with pytest.raises(InternalError, match=r"slot 16|session-0|shortest 0"):
        pack_chunks([make_chunk(0, 2, 1), chunk], BUCKETS.forward(8), CONFIG)


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(InternalError, match="does not fit"):
        pack_chunks([make_chunk(0, 1, slot) for slot in range(13)], BUCKETS.forward(16), CONFIG)


def make_sample(slot: int = 0, *, position: int = 5, seed: int = 0, history: bool = False, **params: Any) -> Sample:
    tokens = np.arange(position, dtype=np.int32) if history else None
    return Sample(SessionId(f"s{slot}"), SlotId(slot), SamplingParams(**params), seed, position, tokens, 3)


def test_samples_are_packed_by_name() -> None:
    samples = [
        make_sample(3, seed=(5 << 32) + (1 << 31), temperature=0.25, top_k=9, top_p=0.5, min_p=0.125),
        make_sample(15, position=7, logprobs=0, repetition_penalty=1.5, presence_penalty=-1.0, frequency_penalty=0.75),
    ]
    slots, rows = unpack_rows(pack_samples(samples, BUCKETS.sample(3, Variant.FULL), CONFIG))
    assert slots.tolist() == [3, 15, 16, 16]
    assert rows.seed.tolist() == [[5, 1 << 31], [0, 0], [0, 0], [0, 0]]
    assert rows.position.tolist() == [5, 7, 0, 0]
    assert rows.top_k.tolist() == [9, 0, 0, 0]
    assert rows.logprobs.tolist() == [False, True, False, False]
    assert rows.prompt_tokens.tolist() == [3, 3, 0, 0]
    assert rows.temperature.tolist() == [0.25, 0, 0, 0]
    assert rows.top_p.tolist() == [0.5, 1, 1, 1]
    assert rows.min_p.tolist() == [0.125, 0, 0, 0]
    assert rows.repetition.tolist() == [1, 1.5, 1, 1]
    assert rows.presence.tolist() == [0, -1, 0, 0]
    assert rows.frequency.tolist() == [0, 0.75, 0, 0]
    assert not rows.constrained.any()


def test_masks_are_packed_for_those_that_have_one() -> None:
    shape = BUCKETS.sample(3, Variant.FULL)
    short, long = (make_sample()._replace(mask=np.arange(1, n, dtype=np.int32)) for n in (3, 9))
    samples = [short, make_sample(), long]
    masks = pack_masks(samples, shape, words=5)
    assert masks is not None
    assert masks.tolist() == [[1, 2, 0, 0, 0], [0] * 5, [1, 2, 3, 4, 5], [0] * 5]
    assert unpack_rows(pack_samples(samples, shape, CONFIG))[1].constrained.tolist() == [True, False, True, False]
    assert pack_masks([make_sample()], shape, words=5) is None


def test_a_slot_outside_the_session_buffer_is_refused() -> None:
    with pytest.raises(InternalError, match="slot 16"):
        pack_samples([make_sample(16)], BUCKETS.sample(1, Variant.GREEDY), CONFIG)


@pytest.mark.parametrize("history", [None, np.arange(4, dtype=np.int32)])
def test_a_history_that_does_not_match_the_position_is_refused(history: np.ndarray | None) -> None:
    sample = Sample(SessionId("s"), SlotId(0), SamplingParams(presence_penalty=1.0), 0, 5, history, 3)
    with pytest.raises(InternalError, match="history"):
        pack_history([sample], BUCKETS.sample(1, Variant.PENALTIES))


def test_groups_cover_all_samples_once_in_the_cheapest_variant() -> None:
    greedy = make_sample()
    full = [make_sample(temperature=1.0), make_sample(logprobs=2), greedy._replace(mask=np.ones(9, np.int32))]
    penalised = [make_sample(history=True, presence_penalty=1.0)] * 11
    (group,) = group_samples([greedy] * 3, BUCKETS)
    assert (group.shape.variant, group.shape.rows, group.indices) == (Variant.GREEDY, 4, [0, 1, 2])
    for one in full:
        (group,) = group_samples([one, greedy], BUCKETS)
        assert group.shape.variant is Variant.FULL
    groups = list(group_samples([penalised[0], greedy, *penalised[1:]], BUCKETS))
    assert [group.shape.variant for group in groups] == [Variant.GREEDY, Variant.PENALTIES, Variant.PENALTIES]
    assert sorted(index for group in groups for index in group.indices) == list(range(12))
    assert [len(group.indices) for group in groups] == [1, 8, 3]
    assert not list(group_samples([], BUCKETS))
