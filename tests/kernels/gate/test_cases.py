import importlib

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from kernels_pallas.gate import gpu, tpu
from kernels_pallas.gate.cases import LLAMA_SHARDS, all_cases, attention_case, gather_case, scatter_case, write_case


@pytest.mark.parametrize("target", [*tpu.TARGETS, *gpu.TARGETS])
def test_each_target_has_cases_with_names_of_their_own(target):
    names = [case.name for case in all_cases(target)]
    assert len(set(names)) == len(names) >= 5
    assert any("attention" in name for name in names)


@pytest.mark.parametrize(
    "case",
    [
        attention_case("xla", LLAMA_SHARDS[0], tokens=64),
        attention_case("xla", LLAMA_SHARDS[0], kv_dtype="int8", tokens=64, sliding_window=5, soft_cap=2.0),
        write_case(64),
        gather_case(),
        scatter_case(),
    ],
    ids=lambda case: case.name,
)
def test_a_case_can_be_traced_from_its_shapes(case):
    mesh = Mesh(np.array(jax.devices()[:1]), ("model",))
    jax.jit(case.function, donate_argnums=case.donated).lower(*case.placed(mesh))


def test_steps_of_real_models_are_traced_for_each_device():
    steps = importlib.import_module("s2l_jax.engine.step_cases")
    assert steps.cases_of("sm_80") == {}
    cases = steps.cases_of("v6e")
    assert len(cases) == 2 * len(steps.DEPLOYMENTS) + 3 + 2
    layers = cases["decode, 1 layer of Llama-3.1-8B on 8"]()
    assert layers.collectives == {"all-reduce": 2}
    assert layers.specs[1] == (PartitionSpec(None, "model", None, None),)
    weights = dict(zip(layers.specs[0], layers.shapes[0], strict=False))
    # Of the joined projection of q, k and v each device has rows, of the output projection columns.
    assert weights[PartitionSpec("model", None)].shape[1] == 4096
    assert PartitionSpec(None, "model") in weights
