"""Run as a program, with eight CPU devices: what engines on 1, 2, 4 and 8 of them say, as JSON."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from s2l_jax.core.plan import HostCopy, StepPlan
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.models import tiny_random
from s2l_jax.models.sharding import build_on
from tests.engine.driver import Stream, decode, prefill

MODEL = replace(tiny_random.CONFIG, num_q_heads=16, num_kv_heads=8)
CONFIG = EngineConfig(
    num_blocks=24, block_size=4, token_budget=8, max_batch=4, max_sessions=4, max_model_len=48, host_blocks=8
)
PROMPTS = [np.random.default_rng(seed).integers(0, 256, length).tolist() for seed, length in enumerate((21, 8, 3))]


def run(devices: int, cache_dir: Path | None = None) -> list[list[int]]:
    """Tokens of three sessions whose pages go to the host and come back elsewhere half-way."""
    weights = tiny_random.random_weights(MODEL, 0)
    engine = JaxEngine(
        build_on(jax.devices()[:devices], MODEL, weights, "float32"), MODEL, replace(CONFIG, cache_dir=cache_dir)
    )
    engine.warmup()
    streams = [Stream(prompt, range(8 * slot, 8 * slot + 8), slot) for slot, prompt in enumerate(PROMPTS)]
    for stream, lengths in zip(streams, ([8, 8, 5], [7, 1], [3]), strict=True):
        prefill(engine, stream, lengths)
    decode(engine, streams, 4)
    for stream in streams:
        prefill(engine, stream, [1])  # the token sampled last
    saves = tuple(HostCopy(int(block), slot, 1) for slot, block in enumerate(streams[0].blocks))
    engine.execute(StepPlan(100, (), (), saves=saves))
    streams[0].blocks = streams[0].blocks[::-1].copy()
    loads = tuple(HostCopy(int(block), slot, 1) for slot, block in enumerate(streams[0].blocks))
    engine.execute(StepPlan(101, (), (), loads=loads))
    decode(engine, streams, 4)
    mask = np.array([0, 0b111 << 7], np.int32)
    chunks, samples = [stream.chunk(1) for stream in streams], [stream.sample() for stream in streams]
    plan = StepPlan(102, tuple(chunks), tuple(sample._replace(mask=mask) for sample in samples))
    for stream, token in zip(streams, engine.execute(plan).tokens, strict=True):
        stream.take(token)
    engine.close()
    return [stream.tokens for stream in streams]


if __name__ == "__main__":
    print(json.dumps({devices: run(devices) for devices in (1, 2, 4, 8)}))
