"""How much of a device's bandwidth and matrix units does attention use? Ours beside jax's in-tree kernel.

    python benchmarks/kernels.py                                    on the accelerator at hand
    python benchmarks/kernels.py --page-size 16 --json out/kernels.json

Llama-3.1-8B's heads, bfloat16. Decode reads 64 contexts, prefill runs chunks behind contexts. All implementations take
turns, so that ratios hold on a machine whose clock drifts; the median of the rounds counts. Bytes are those of keys and
values that queries may see, each read once; flops those of scores and weighted sums that the causal mask leaves.

On a CPU there is nothing to compare: it runs plain XLA alone, on small sizes, to show that the program works.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cost_profiles.hardware import CHIPS, Chip
from kernels_pallas.attention import kv_pages_shape, paged_attention
from kernels_pallas.implementations import best

Q_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
KINDS = {"H200": "h200", "H100": "h100", "A40": "a40", "v5 lite": "v5e", "v5p": "v5p", "v6 lite": "v6e", "TPU7x": "v7x"}
"""Chips by what devices call themselves."""


@dataclass(frozen=True)
class Load:
    """Sequences that are all alike."""

    name: str
    seqs: int
    new_tokens: int
    context_tokens: int

    @property
    def tokens(self) -> int:
        return self.seqs * self.new_tokens

    @property
    def kv_tokens(self) -> int:
        return self.new_tokens + self.context_tokens

    @property
    def kv_bytes(self) -> int:
        return self.seqs * self.kv_tokens * KV_HEADS * 2 * HEAD_DIM * 2

    @property
    def flops(self) -> int:
        """Two products of two operations each for each pair of a query and a key that it sees."""
        pairs = self.new_tokens * self.context_tokens + self.new_tokens * (self.new_tokens + 1) // 2
        return self.seqs * pairs * Q_HEADS * HEAD_DIM * 4


LOADS = (
    Load("decode, 64 of 1,024", 64, 1, 1023),
    Load("decode, 64 of 8,192", 64, 1, 8191),
    Load("decode, 4 of 65,536", 4, 1, 65535),
    Load("prefill, 8 x 512 behind 0", 8, 512, 0),
    Load("prefill, 1 x 2,048 behind 6,144", 1, 2048, 6144),
)
SMALL_LOADS = (Load("decode, 4 of 128", 4, 1, 127), Load("prefill, 2 x 64 behind 64", 2, 64, 64))


@dataclass(frozen=True)
class Inputs:
    """One load's arrays, with pages in random order."""

    q: Array
    kv_pages: Array
    tables: Array
    cu_q_lens: Array
    kv_lens: Array


