"""The engine with kernels for accelerators, interpreted: the same tokens as with plain XLA."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from kernels_pallas import implementations
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.models import tiny_random
from s2l_jax.models.llama import Llama
from tests.engine.driver import Stream, decode, prefill, same_output

MODEL = replace(tiny_random.CONFIG, head_dim=64)
CONFIG = EngineConfig(
    num_blocks=16, block_size=16, token_budget=16, max_batch=4, max_sessions=4, max_model_len=64, compile_threads=1
)
INTERPRETERS = {"mosaic_tpu": pltpu.force_tpu_interpret_mode}
PROMPTS = [np.random.default_rng(seed).integers(0, 256, length).tolist() for seed, length in enumerate((37, 16, 5))]


def outputs() -> list[Stream]:
    """Three sessions: prefills in chunks, alone and beside decodes, then decodes together."""
    engine = JaxEngine(Llama.from_weights(MODEL, tiny_random.random_weights(MODEL, 0), "float32"), MODEL, CONFIG)
    engine.warmup()
    streams = [
        Stream(prompt, np.random.default_rng(9).permutation(16)[4 * slot :][:4], slot)
        for slot, prompt in enumerate(PROMPTS)
    ]
    for stream, lengths in zip(streams, ([16, 16, 5], [15, 1], [5]), strict=True):
        prefill(engine, stream, lengths)
    decode(engine, streams, 6)
    engine.close()
    return streams


@pytest.fixture(params=INTERPRETERS)
def interpreted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    interpreter: AbstractContextManager[None] = INTERPRETERS[request.param]()
    monkeypatch.setattr(implementations, "best", lambda: request.param)
    with interpreter:
        yield request.param


@pytest.fixture(scope="module")
def expected() -> list[Stream]:
    return outputs()


def test_kernels_give_the_same_tokens_as_plain_xla(
    expected: list[Stream], interpreted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implementations, "_say_once", lambda name, reason: pytest.fail(f"{name} is not used: {reason}"))
    for stream, plain in zip(outputs(), expected, strict=True):
        same_output(stream, plain)
