import json
from dataclasses import asdict, replace

import pytest

from cost_profiles.engine_padding import padding_of
from cost_profiles.padding import PaddedCosts, PaddedWork, Padding
from cost_profiles.record import read_record
from cost_profiles.work import Work
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.engine.buckets import Buckets
from s2l_jax.engine.config import EngineConfig

PADDING = Padding(
    token_buckets=(1, 4, 16, 64),
    max_batch=8,
    tile_tokens=16,
    chunk_block_tokens=32,
    group_rows=4,
    group_block_rows=64,
    least_block_tokens=16,
    most_block_tokens=48,
)
COSTS = PaddedCosts(PADDING, (0.1, 0.2, 0.4, 1.0), 1e-3, 1e-5, 1e-4, 1e-5, 0.01, 0.02)


@pytest.mark.parametrize(
    ("work", "padded"),
    [
        (Work(), PaddedWork(0, 0, 0, 0, 0, 0)),
        (Work(samples=3), PaddedWork(0, 0, 0, 0, 0, 4)),
        # 5 tokens run as 16, in one tile of 16 queries, which sees a block of 32 KV tokens.
        (Work(((5, 0),)), PaddedWork(16, 32, 16 * 32, 0, 0, 0)),
        # 20 tokens run as 64, in two tiles: the first sees 46 tokens, the other 50, each rounded up to 64.
        (Work(((20, 30),)), PaddedWork(64, 128, 16 * 128, 0, 0, 0)),
        # Each chunk has a tile of its own, however short it is.
        (Work(((2, 0), (2, 0))), PaddedWork(4, 64, 4 * 64, 0, 0, 0)),
        # A decode alone is one row, which sees its context and itself, rounded up to 48.
        (Work(decodes=(48,), samples=1), PaddedWork(1, 0, 0, 96, 48, 1)),
        # A group of four goes as far as its longest context, in blocks of 64 rows / 4 = 16 tokens.
        (Work(decodes=(1, 1, 1, 20), samples=4), PaddedWork(4, 0, 0, 4 * 32, 23, 4)),
        # Two groups: the second has one session, and four rows all the same.
        (Work(decodes=(1, 1, 1, 20, 40), samples=5), PaddedWork(16, 0, 0, 4 * 32 + 4 * 48, 63, 8)),
        # One decode beside a chunk: its group has four rows now.
        (Work(((5, 0),), (1,), 1), PaddedWork(16, 32, 16 * 32, 4 * 16, 1, 1)),
        # Beyond the buckets nothing is padded.
        (Work(((100, 0),)), PaddedWork(100, 32 + 32 + 64 + 64 + 96 + 96 + 128, 16 * 512, 0, 0, 0)),
    ],
)
def test_padded_work(work, padded):
    assert PADDING.padded(work) == padded


def test_costs_are_sums_over_padded_work():
    assert COSTS.step(Work(((20, 30),))) == pytest.approx(1.0 + 128e-3 + 16 * 128e-5)
    assert COSTS.step(Work(decodes=(1, 1, 1, 20), samples=3)) == pytest.approx(0.2 + 128e-4 + 23e-5 + 0.01 + 4 * 0.02)
    assert COSTS.step(Work(samples=1)) == pytest.approx(0.03)
    assert COSTS.step(Work()) == 0.0
    flat = replace(COSTS, chunk_kv_s=0.0, chunk_pair_s=0.0)
    assert flat.step(Work(((100, 0),))) == pytest.approx(100 / 64)  # in proportion to the largest bucket


def test_costs_survive_json():
    assert read_record(PaddedCosts, json.loads(json.dumps(asdict(COSTS)))) == COSTS


@pytest.mark.parametrize(
    "broken",
    [{"dense_s": (0.1, 0.2, 0.4)}, {"dense_s": (0.1, 0.3, 0.2, 1.0)}, {"sample_s": -1.0}, {"chunk_kv_s": float("nan")}],
)
def test_impossible_costs_are_refused(broken):
    with pytest.raises(InvalidArgument):
        replace(COSTS, **broken)


@pytest.mark.parametrize("broken", [{"token_buckets": ()}, {"token_buckets": (4, 1)}, {"tile_tokens": 0}])
def test_impossible_padding_is_refused(broken):
    with pytest.raises(InvalidArgument):
        replace(PADDING, **broken)


def test_it_pads_as_the_engine_does():
    config = EngineConfig(num_blocks=600, token_budget=300, max_batch=24)
    padding, buckets = padding_of(config), Buckets(config)
    for tokens in (2, 3, 20, 65, 100, 200, 300):
        assert padding.padded(Work(((tokens, 0),))).tokens == buckets.forward(tokens).tokens
