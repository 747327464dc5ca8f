"""Run as a program: how much more memory than before a process needs to convert, quantise and load a model, as JSON.

    python -m tests.models.loading_memory SOURCE OUT

Peaks never fall, so what needs least comes first.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from s2l_jax.models import registry
from s2l_jax.models.checkpoint_writer import write_checkpoint
from s2l_jax.models.registry import LoadedModel


def peak_bytes() -> int:
    """Of this program. What `getrusage` tells would begin with the peak of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def build(model: LoadedModel) -> int:
    """Builds a model and lets go of it; returns what it took on the device."""
    state = nnx.state(model.build())
    jax.block_until_ready(state)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def main(source: Path, out: Path) -> dict[str, dict[str, int]]:
    tiny = registry.load("tiny-random", quantization="int8")
    write_checkpoint(tiny, out.with_name("warm"))  # what libraries keep for themselves is in the baseline
    build(tiny)
    jnp.dot(jnp.ones((2, 2)), jnp.ones((2, 2))).block_until_ready()
    before, found = peak_bytes(), {}

    def note(name: str, device_bytes: int) -> None:
        found[name] = {"device": device_bytes, "peak": peak_bytes() - before}

    write_checkpoint(registry.load(str(source)), out)
    note("convert", 0)
    note("safetensors to int8", build(registry.load(str(source), quantization="int8")))
    note("checkpoint to int8", build(registry.load(str(out), quantization="int8")))
    note("checkpoint", build(registry.load(str(out))))
    note("safetensors", build(registry.load(str(source))))
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
