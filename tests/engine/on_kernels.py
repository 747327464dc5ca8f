"""Runs the engine with kernels for accelerators, interpreted.

It is done in a process of its own: on the interpreter of Mosaic GPU each warpgroup that waits takes a thread of XLA's
pool, and `NPROC`, which makes the pool larger than the machine, must be set before jax starts.
"""

import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest import mock

import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu

from kernels_pallas import implementations
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.models import tiny_random
from s2l_jax.models.llama import Llama
from tests.engine.driver import Stream, decode, prefill

MODEL = replace(tiny_random.CONFIG, head_dim=64, num_layers=1)
PROMPTS = [np.random.default_rng(seed).integers(0, 256, length).tolist() for seed, length in enumerate((37, 20))]
_INTERPRETERS = {"mosaic_tpu": pltpu.force_tpu_interpret_mode, "mosaic_gpu": plgpu.force_gpu_interpret_mode}
_POOL_THREADS = "8"
_HANG_S = 200  # a wrong number of arrivals at a barrier waits for ever


def outputs(dtype: str) -> list[Stream]:
    """Two sessions: prefills in chunks, then decodes together."""
    config = EngineConfig(
        num_blocks=16,
        block_size=16,
        token_budget=16,
        max_batch=2,
        max_sessions=2,
        max_model_len=64,
        dtype=dtype,
        compile_threads=1,
    )
    engine = JaxEngine(Llama.from_weights(MODEL, tiny_random.random_weights(MODEL, 0), dtype), MODEL, config)
    engine.warmup()
    streams = [
        Stream(prompt, np.random.default_rng(9).permutation(16)[4 * slot :][:4], slot)
        for slot, prompt in enumerate(PROMPTS)
    ]
    for stream, lengths in zip(streams, ([16, 16, 5], [16, 3, 1]), strict=True):
        prefill(engine, stream, lengths)
    decode(engine, streams, 4)
    engine.close()
    return streams


def interpreted_outputs(implementation: str, dtype: str) -> list[Stream]:
    """`outputs` of these kernels.

    Raises:
      AssertionError: they were not used.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(implementations, "best", lambda: implementation))
        stack.enter_context(mock.patch.object(implementations, "_say_once", _not_used))
        stack.enter_context(_interpreter(implementation))
        return outputs(dtype)


def run_in_other_process(implementation: str, dtype: str) -> list[Stream]:
    """`interpreted_outputs` of another process, which is killed if it hangs."""
    spawn = multiprocessing.get_context("spawn")
    with mock.patch.dict(os.environ, NPROC=_POOL_THREADS), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(interpreted_outputs, implementation, dtype).result(timeout=_HANG_S)
        except TimeoutError:
            for process in pool._processes.values():
                process.kill()
            raise


def _interpreter(implementation: str) -> AbstractContextManager[None]:
    return _INTERPRETERS[implementation]()


def _not_used(name: str, reason: str) -> None:
    raise AssertionError(f"{name} is not used: {reason}")
