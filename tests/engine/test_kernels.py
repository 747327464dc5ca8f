"""The engine with kernels for accelerators, interpreted: the same tokens as with plain XLA."""

import numpy as np
import pytest

from tests.engine.on_kernels import outputs, run_in_other_process

CLOSE = {"float32": 1e-4, "bfloat16": 5e-2}


@pytest.mark.parametrize(("implementation", "dtype"), [("mosaic_tpu", "float32"), ("mosaic_gpu", "bfloat16")])
def test_kernels_give_the_same_tokens_as_plain_xla(implementation: str, dtype: str) -> None:
    for stream, plain in zip(run_in_other_process(implementation, dtype), outputs(dtype), strict=True):
        assert stream.tokens == plain.tokens
        logprobs = [[token.logprob for token in each.sampled] for each in (stream, plain)]
        np.testing.assert_allclose(*logprobs, atol=CLOSE[dtype])
