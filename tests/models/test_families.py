"""Checkpoints written by transformers, and the logits it computed: the whole path from directory to logits.

Made by `python benchmarks/oracle_greedy.py --families --fixtures tests/models/fixtures`.
"""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.config import RopeScaling
from s2l_jax.models.hf import load_directory
from s2l_jax.models.hf_config import config_from_hf
from s2l_jax.models.llama import Llama, weight_shapes
from s2l_jax.models.paged_driver import PagedDriver
from s2l_jax.models.safetensors_file import SafetensorsFile, open_weights
from tests.models.toys import byte_level_spec, byte_level_step

FIXTURES = Path(__file__).with_name("fixtures")
NAMES = sorted(path.name for path in FIXTURES.iterdir())


def raw_config(name):
    return json.loads((FIXTURES / name / "config.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_transformers(name):
    config = config_from_hf(raw_config(name), name)
    weights = open_weights(FIXTURES / name)
    assert weight_shapes(config).keys() == weights.keys()
    expected = np.load(FIXTURES / name / "expected.npz")
    driver = PagedDriver(Llama.from_weights(config, weights, jnp.float32), 48)
    np.testing.assert_allclose(driver.feed(expected["tokens"].tolist()), expected["logits"], atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_older_spelling_of_rope_means_the_same(name):
    raw = raw_config(name)
    section = raw.pop("rope_parameters")
    older = raw | {"rope_theta": section.pop("rope_theta")}
    if section["rope_type"] != "default":
        older["rope_scaling"] = section | {"type": section.pop("rope_type")}
    assert config_from_hf(older, name) == config_from_hf(raw_config(name), name)


def test_every_family_is_covered():
    configs = {name: config_from_hf(raw_config(name), name) for name in NAMES}
    assert {c.rope_scaling.kind for c in configs.values() if c.rope_scaling} == {"linear", "llama3", "yarn"}
    assert {c.tie_word_embeddings for c in configs.values()} == {True, False}
    assert {c.sliding_window for c in configs.values()} == {None, 5, 7}
    assert any(c.qk_norm for c in configs.values())
    assert any(c.mlp_bias and c.output_bias for c in configs.values())


REFUSED = {
    "architecture": ({"architectures": ["GPT2LMHeadModel"]}, r"GPT2LMHeadModel.*supported are LlamaForCausalLM"),
    "dynamic_rope": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
    "longrope": ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
    "untruncated_yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncated"),
    "partial_rotary": ({"partial_rotary_factor": 0.5}, "rotates only 0.5"),
    "activation": ({"hidden_act": "gelu"}, "gelu"),
    "quantised": ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    "mixed_layers": (
        {
            "architectures": ["Qwen2ForCausalLM"],
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
        },
        "mixes layers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused(case):
    change, message = REFUSED[case]
    raw = raw_config("llama3_tied_sharded")
    del raw["rope_parameters"]
    with pytest.raises(InvalidArgument, match=message):
        config_from_hf(raw | change, case)


def test_a_missing_field_is_named():
    raw = raw_config("llama2")
    del raw["hidden_size"]
    with pytest.raises(InvalidArgument, match=r"'broken'.*no 'hidden_size'"):
        config_from_hf(raw, "broken")


def test_yarn_lengthens_the_context_and_knows_mscale():
    section = {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
    }
    raw = raw_config("llama2") | {"rope_scaling": section}
    del raw["rope_parameters"]
    config = config_from_hf(raw, "yarn")
    assert config.max_position == 256
    assert isinstance(config.rope_scaling, RopeScaling)
    growth = 0.1 * np.log(4.0)
    assert config.rope_scaling.attention_factor == pytest.approx((growth + 1) / (0.5 * growth + 1))


@pytest.fixture
def directory(tmp_path):
    """A complete model directory."""
    target = shutil.copytree(FIXTURES / "llama2", tmp_path / "model")
    spec = byte_level_spec(byte_level_step())
    (target / "tokenizer.json").write_text(json.dumps(spec))
    settings = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}, "chat_template": "{{ bos_token }}plain"}
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    return target


def test_end_tokens_come_from_every_file(directory):
    model = load_directory(directory)
    im_end = model.tokenizer.encode("<|im_end|>").tolist()
    assert model.config.eos_token_ids == {2, 7, 9, *im_end}
    assert model.tokenizer.eos_token_ids == model.config.eos_token_ids


def test_a_tokenizer_without_bos_overrules_the_model(directory):
    assert load_directory(directory).tokenizer.bos_token_id == 1
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": None}))
    model = load_directory(directory)
    assert model.config.bos_token_id is None
    with pytest.raises(InvalidArgument, match="no begin-of-sequence token"):
        model.tokenizer.encode("a", add_bos=True)


def test_a_template_in_its_own_file_comes_first(directory):
    assert load_directory(directory).chat_template.render([]) == "<s>plain"
    (directory / "chat_template.jinja").write_text("{{ eos_token }}own file")
    assert load_directory(directory).chat_template.render([]) == "<|im_end|>own file"


def test_of_several_templates_the_default_is_taken(directory):
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}]
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert load_directory(directory).chat_template.render([]) == "usual"


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(directory, missing):
    (directory / missing).unlink()
    with pytest.raises(InvalidArgument, match=missing):
        load_directory(directory)


def test_a_broken_json_file_is_named(directory):
    (directory / "generation_config.json").write_text("{")
    with pytest.raises(InvalidArgument, match=r"generation_config.json cannot be read"):
        load_directory(directory)


def test_a_file_cut_short_is_refused(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InvalidArgument, match="cut short"):
        load_directory(directory)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0{}", b"\x05\0\0\0\0\0\0\0[1,2]"])
def test_other_files_are_not_taken_for_weights(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    if content.endswith(b"{}"):
        assert len(SafetensorsFile(path)) == 0
    else:
        with pytest.raises(InvalidArgument, match="not a safetensors file"):
            SafetensorsFile(path)


def test_shards_stay_inside_the_directory(tmp_path):
    index = {"weight_map": {"a": "../other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidArgument, match="outside the model directory"):
        open_weights(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    target = shutil.copytree(FIXTURES / "llama3_tied_sharded", tmp_path / "model")
    (target / "model-00002-of-00003.safetensors").unlink()
    weights = open_weights(target)
    with pytest.raises(InvalidArgument, match="model-00002-of-00003"):
        [weights[name] for name in weights]
