"""Checkpoints: what comes back, on how many devices, with how much memory, and what is said if something is wrong."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from s2l_jax.core.errors import InvalidArgument, ResourceExhausted
from s2l_jax.models import checkpoint_writer, registry, tiny_random
from s2l_jax.models.checkpoint import MANIFEST, WEIGHTS, Manifest
from s2l_jax.models.checkpoint_writer import write_checkpoint
from s2l_jax.models.llama import weight_shapes
from s2l_jax.models.model_check import ModelCheck
from s2l_jax.models.paged_driver import PagedDriver
from tests.cpu_devices import with_cpu_devices
from tests.models.toys import byte_level_spec, byte_level_step

FIXTURES = Path(__file__).with_name("fixtures")
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}
LARGE = replace(
    tiny_random.CONFIG,
    name="large",
    vocab_size=512,
    hidden_size=512,
    intermediate_size=1024,
    num_layers=24,
    num_q_heads=8,
    num_kv_heads=4,
    head_dim=64,
)


def run(module, *arguments, **environment):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def hf_directory(target, fixture="qwen3"):
    shutil.copytree(FIXTURES / fixture, target)
    (target / "tokenizer.json").write_text(json.dumps(byte_level_spec(byte_level_step()) | {"added_tokens": []}))
    settings = {"bos_token": "<s>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    return target


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that tests may read, but not change."""
    out = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_checkpoint(registry.load("tiny-random"), out)
    return out


@pytest.fixture
def broken(tiny, tmp_path):
    """A copy that tests may break."""
    return shutil.copytree(tiny, tmp_path / "broken")


@pytest.mark.parametrize("fixture", ["qwen3", "llama3_tied_sharded", "llama_linear_biases"])
def test_everything_that_a_server_needs_comes_back(tmp_path, fixture):
    source = registry.load(str(hf_directory(tmp_path / "source", fixture)))
    write_checkpoint(source, tmp_path / "out")
    shutil.rmtree(tmp_path / "source")
    model = registry.load(str(tmp_path / "out"))
    assert model.config == source.config
    assert model.config.eos_token_ids >= {7, 9}
    assert model.tokenizer.encode("a text").tolist() == source.tokenizer.encode("a text").tolist()
    assert model.chat_template.render([{"content": "hi"}]) == "<s>hi"
    driver = PagedDriver(model.build(), 48)
    expected = np.load(FIXTURES / fixture / "expected.npz")
    np.testing.assert_allclose(driver.feed(expected["tokens"].tolist()), expected["logits"], atol=2e-4)


def test_arrays_come_back_as_numpy_too(tiny):
    source, model = registry.load("tiny-random"), registry.load(str(tiny))
    assert set(model.weights) == set(source.weights)
    for name, value in source.weights.items():
        np.testing.assert_array_equal(model.weights[name], value)
    assert all(result.passed for result in ModelCheck(str(tiny)).run())


def test_dtypes_are_kept_or_converted(tiny, tmp_path):
    assert Manifest.read(tiny).dtype == "float32"
    half = write_checkpoint(registry.load(str(tiny)), tmp_path / "half", dtype="bfloat16")
    assert (half.dtype, half.name) == ("bfloat16", "tiny-random")
    assert registry.load(str(tmp_path / "half")).weights["lm_head.weight"].dtype == jnp.bfloat16
    widened = registry.load(str(tmp_path / "half"), dtype="float32").build()
    expected = registry.load("tiny-random").weights["lm_head.weight"].astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(widened.lm_head[...], expected)


def test_progress_goes_from_nothing_to_all(tmp_path):
    seen = []
    write_checkpoint(
        registry.load("tiny-random"), tmp_path / "out", progress=lambda done, total, _: seen.append((done, total))
    )
    total = 4 * sum(np.prod(shape) for shape in weight_shapes(tiny_random.CONFIG).values())
    assert (seen[0], seen[-1]) == ((0, total), (total, total))
    assert seen == sorted(seen)
    assert len(seen) == 5  # embedding, two layers, head, files


