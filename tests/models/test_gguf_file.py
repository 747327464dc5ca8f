"""GGUF to Hugging Face directory: values, names, tokenizer, and two processes at once."""

import dataclasses
import multiprocessing

import gguf
import jax.numpy as jnp
import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models import gguf_file
from s2l_jax.models.config import ModelConfig
from s2l_jax.models.gguf_file import converted_directory, unpermute
from s2l_jax.models.hf import load_directory
from s2l_jax.models.llama import Llama
from s2l_jax.models.paged_driver import PagedDriver
from s2l_jax.models.tiny_random import random_weights
from s2l_jax.models.token_bytes import byte_alphabet

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONFIG = ModelConfig(
    name="toy",
    vocab_size=260,
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_q_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position=128,
    rope_theta=1e5,
)
QUANTISED = "blk.1.ffn_up.weight"


def permute(weight, heads):
    """As llama.cpp's converter does for q and k."""
    out, inner = weight.shape
    return weight.reshape(heads, 2, out // heads // 2, inner).swapaxes(1, 2).reshape(out, inner)


def write_gguf(path, *, pre="smollm", architecture="llama"):
    weights = random_weights(CONFIG, 3)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_context_length(CONFIG.max_position)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_block_count(CONFIG.num_layers)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_q_heads)
    writer.add_head_count_kv(CONFIG.num_kv_heads)
    writer.add_rope_freq_base(CONFIG.rope_theta)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = [*SPECIALS, *byte_alphabet(), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * 257)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
    heads = {"attn_q": CONFIG.num_q_heads, "attn_k": CONFIG.num_kv_heads}
    names = {hf: ours for ours, hf in gguf_file._TENSORS.items()}
    kinds = {hf: ours for ours, hf in gguf_file._LAYER_TENSORS.items()}
    for hf_name, original in weights.items():
        values = original
        name = names.get(hf_name)
        if name is None:
            _, _, layer, rest = hf_name.split(".", 3)
            kind = kinds[rest.removesuffix(".weight")]
            name = f"blk.{layer}.{kind}.weight"
            values = permute(original, heads[kind]) if kind in heads else original
        if name == QUANTISED:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "toy.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def model(source, tmp_path_factory):
    return load_directory(converted_directory(source, tmp_path_factory.mktemp("cache")), "toy")


def test_configuration(model):
    expected = dataclasses.replace(CONFIG, bos_token_id=1, eos_token_ids=frozenset({0, 2}))
    assert model.config == expected


def test_weights_come_back(model):
    for name, values in random_weights(CONFIG, 3).items():
        tolerance = 0.02 if name == "model.layers.1.mlp.up_proj.weight" else 0.0
        np.testing.assert_allclose(model.weights[name], values, atol=tolerance, err_msg=name)


def test_converted_weights_run(model):
    prompt = model.tokenizer.encode("hello").tolist()
    original = dict(random_weights(CONFIG, 3))
    original["model.layers.1.mlp.up_proj.weight"] = model.weights["model.layers.1.mlp.up_proj.weight"]
    logits = [
        PagedDriver(Llama.from_weights(CONFIG, weights, jnp.float32), 16).feed(prompt)
        for weights in (model.weights, original)
    ]
    np.testing.assert_array_equal(*logits)


def test_tokenizer_and_template(model):
    assert model.tokenizer.encode("<|im_end|>ab").tolist() == [2, 259]
    assert not model.tokenizer.adds_bos
    assert model.tokenizer.restart_rule is not None
    assert model.chat_template.render([{"content": "hi"}]) == "<|im_start|>hi<|im_end|>"


def test_unpermute_inverts_permute():
    weight = np.arange(48 * 5).reshape(48, 5)
    np.testing.assert_array_equal(unpermute(permute(weight, 3), 3), weight)


def test_a_second_call_converts_nothing(source, tmp_path, monkeypatch):
    first = converted_directory(source, tmp_path)
    monkeypatch.setattr(gguf_file, "convert", lambda *_: pytest.fail("converted twice"))
    assert converted_directory(source, tmp_path) == first


def test_a_failed_conversion_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def fail(_, directory):
        (directory / "config.json").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(gguf_file, "convert", fail)
    with pytest.raises(OSError, match="disk full"):
        converted_directory(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_loser_of_a_race_takes_the_winners_directory(source, tmp_path, monkeypatch):
    convert = gguf_file.convert
    winners = []

    def overtaken(path, directory):
        if not winners:
            winners.append(None)
            winners.append(converted_directory(path, tmp_path))
        convert(path, directory)

    monkeypatch.setattr(gguf_file, "convert", overtaken)
    assert converted_directory(source, tmp_path) == winners[1]
    assert list(tmp_path.iterdir()) == [winners[1]]
    assert load_directory(winners[1]).config.vocab_size == CONFIG.vocab_size


def test_several_processes_at_once(source, tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        paths = pool.starmap(converted_directory, [(source, tmp_path)] * 2)
    assert len(set(paths)) == 1
    assert list(tmp_path.iterdir()) == [paths[0]]
    assert len(load_directory(paths[0]).weights) == 21


def test_other_kinds_are_refused(tmp_path):
    (tmp_path / "text.gguf").write_text("this is no model, however long the text may be")
    with pytest.raises(InvalidArgument, match="not a GGUF"):
        converted_directory(tmp_path / "text.gguf", tmp_path / "cache")
    write_gguf(tmp_path / "gemma.gguf", architecture="gemma")
    with pytest.raises(InvalidArgument, match="'gemma', not 'llama'"):
        converted_directory(tmp_path / "gemma.gguf", tmp_path / "cache")
    write_gguf(tmp_path / "other.gguf", pre="deepseek-coder")
    with pytest.raises(InvalidArgument, match="deepseek-coder"):
        converted_directory(tmp_path / "other.gguf", tmp_path / "cache")
