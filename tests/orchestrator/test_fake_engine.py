"""The fake engine must notice what it is there to notice."""

import numpy as np
import pytest

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, Sample, StepPlan
from tests.fakes import BadPlan, FakeEngine, reference_output

PROMPT = list(range(1, 12))
TABLE = [9, 3, 7, 1, 20]


def chunk(start: int, tokens: list[int], table: list[int] = TABLE, slot: int = 0, name: str = "a") -> Chunk:
    blocks = table[: -(-(start + len(tokens)) // 4)]
    return Chunk(SessionId(name), SlotId(slot), start, np.asarray(tokens, np.int32), np.asarray(blocks, np.int32))


def sample(position: int, slot: int = 0, params: SamplingParams | None = None) -> Sample:
    return Sample(SessionId("a"), SlotId(slot), params or SamplingParams(), 0, position, None, len(PROMPT))


def step(engine: FakeEngine, *rows: Chunk | Sample) -> list[int]:
    chunks = tuple(row for row in rows if isinstance(row, Chunk))
    samples = tuple(row for row in rows if isinstance(row, Sample))
    return [token.token_id for token in engine.execute(StepPlan(1, chunks, samples)).tokens]


def test_chunks_and_decode_steps_equal_the_reference() -> None:
    engine = FakeEngine()
    step(engine, chunk(0, PROMPT[:5]))
    step(engine, chunk(5, PROMPT[5:]))
    output = step(engine, sample(11))
    for position in range(11, 16):
        output += step(engine, chunk(position, output[-1:]), sample(position + 1))
    assert output == engine.reference_output(PROMPT, 6) == reference_output(PROMPT, 6)


@pytest.mark.parametrize("damage", ["table", "page", "slot", "prefix"])
def test_damage_changes_the_output(damage: str) -> None:
    engine = FakeEngine(vocab_size=1 << 30)
    step(engine, chunk(0, PROMPT[:5] if damage != "prefix" else [7, *PROMPT[1:5]]))
    if damage == "page":
        step(engine, chunk(0, [1], table=[TABLE[1]], slot=1, name="b"))
    table = [TABLE[1], TABLE[0], *TABLE[2:]] if damage == "table" else TABLE
    step(engine, chunk(5, PROMPT[5:], table=table))
    slot = 1 if damage == "slot" else 0
    assert step(engine, sample(11, slot)) != engine.reference_output(PROMPT, 1)


def test_wrong_plans_are_refused() -> None:
    engine = FakeEngine(token_budget=8)
    for rows in (
        [],
        [chunk(0, PROMPT)],
        [chunk(0, [1, 2], table=[99])],
        [chunk(0, [300])],
        [chunk(0, [1, 2, 3, 4, 5], table=[3, 3])],
        [chunk(0, [1]), chunk(0, [1], slot=1, name="b")],
        [chunk(0, [1]), chunk(0, [1], table=[2], name="b")],
        [sample(3, slot=8)],
    ):
        with pytest.raises(BadPlan):
            step(engine, *rows)
