"""Run as a program, with eight CPU devices: checkpoints and int8 on 1, 2, 4 and 8 of them, as JSON.

    python -m tests.models.on_eight_devices DIRECTORY

The directory gets a model, as Hugging Face has it, that divides by eight but for its vocabulary.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from s2l_jax.engine.placement import WHOLE, on_all_devices
from s2l_jax.models import registry, tiny_random
from s2l_jax.models.batch import RaggedBatch
from s2l_jax.models.checkpoint_writer import write_checkpoint
from s2l_jax.models.llama import init_kv_pages
from s2l_jax.models.placing import Layout
from s2l_jax.models.registry import LoadedModel
from s2l_jax.models.sharding import weight_specs
from tests.models.toys import byte_level_spec, byte_level_step

CONFIG = replace(tiny_random.CONFIG, name="tiny", num_q_heads=16, num_kv_heads=8)
LENGTH = 32
COUNTS = (8, 4, 2, 1)
PROMPT = np.random.default_rng(5).integers(0, 256, 13).tolist()


def write_source(directory: Path) -> None:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(tiny_random.hf_config(CONFIG)))
    (directory / "tokenizer.json").write_text(json.dumps(byte_level_spec(byte_level_step()) | {"added_tokens": []}))
    save_file(dict(tiny_random.random_weights(CONFIG, 0)), directory / "model.safetensors")


def arrays(model: LoadedModel, count: int) -> list[jax.Array]:
    return jax.tree.leaves(nnx.state(model.build(jax.devices()[:count])))


def differences(one: LoadedModel, other: LoadedModel, count: int) -> int:
    """Arrays that differ in values, dtype or place."""
    pairs = zip(arrays(one, count), arrays(other, count), strict=True)
    return sum(
        a.sharding != b.sharding or a.dtype != b.dtype or not np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in pairs
    )


def greedy(model: LoadedModel, count: int) -> list[int]:
    """Twelve tokens behind the prompt, each from the whole text so far."""
    built = model.build(jax.devices()[:count])
    graph, state = nnx.split(built)
    rows = jnp.arange(LENGTH, dtype=jnp.int32)

    def next_token(state: nnx.State, tokens: jax.Array, length: jax.Array) -> jax.Array:
        part = nnx.merge(graph, state)
        batch = RaggedBatch(
            slots=jnp.where(rows < length, rows, LENGTH),
            block_tables=jnp.arange(LENGTH // 4, dtype=jnp.int32)[None],
            cu_q_lens=jnp.stack([jnp.int32(0), length]),
            kv_lens=length[None],
            num_decodes=jnp.int32(0),
            num_seqs=jnp.int32(1),
        )
        hidden, _ = part.hidden(tokens, rows, init_kv_pages(part.config, LENGTH // 4, 4, jnp.float32), batch)
        return part.logits(hidden)[length - 1, : CONFIG.vocab_size].argmax()

    mesh = Layout.on(jax.devices()[:count]).mesh
    step = jax.jit(on_all_devices(next_token, built.axis, mesh, (weight_specs(state), WHOLE, WHOLE), WHOLE))
    tokens = list(PROMPT)
    while len(tokens) < len(PROMPT) + 12:
        padded = np.pad(np.array(tokens, np.int32), (0, LENGTH - len(tokens)))
        tokens.append(int(step(state, padded, np.int32(len(tokens)))))
    return tokens


def main(directory: Path) -> dict[str, object]:
    source, plain, int8 = directory / "source", directory / "plain", directory / "int8"
    write_source(source)
    loaded = registry.load(str(source))
    write_checkpoint(loaded, plain, devices=jax.devices())
    write_checkpoint(loaded, int8, devices=jax.devices(), quantization="int8")
    at_load = registry.load(str(source), quantization="int8")
    pieces = {
        array.sharding.shard_shape(array.shape) for array in arrays(registry.load(str(plain)), 8) if array.ndim == 2
    }
    return {
        "plain": {count: differences(loaded, registry.load(str(plain)), count) for count in COUNTS},
        "int8": {count: differences(at_load, registry.load(str(int8)), count) for count in COUNTS},
        "then int8": {
            count: differences(at_load, registry.load(str(plain), quantization="int8"), count) for count in COUNTS
        },
        "tokens": [greedy(registry.load(str(int8)), count) for count in COUNTS],
        "pieces": sorted(pieces),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
