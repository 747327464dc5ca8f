from dataclasses import replace

import pytest

from cost_profiles.hardware import CHIPS, MACHINES, Machine, find_chip
from cost_profiles.model_shape import MODELS
from cost_profiles.roofline import Efficiencies, roofline
from s2l_jax.core.costs import StepShape
from s2l_jax.core.errors import InvalidArgument

MODEL = MODELS["llama3.1-8b"]
H200 = MACHINES["h200-tp2"]


def test_terms_of_two_h200_worked_out_by_hand():
    costs = roofline(H200, MODEL).costs
    layers = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    matrices_s = 2 * layers / (2 * 989e12 * 0.58)
    reduce_s = 32 * 2 * 4096 * 2 / (450e9 * 0.60)  # two all-reduces a layer; of two chips, each sends all once
    assert costs.token_s == pytest.approx(matrices_s + reduce_s, rel=5e-3)
    assert costs.attended_s == pytest.approx(32 * 4 * 4096 / (2 * 989e12 * 0.44), rel=5e-3)
    assert costs.step_s == pytest.approx(2e-3 + 16_060_522_496 / (2 * 4.8e12 * 0.86), rel=5e-3)
    assert costs.decode_context_s == pytest.approx(131072 / (2 * 4.8e12 * 0.60), rel=5e-3)
    assert costs.swap_in_block_s == costs.swap_out_block_s
    assert costs.swap_in_block_s == pytest.approx(16 * 131072 / (2 * 64e9 * 0.40), rel=5e-3)
    assert costs.handoff_block_s == pytest.approx(16 * 131072 / (2 * 450e9 * 0.60), rel=5e-3)


def test_prefill_and_decode_are_not_faster_than_the_chip():
    work = StepShape(prefill_tokens=8192, attended_tokens=8192**2 / 2)
    for machine in MACHINES.values():
        costs = roofline(machine, MODEL).costs
        flops = 8192 * MODEL.token_flops + work.attended_tokens * MODEL.attended_flops
        assert costs.step(work) > flops / (machine.count * machine.chip.bf16_flops), machine.name
        read_bytes = MODEL.weight_bytes() + 32 * 4096 * MODEL.kv_token_bytes
        decode = StepShape(decodes=32, decode_context_tokens=32 * 4096)
        assert costs.step(decode) > read_bytes / (machine.count * machine.chip.hbm_bytes_s), machine.name


def test_one_chip_reduces_nothing():
    one, two = (roofline(Machine("h200", CHIPS["h200"], count), MODEL).costs for count in (1, 2))
    assert one.token_s > two.token_s > one.token_s / 2
    slow = Machine("slow", replace(CHIPS["h200"], interconnect_bytes_s=1e9), 1)
    assert roofline(slow, MODEL).costs.token_s == one.token_s


def test_int8_weights_are_read_faster_but_not_multiplied_faster():
    usual, small = roofline(H200, MODEL), roofline(H200, MODEL, int8_weights=True)
    assert small.costs.step_s < usual.costs.step_s
    assert small.costs.token_s == usual.costs.token_s
    assert small.memory.pool_blocks(0.8) > usual.memory.pool_blocks(0.8)
    assert small.dtype == "int8 weights, bfloat16 KV"
    assert "8 bits" in small.parts["steps"].source


def test_a_model_that_does_not_fit_is_an_error_that_says_what_to_do():
    large = MODELS["llama3.1-70b"]
    with pytest.raises(InvalidArgument, match=r"141\.1 of 128\.0 GB.*or int8 weights"):
        roofline(MACHINES["v5e-8"], large)
    assert roofline(MACHINES["v5e-8"], large, int8_weights=True).memory.pool_blocks(0.8) * 16 >= large.max_model_len
    with pytest.raises(InvalidArgument, match="fit"):
        roofline(MACHINES["h100-tp2"], large)  # weights fit, but a session of full length does not
    with pytest.raises(InvalidArgument, match=r"8 KV heads.* 3 chips"):
        roofline(Machine("odd", CHIPS["h200"], 3), MODEL)


def test_bad_names_and_figures_are_errors():
    with pytest.raises(InvalidArgument, match=r"'h900'.*h200"):
        find_chip("h900")
    with pytest.raises(InvalidArgument, match="at least 1"):
        Machine("none", CHIPS["h200"], 0)
    with pytest.raises(InvalidArgument, match=r"matrices is 1\.5"):
        Efficiencies(matrices=1.5)
    with pytest.raises(InvalidArgument, match="kv is 0"):
        Efficiencies(kv=0.0)
