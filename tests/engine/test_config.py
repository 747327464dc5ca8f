"""Configuration, buckets and memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.engine.buckets import FORWARD_PARTS, Buckets, Variant, layers_per_call, token_buckets
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.memory import block_bytes, blocks_that_fit, host_bytes
from s2l_jax.models.config import ModelConfig

MODEL = ModelConfig("m", 100, 32, 64, num_layers=3, num_q_heads=4, num_kv_heads=2, head_dim=8, max_position=4096)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_blocks": 0},
        {"num_blocks": 3},
        {"block_size": 12},
        {"token_budget": 0},
        {"max_batch": 513},
        {"max_sessions": -1},
        {"max_model_len": 0},
        {"dtype": "int8"},
        {"compile_threads": 0},
    ],
    ids=str,
)
def test_a_bad_field_is_named_with_its_value(changed: dict[str, Any]) -> None:
    ((field, value),) = changed.items()
    with pytest.raises(InvalidArgument, match=f"{field} is {value!r}: ."):
        EngineConfig(**{"num_blocks": 512, **changed})


def test_token_buckets_bound_padding_to_a_third_from_64_tokens_on() -> None:
    assert token_buckets(512) == (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
    assert token_buckets(100) == (1, 2, 4, 8, 16, 32, 64, 96, 100)
    assert token_buckets(1) == (1,)


@pytest.mark.parametrize(("budget", "batch"), [(512, 32), (1, 1), (100, 7), (64, 64)])
def test_every_step_within_the_limits_has_a_bucket(budget: int, batch: int) -> None:
    buckets = Buckets(EngineConfig(num_blocks=512, token_budget=budget, max_batch=batch))
    for tokens in range(1, budget + 1):
        shape = buckets.forward(tokens)
        assert shape in buckets.forward_shapes()
        assert shape.tokens >= tokens
        assert shape.sequences >= min(tokens, batch)
    for variant in Variant:
        for rows in range(1, buckets.max_rows(variant) + 1):
            shape = buckets.sample(rows, variant)
            assert shape in buckets.sample_shapes()
            assert shape.rows >= rows
    assert buckets.max_rows(Variant.GREEDY) == buckets.max_rows(Variant.FULL) == batch


def test_names_of_shapes_are_unique() -> None:
    buckets = Buckets(EngineConfig(num_blocks=512, token_budget=100, max_batch=12))
    names = [shape.name(part) for shape in buckets.forward_shapes() for part in FORWARD_PARTS]
    names += [shape.name for shape in buckets.sample_shapes()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("layers", "per_call"), [(30, 6), (32, 4), (2, 2), (22, 2), (61, 1), (80, 5), (1, 1)])
def test_layers_are_called_in_equal_groups(layers: int, per_call: int) -> None:
    assert layers_per_call(layers) == per_call


def test_bytes_of_a_block() -> None:
    assert block_bytes(MODEL, 16, "float32") == 3 * 2 * 2 * 8 * 16 * 4
    assert block_bytes(MODEL, 16, "bfloat16") == 3 * 2 * 2 * 8 * 16 * 2


def device_with(free_bytes: int) -> jax.Device:
    stats = {"bytes_limit": free_bytes + 500, "bytes_in_use": 500}
    return cast(jax.Device, SimpleNamespace(platform="gpu", process_index=0, memory_stats=lambda: stats))


def fitting_blocks(*free_bytes: int, **changed: Any) -> int:
    devices = [device_with(free) for free in free_bytes]
    sizes = {"block_size": 16, "dtype": "float32", "max_sessions": 100, "max_model_len": 4096, "memory_share": 0.5}
    return blocks_that_fit(MODEL, devices=devices, **{**sizes, **changed})


def test_blocks_fill_the_share_but_never_exceed_what_sessions_can_use() -> None:
    one_block = block_bytes(MODEL, 16, "float32")
    assert fitting_blocks(2000 * one_block) == 960
    assert fitting_blocks(2000 * one_block, max_sessions=3) == 3 * 256
    assert fitting_blocks(1000 * one_block, 1500 * one_block) == 960  # the fuller one decides
    with pytest.raises(InvalidArgument, match="max_model_len is 4096"):
        fitting_blocks(500 * one_block)


def test_a_device_that_does_not_tell_its_memory() -> None:
    device = cast(jax.Device, SimpleNamespace(platform="tpu", process_index=0, memory_stats=lambda: None))
    with pytest.raises(InvalidArgument, match="num_blocks"):
        blocks_that_fit(MODEL, block_size=16, dtype="float32", max_sessions=1, max_model_len=64, devices=[device])


def test_host_memory_is_the_containers_if_it_has_less(tmp_path: Path) -> None:
    machine = host_bytes(tmp_path)
    assert machine > 1 << 20
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("max\n")
    assert host_bytes(tmp_path) == machine
    limit.write_text("5000\n")
    assert host_bytes(tmp_path) == 5000


def test_a_little_less_free_memory_changes_nothing() -> None:
    one_block = block_bytes(MODEL, 16, "float32")
    assert fitting_blocks(2100 * one_block) == fitting_blocks(2070 * one_block) == 1024
