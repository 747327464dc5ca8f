"""The TPU kernels against dense attention, interpreted on a CPU."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.kernels.test_attention import CASES, run_paged

INTERPRETED = {
    name: dataclasses.replace(case, head_dim=64 if case.head_dim == 32 else case.head_dim)
    for name, case in CASES.items()
}


@pytest.mark.parametrize("name", INTERPRETED)
def test_float32_equals_dense(name):
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams()):
        out, expected = run_paged(INTERPRETED[name], jnp.float32, implementation="mosaic_tpu")
    np.testing.assert_allclose(out[: len(expected)], expected, atol=2e-5, rtol=2e-5)
    assert np.isfinite(out).all()
