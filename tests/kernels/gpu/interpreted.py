"""Runs cases of the shared suite on the interpreter of Mosaic GPU, in a process of its own.

The interpreter parks a thread of XLA's pool for each warpgroup that waits; on a machine of two cores the pool has two
threads, and all stand still. `NPROC` makes the pool larger, and must be set before jax starts.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels_pallas.gpu import devices
from tests.kernels.test_attention import CASES, Case, run_paged

POOL_THREADS = 8


def run(name: str, *, races: bool = False, blackwell: bool = False) -> tuple[np.ndarray, np.ndarray, bool]:
    """Output, what dense attention gives, and whether there was a race; all memory is NaN to begin with."""
    if blackwell:
        devices.is_blackwell = lambda: True
    parameters = plgpu.InterpretGPUParams(detect_races=races, uninitialized_memory="nan")
    with plgpu.force_gpu_interpret_mode(parameters):
        out, expected = run_paged(case_of(name), jnp.bfloat16, implementation="mosaic_gpu")
    return out, expected, races and _races_found()


def case_of(name: str) -> Case:
    """The case, with heads of a size that the kernels take."""
    case = CASES[name]
    return dataclasses.replace(case, head_dim=64) if case.head_dim == 32 else case


def _races_found() -> bool:
    from jax._src.pallas.mosaic_gpu.interpret.gpu_callbacks import get_races  # there is no public name for it

    return bool(get_races().races_found)