def make_inputs(load: Load, page_size: int) -> Inputs:
    blocks = -(-load.kv_tokens // page_size)
    pages = load.seqs * blocks
    keys = jax.random.split(jax.random.key(0), 3)
    return Inputs(
        jax.random.normal(keys[0], (load.tokens, Q_HEADS, HEAD_DIM), jnp.bfloat16),
        jax.random.normal(keys[1], kv_pages_shape(pages, page_size, KV_HEADS, HEAD_DIM), jnp.bfloat16),
        jax.random.permutation(keys[2], pages).reshape(load.seqs, blocks).astype(jnp.int32),
        jnp.arange(load.seqs + 1, dtype=jnp.int32) * load.new_tokens,
        jnp.full(load.seqs, load.kv_tokens, jnp.int32),
    )


def ours(name: str, load: Load, inputs: Inputs) -> Callable[[], Array]:
    """An implementation behind the front door."""
    attend = jax.jit(partial(paged_attention, scale=HEAD_DIM**-0.5, implementation=name))
    decodes = load.seqs if load.new_tokens == 1 else 0
    arrays = (inputs.q, inputs.kv_pages, inputs.tables, inputs.cu_q_lens, inputs.kv_lens)
    return lambda: attend(*arrays, num_decodes=decodes, num_seqs=load.seqs)


def in_tree(load: Load, inputs: Inputs) -> Callable[[], Array] | None:
    """The kernel that jax has for this device, on its own layout of the same pages; None without one."""
    if jax.default_backend() == "tpu":
        from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

        # Keys and values of a head side by side: [pages, page_size, 2 * kv_heads, head_dim].
        halves = inputs.kv_pages.reshape(*inputs.kv_pages.shape[:3], 2, HEAD_DIM)
        pages = halves.transpose(0, 2, 1, 3, 4).reshape(len(halves), -1, 2 * KV_HEADS, HEAD_DIM)
        attend = jax.jit(partial(ragged_paged_attention, sm_scale=HEAD_DIM**-0.5))
        seqs = jnp.array([load.seqs], jnp.int32)
        return lambda: attend(inputs.q, pages, inputs.kv_lens, inputs.tables, inputs.cu_q_lens, seqs)
    if jax.default_backend() == "gpu" and load.new_tokens == 1:
        from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention as triton_attention

        k, v = (half.swapaxes(0, 1) for half in jnp.split(inputs.kv_pages, 2, axis=-1))
        q = (inputs.q * HEAD_DIM**-0.5).astype(inputs.q.dtype)
        attend = jax.jit(triton_attention)
        return lambda: attend(q, k, v, inputs.tables, inputs.kv_lens)
    return None


def time_turns(candidates: dict[str, Callable[[], Array]], rounds: int) -> dict[str, float]:
    """Median seconds of each, in turns; a call is repeated until it takes a few milliseconds."""
    repeats, found = {}, {name: [] for name in candidates}
    for name, call in candidates.items():
        jax.block_until_ready(call())
        repeats[name] = max(1, int(5e-3 / max(seconds_of(call, 1), 1e-6)))
    for _ in range(rounds):
        for name, call in candidates.items():
            found[name].append(seconds_of(call, repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def seconds_of(call: Callable[[], Array], repeats: int) -> float:
    began_s = time.perf_counter()
    results = [call() for _ in range(repeats)]
    jax.block_until_ready(results)
    return (time.perf_counter() - began_s) / repeats


def chip_of(kind: str) -> Chip | None:
    """What the makers say of a device."""
    return next((CHIPS[name] for part, name in KINDS.items() if part in kind), None)


def largest_difference(candidates: dict[str, Callable[[], Array]]) -> float:
    """How far results lie apart; kernels that disagree must not be compared."""
    results = [np.asarray(call(), np.float32) for call in candidates.values()]
    return max(float(np.abs(result - results[0]).max()) for result in results)


def measure(load: Load, page_size: int, rounds: int, chip: Chip | None) -> list[dict[str, Any]]:
    """A row for each implementation."""
    inputs = make_inputs(load, page_size)
    candidates = {name: ours(name, load, inputs) for name in dict.fromkeys(("xla", best()))}
    other = in_tree(load, inputs)
    if other is not None:
        candidates["jax in-tree"] = other
    difference = largest_difference(candidates)
    seconds = time_turns(candidates, rounds)
    return [
        {
            "load": load.name,
            "implementation": name,
            "seconds": took_s,
            "bytes_s": load.kv_bytes / took_s,
            "flops": load.flops / took_s,
            "bandwidth_share": None if chip is None else load.kv_bytes / took_s / chip.hbm_bytes_s,
            "flops_share": None if chip is None else load.flops / took_s / chip.bf16_flops,
            "speed_over_in_tree": seconds["jax in-tree"] / took_s if "jax in-tree" in seconds else None,
            "largest_difference": difference,
        }
        for name, took_s in seconds.items()
    ]


def table_of(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table("load", "implementation", "us", "GB/s", "of peak", "TFLOP/s", "of peak", "x in-tree", title=title)

    def share(value: float | None, pattern: str = "{:.0%}") -> str:
        return "" if value is None else pattern.format(value)

    for row in rows:
        table.add_row(
            row["load"],
            row["implementation"],
            f"{row['seconds'] * 1e6:,.0f}",
            f"{row['bytes_s'] / 1e9:,.1f}",
            share(row["bandwidth_share"]),
            f"{row['flops'] / 1e12:,.2f}",
            share(row["flops_share"]),
            share(row["speed_over_in_tree"], "{:.2f}"),
        )
    return table


@click.command(help=__doc__)
@click.option("--page-size", default=64, show_default=True, type=click.IntRange(min=1), help="Tokens.")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(min=1), help="Turns of each.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write figures here.")
def main(page_size: int, rounds: int, json_file: Path | None) -> None:
    """Measures and prints a table."""
    console = Console()
    device = jax.devices()[0]
    chip = chip_of(device.device_kind)
    loads = SMALL_LOADS if device.platform == "cpu" else LOADS
    rows: list[dict[str, Any]] = []
    for load in track(loads, "Timing", console=Console(stderr=True)):
        rows += measure(load, page_size, rounds, chip)
    title = f"{device.device_kind}, page {page_size}" + ("" if chip else "; no peak is known of it")
    console.print(table_of(rows, title))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(
            json.dumps({"device": device.device_kind, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
