"""Which way to write x @ weight.T does XLA run fastest on this CPU? Times docs/cpu.md's formulations side by side.

    python benchmarks/cpu_matmul.py --rows 1 --rows 8 --rows 512

Each formulation multiplies through 30 layers of SmolLM2-135M's shapes and its output projection, 0.54 GB of random
weights, in turn with the others; the fastest of its runs counts. Two CPU cores that do nothing else give steady
figures.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console
from rich.table import Table

LAYERS, HIDDEN, INNER, QKV, VOCAB = 30, 576, 1536, 960, 49152


def by_output(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Weight [out, in]."""
    return lax.dot_general(x, weight, (((1,), (1,)), ((), ())))


def by_input(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Weight [in, out]."""
    return lax.dot_general(x, weight, (((1,), (0,)), ((), ())))


def in_pieces(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Weight [pieces, out / pieces, in]: a batch of matrices."""
    rows = jnp.broadcast_to(x, (len(weight), *x.shape))
    return lax.dot_general(rows, weight, (((2,), (2,)), ((0,), (0,)))).swapaxes(0, 1).reshape(len(x), -1)


def multiply_reduce(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Weight [in, out], no matrix product."""
    return (x[:, :, None] * weight).sum(axis=1)


@dataclass(frozen=True)
class Formulation:
    """A layout of the weights and how to multiply by them."""

    name: str
    multiply: Callable[[jax.Array, jax.Array], jax.Array]
    layout: Callable[[np.ndarray], np.ndarray]
    most_rows: int = 1 << 30
    options: tuple[tuple[str, object], ...] = ()


def pieces(count: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weight: weight.reshape(count, -1, weight.shape[1])


def transposed(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(weight.T)


ONEDNN = (("xla_cpu_use_onednn", True), ("xla_cpu_experimental_onednn_fusion_type", "LIBRARY_FUSION_TYPE_DOT"))
FORMULATIONS = (
    Formulation("out x in", by_output, np.asarray),
    Formulation("out x in, 512-bit vectors", by_output, np.asarray, options=(("xla_cpu_prefer_vector_width", 512),)),
    Formulation("out x in, oneDNN", by_output, np.asarray, options=ONEDNN),
    Formulation("in x out", by_input, transposed),
    Formulation("multiply and reduce", multiply_reduce, transposed, most_rows=2),
    Formulation("2 pieces", in_pieces, pieces(2), most_rows=32),
    Formulation("8 pieces", in_pieces, pieces(8), most_rows=32),
)


def best_seconds(formulations: list[Formulation], rows: int, budget_s: float) -> list[float]:
    """The fastest run of each formulation, their runs taking turns."""
    random = np.random.default_rng(0)
    shapes = [(QKV, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER)] * LAYERS + [(VOCAB, HIDDEN)]
    drawn = [random.standard_normal(shape, dtype=np.float32) * 0.02 for shape in shapes]
    x = jnp.asarray(random.standard_normal((rows, HIDDEN), dtype=np.float32))
    runs = []
    for formulation in formulations:
        weights = [jnp.asarray(formulation.layout(weight)) for weight in drawn]

        def stack(
            x: jax.Array, weights: list[jax.Array], multiply: Callable[..., jax.Array] = formulation.multiply
        ) -> jax.Array:
            for qkv, output, gate_up, down in zip(*(weights[i:-1:4] for i in range(4)), strict=True):
                x = x + multiply(multiply(x, qkv)[:, :HIDDEN], output)
                x = x + multiply(multiply(x, gate_up)[:, :INNER], down)
            return multiply(x, weights[-1])

        compiled = jax.jit(stack).lower(x, weights).compile(compiler_options=dict(formulation.options))
        compiled(x, weights).block_until_ready()
        runs.append((compiled, weights))
    best = [float("inf")] * len(runs)
    end = time.perf_counter() + budget_s * len(runs)
    while time.perf_counter() < end:
        for index, (compiled, weights) in enumerate(runs):
            began = time.perf_counter()
            compiled(x, weights).block_until_ready()
            best[index] = min(best[index], time.perf_counter() - began)
    return best


@click.command(help=__doc__)
@click.option("--rows", multiple=True, type=int, default=(1, 2, 8, 32, 512), show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Time for each formulation and number of rows.")
def main(rows: tuple[int, ...], seconds: float) -> None:
    """Prints a table of milliseconds."""
    result = Table(title="milliseconds for all matrices of SmolLM2-135M, float32")
    result.add_column("rows", justify="right")
    for formulation in FORMULATIONS:
        result.add_column(formulation.name, justify="right")
    for count in rows:
        tried = [formulation for formulation in FORMULATIONS if count <= formulation.most_rows]
        times = dict(zip([f.name for f in tried], best_seconds(tried, count, seconds), strict=True))
        cells = [f"{times[f.name] * 1e3:.1f}" if f.name in times else "" for f in FORMULATIONS]
        result.add_row(str(count), *cells)
    Console().print(result)


if __name__ == "__main__":
    main()
