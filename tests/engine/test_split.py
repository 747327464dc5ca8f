"""One engine over several devices."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models import tiny_random
from s2l_jax.models.sharding import PartOfWeights, build_on
from tests.cpu_devices import with_cpu_devices


def test_engines_on_1_2_4_and_8_devices_say_the_same() -> None:
    command = [sys.executable, "-m", "tests.engine.on_eight_devices"]
    done = subprocess.run(command, env=with_cpu_devices(8), capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, *split = json.loads(done.stdout).values()
    assert len(split) == 3
    assert all(tokens == alone for tokens in split)
    assert len({tuple(tokens[-10:-1]) for tokens in alone}) == 3
    assert all(39 <= tokens[-1] <= 41 for tokens in alone)  # what a mask let come


def test_parts_together_are_the_whole() -> None:
    weights = tiny_random.random_weights(tiny_random.CONFIG, 0)
    parts = [PartOfWeights(weights, index, 4) for index in range(4)]
    assert set(parts[0]) == set(weights)
    assert len(parts[0]) == len(weights)
    layer = "model.layers.1."
    np.testing.assert_array_equal(
        np.concatenate([part[layer + "mlp.up_proj.weight"] for part in parts]), weights[layer + "mlp.up_proj.weight"]
    )
    np.testing.assert_array_equal(
        np.concatenate([part[layer + "self_attn.o_proj.weight"] for part in parts], 1),
        weights[layer + "self_attn.o_proj.weight"],
    )
    assert all(part["model.norm.weight"] is weights["model.norm.weight"] for part in parts)
    head = np.concatenate([part["lm_head.weight"] for part in parts])
    np.testing.assert_array_equal(head[:258], weights["lm_head.weight"])
    assert len(head) == 260
    assert not head[258:].any()


def test_what_cannot_be_split_is_named() -> None:
    config = replace(tiny_random.CONFIG, num_kv_heads=1)
    with pytest.raises(InvalidArgument, match="num_kv_heads of model 'tiny-random' is 1, not a multiple of 2 devices"):
        build_on(jax.devices()[:1] * 2, config, tiny_random.random_weights(config, 0), "float32")
