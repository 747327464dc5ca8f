"""Runs cases of the shared suite on the interpreter of Mosaic GPU, in a process of its own.

The interpreter parks a thread of XLA's pool for each warpgroup that waits; on a machine of two cores the pool has two
threads, and all stand still. `NPROC` makes the pool larger, and must be set before jax starts.
"""

import contextlib
import dataclasses
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple
from unittest import mock

import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels_pallas import attention
from kernels_pallas.gpu import devices
from kernels_pallas.gpu.softmax import Rows
from kernels_pallas.gpu.stream import BlockStream
from kernels_pallas.scores import Scores
from tests.kernels.test_attention import CASES, Case, run_paged

_POOL_THREADS = "8"
_HANG_S = 120  # a wrong number of arrivals at a barrier waits for ever

MORE_CASES = {
    "head_dim_256": Case((1, 5, 70), (70, 90, 70), num_decodes=1, head_dim=256),
    "slots_used_again": Case((1, 5), (1200, 400), num_decodes=1, q_heads=2, kv_heads=1, page_size=32),
    "one_page_of_many_seen": Case((1, 3), (33, 130), num_decodes=1, page_size=16, head_dim=128),
}

# What somebody might get wrong: (where, what, what it is instead).
MUTATIONS = {
    "does not wait for a block": (BlockStream, "wait", lambda self, slot: None),
    "reads the slot that is being filled": (BlockStream, "slot", lambda self, block, first: (block - first) * 0),
    "sees the next token": (Scores, "sees", lambda self, positions, columns: columns <= positions + 1),
    "leaves garbage behind the end": (Rows, "clear_tail", lambda self, *_: None),
}


class Result(NamedTuple):
    """Of a run."""

    out: np.ndarray
    expected: np.ndarray
    raced: bool


def run(name: str, *, races: bool = False, blackwell: bool = False, mutation: str | None = None) -> Result:
    """Runs a case on a pool that is NaN where no token was written, in shared memory that is NaN to begin with."""

    def write_over_garbage(pool, *arguments):
        return write_kv(jnp.full_like(pool, jnp.nan), *arguments)

    write_kv = attention.write_kv
    parameters = plgpu.InterpretGPUParams(detect_races=races, uninitialized_memory="nan")
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(attention, "write_kv", write_over_garbage))
        stack.enter_context(mock.patch.object(devices, "is_blackwell", lambda: blackwell))
        if mutation is not None:
            stack.enter_context(mock.patch.object(*MUTATIONS[mutation]))
        stack.enter_context(plgpu.force_gpu_interpret_mode(parameters))
        out, expected = run_paged(case_of(name), jnp.bfloat16, implementation="mosaic_gpu")
    return Result(out, expected, races and _raced())


def case_of(name: str) -> Case:
    """The case, with heads of a size that the kernels take."""
    case = (CASES | MORE_CASES)[name]
    return dataclasses.replace(case, head_dim=64) if case.head_dim == 32 else case


@contextlib.contextmanager
def other_process():
    """Gives `run` in another process, which is killed if it hangs."""
    spawn = multiprocessing.get_context("spawn")
    with mock.patch.dict(os.environ, NPROC=_POOL_THREADS), ProcessPoolExecutor(1, mp_context=spawn) as pool:

        def call(name: str, **options) -> Result:
            try:
                return pool.submit(run, name, **options).result(timeout=_HANG_S)
            except TimeoutError:
                for process in pool._processes.values():
                    process.kill()
                raise

        yield call


def _raced() -> bool:
    from jax._src.pallas.mosaic_gpu.interpret.gpu_callbacks import get_races  # there is no public name for it

    return bool(get_races().races_found)