def test_one_to_eight_devices_restore_what_eight_have_saved(tmp_path):
    report = run("tests.models.on_eight_devices", tmp_path, **with_cpu_devices(8))
    nothing = {"1": 0, "2": 0, "4": 0, "8": 0}
    assert (report["plain"], report["int8"], report["then int8"]) == (nothing, nothing, nothing)
    alone, *split = report["tokens"]
    assert all(tokens == alone for tokens in split)
    assert len(set(alone[13:])) > 3
    assert [33, 64] in report["pieces"]  # an eighth of a vocabulary of 258, filled up


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux")
def test_no_more_than_a_few_layers_are_held_beside_the_devices(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    weights = tiny_random.random_weights(LARGE, 0)
    save_file(dict(weights), source / "model.safetensors")
    total = sum(value.nbytes for value in weights.values())
    (source / "config.json").write_text(json.dumps(tiny_random.hf_config(LARGE)))
    spec = byte_level_spec(byte_level_step()) | {"added_tokens": []}
    (source / "tokenizer.json").write_text(json.dumps(spec))
    found = run("tests.models.loading_memory", source, tmp_path / "out")
    for name, facts in found.items():
        assert facts["peak"] < facts["device"] + 0.45 * total, name  # a quarter is what any program of this kind needs
    for name in ("safetensors to int8", "checkpoint to int8"):  # never the whole model in float32
        assert found[name]["device"] < 0.3 * total, name
        assert found[name]["peak"] < 0.7 * total, name


def test_what_exists_is_refused(tiny, tmp_path):
    with pytest.raises(InvalidArgument, match="tiny exists already: remove it, or give another name"):
        write_checkpoint(registry.load("tiny-random"), tiny)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InvalidArgument, match="link exists already"):
        write_checkpoint(registry.load("tiny-random"), tmp_path / "link")


def test_a_failed_or_interrupted_convert_leaves_nothing_behind(tmp_path):
    def interrupt(done, total, item):
        if item == "layers.1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(registry.load("tiny-random"), tmp_path / "out", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_convert_never_looks_complete(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from s2l_jax.models import registry\n"
        "from s2l_jax.models.checkpoint_writer import write_checkpoint\n"
        "kill = lambda done, total, item: item == 'files' and os.kill(os.getpid(), 9)\n"
        "write_checkpoint(registry.load('tiny-random'), Path(sys.argv[1]), progress=kill)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "out"], env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.")
    with pytest.raises(InvalidArgument, match=r"no config.json"):
        registry.load(str(left))
    write_checkpoint(registry.load("tiny-random"), tmp_path / "out")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(checkpoint_writer.shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(ResourceExhausted, match=r"needs 0.00 GB, but 0.00 GB are free there: make room"):
        write_checkpoint(registry.load("tiny-random"), tmp_path / "out")
    monkeypatch.undo()

    def fail(done, total, item):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ResourceExhausted, match="out was not written, the disk is full"):
        write_checkpoint(registry.load("tiny-random"), tmp_path / "out", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="out was not written: "):
        write_checkpoint(registry.load("tiny-random"), tmp_path / "file" / "out")


def test_an_incomplete_model_is_refused(tmp_path):
    model = registry.load("tiny-random")
    weights = {name: value for name, value in model.weights.items() if name != "model.norm.weight"}
    with pytest.raises(InvalidArgument, match=r"no weight 'model.norm.weight'"):
        write_checkpoint(replace(model, weights=weights), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [("float64", "dtype is 'float64'"), ("int4", "quantization is 'int4', but must be one of int8")],
)
def test_what_is_not_offered_is_refused(tmp_path, name, message):
    options = {"quantization": name} if name == "int4" else {"dtype": name}
    with pytest.raises(InvalidArgument, match=message):
        write_checkpoint(registry.load("tiny-random"), tmp_path / "out", **options)


def test_a_missing_layer_is_named(broken):
    shutil.rmtree(broken / WEIGHTS / "layers.1")
    with pytest.raises(InvalidArgument, match=r"weights/layers.1 is missing: the checkpoint is not complete"):
        registry.load(str(broken))


def test_a_layer_cut_short_is_named(broken):
    for path in (broken / WEIGHTS / "layers.0").rglob("*"):
        if path.is_file() and path.stat().st_size > 2000:
            path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InvalidArgument, match=r"layers.0 cannot be restored, it is missing or broken"):
        registry.load(str(broken)).build()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "name": "x"}'])
def test_a_broken_manifest_is_named(broken, content):
    (broken / MANIFEST).write_text(content)
    with pytest.raises(InvalidArgument, match=f"{MANIFEST} cannot be read"):
        registry.load(str(broken))


def test_another_format_is_named(broken):
    raw = json.loads((broken / MANIFEST).read_text())
    (broken / MANIFEST).write_text(json.dumps(raw | {"format": 2}))
    with pytest.raises(InvalidArgument, match="is of format 2, but this version reads 1"):
        registry.load(str(broken))


def test_another_architecture_is_named(broken):
    raw = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(raw | {"architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(InvalidArgument, match=r"architecture \['GPT2LMHeadModel'\], but supported are"):
        registry.load(str(broken))


def test_a_configuration_of_another_model_is_named(broken):
    raw = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": 3}))
    with pytest.raises(InvalidArgument, match=r"no weight 'model.layers.2"):
        registry.load(str(broken)).build()
