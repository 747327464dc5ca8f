"""What do int8 weights cost and give? SmolLM2-135M in float32 and with int8 weights, side by side on this machine.

    python benchmarks/quantization.py                 perplexity, greedy text, memory and speed; minutes
    python benchmarks/quantization.py --tokens 8192   more text

The text is the recorded crawl of the Python documentation in workloads/crawl/, in windows of 512 tokens, each read from
its beginning. Greedy text is 64 tokens behind each of ten prompts. The third column shows what it would cost to round
embedding and output projection as well, which is not offered: their values are rounded, so it has no memory or speed of
its own. Speed is measured in turns; two CPU cores that do nothing else give steady figures.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from s2l_jax.models import registry
from s2l_jax.models.batch import RaggedBatch
from s2l_jax.models.llama import KVPages, Llama, init_kv_pages
from s2l_jax.models.paged_driver import PagedDriver
from s2l_jax.models.stream_encoder import common_prefix

TEXT = Path(__file__).parents[1] / "workloads" / "crawl" / "python_docs.jsonl"
WINDOW_TOKENS = 512
OUTPUT_TOKENS = 64
CONTEXT_TOKENS = 160  # of each sequence, when speed is measured
PAGE_TOKENS = 16
STEPS = {"decode of 1": (1, 1), "decode of 8": (8, 1), "decode of 32": (32, 1), "prefill of 512": (1, 512)}
PROMPTS = (
    "The capital of France is",
    "Write a short poem about the sea in winter.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "What is 17 + 25? Explain step by step.",
    "List three differences between TCP and UDP:\n1.",
    "Once upon a time, in a village between two rivers, there lived a clockmaker who",
    '{"name": "Ada Lovelace", "born": 1815, "occupation":',
    "In one sentence, photosynthesis is",
    "The theory of evolution by natural selection states that",
    "To boil an egg, first",
)


@dataclass(frozen=True)
class Quality:
    """What one model says.

    Attributes:
      perplexity: of the text.
      agreement: share of the text's positions where the likeliest token is that of the float32 model.
      equal_texts: greedy texts that equal the float32 model's.
      equal_tokens: mean length of the beginning that does.
    """

    perplexity: float
    agreement: float
    equal_texts: int
    equal_tokens: float


class RoundedVocabulary(Mapping[str, np.ndarray]):
    """Weights whose embedding and output projection have only values that int8 with scales could have."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> np.ndarray:
        value = self._weights[name]
        if "embed_tokens" not in name and "lm_head" not in name:
            return value
        scale = np.abs(value).max(axis=1, keepdims=True) / np.float32(127)
        return np.round(value / np.where(scale > 0, scale, 1)) * scale

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class Judge:
    """Compares models with one that it was given first."""

    def __init__(self, model: registry.LoadedModel, tokens: int) -> None:
        events = [json.loads(line) for line in TEXT.read_text(encoding="utf-8").splitlines()]
        text = "".join(event["text"] for event in events if event.get("op") == "append")
        ids = model.tokenizer.encode(text)[:tokens]
        self._windows = [ids[first : first + WINDOW_TOKENS] for first in range(0, len(ids), WINDOW_TOKENS)]
        self._prompts = [model.tokenizer.encode(prompt).tolist() for prompt in PROMPTS]
        self.tokens = sum(len(window) - 1 for window in self._windows)
        self._best: list[np.ndarray] = []
        self._texts: list[np.ndarray] = []

    def judge(self, model: Llama) -> Quality:
        """Reads the text and writes behind the prompts; the first model judged is what others are compared with."""
        driver = PagedDriver(model, WINDOW_TOKENS)
        surprise, best = 0.0, []
        for window in self._windows:
            driver.reset()
            logits = driver.feed(window.tolist())[:-1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            own = logits[np.arange(len(logits)), window[1:]]
            surprise += float((np.log(np.exp(logits).sum(axis=1)) - own).sum())
            best.append(logits.argmax(axis=1))
        texts = [np.array(driver.greedy(prompt, OUTPUT_TOKENS)[0]) for prompt in self._prompts]
        self._best, self._texts = self._best or best, self._texts or texts
        equal = [common_prefix(one, other) for one, other in zip(texts, self._texts, strict=True)]
        return Quality(
            perplexity=float(np.exp(surprise / self.tokens)),
            agreement=float(np.mean(np.concatenate(best) == np.concatenate(self._best))),
            equal_texts=sum(count == OUTPUT_TOKENS for count in equal),
            equal_tokens=float(np.mean(equal)),
        )


class Stepper:
    """Steps of one shape, each behind the same context."""

    def __init__(self, model: Llama, sequences: int, new_tokens: int) -> None:
        context = CONTEXT_TOKENS if new_tokens == 1 else 0
        per_sequence = -(-(context + new_tokens) // PAGE_TOKENS)
        pages = sequences * per_sequence
        tables = np.arange(pages, dtype=np.int32).reshape(sequences, per_sequence)
        positions = np.tile(context + np.arange(new_tokens, dtype=np.int32), sequences)
        owners = np.repeat(np.arange(sequences), new_tokens)
        self._batch = RaggedBatch(
            slots=jnp.asarray(tables[owners, positions // PAGE_TOKENS] * PAGE_TOKENS + positions % PAGE_TOKENS),
            block_tables=jnp.asarray(tables),
            cu_q_lens=jnp.arange(sequences + 1, dtype=jnp.int32) * new_tokens,
            kv_lens=jnp.full(sequences, context + new_tokens, jnp.int32),
            num_decodes=jnp.int32(sequences if new_tokens == 1 else 0),
            num_seqs=jnp.int32(sequences),
        )
        self._tokens, self._positions = jnp.ones(len(positions), jnp.int32), jnp.asarray(positions)
        self._pages = init_kv_pages(model.config, pages, PAGE_TOKENS, jnp.float32)
        self._last = jnp.arange(1, sequences + 1) * new_tokens - 1
        graph, self._state = nnx.split(model)

        def step(state: nnx.State, kv_pages: KVPages) -> tuple[jax.Array, KVPages]:
            model = nnx.merge(graph, state)
            hidden, kv_pages = model.hidden(self._tokens, self._positions, kv_pages, self._batch)
            return model.logits(hidden[self._last]).argmax(axis=1), kv_pages

        self._step = jax.jit(step, donate_argnums=1).lower(self._state, self._pages).compile()
        self.seconds()  # the first run takes longer

    def seconds(self) -> float:
        """Of one step."""
        began_s = time.perf_counter()
        token, self._pages = self._step(self._state, self._pages)
        token.block_until_ready()
        return time.perf_counter() - began_s


def speeds(models: Sequence[Llama], seconds: float) -> dict[str, list[float]]:
    """Tokens per second of each model, by step: the median of steps that take turns."""
    found = {}
    for name, (sequences, new_tokens) in STEPS.items():
        steppers = [Stepper(model, sequences, new_tokens) for model in models]
        runs: list[list[float]] = [[] for _ in models]
        end_s = time.perf_counter() + seconds * len(models)
        while time.perf_counter() < end_s:
            for stepper, times in zip(steppers, runs, strict=True):
                times.append(stepper.seconds())
        found[name] = [sequences * new_tokens / float(np.median(times)) for times in runs]
    return found


def weights_bytes(model: Llama) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))


@click.command(help=__doc__)
@click.option("--tokens", default=4096, show_default=True, help="Of text.")
@click.option("--seconds", default=5.0, show_default=True, help="Of steps, for each shape and model.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(tokens: int, seconds: float, json_path: Path | None) -> None:
    """Prints two tables."""
    loaded = registry.load("smollm2-135m", dtype="float32")
    plain, int8 = loaded.build(), replace(loaded, quantization="int8").build()
    rounded = replace(loaded, weights=RoundedVocabulary(loaded.weights), quantization="int8").build()
    judge = Judge(loaded, tokens)
    names = ("float32", "int8", "int8, vocabulary too")
    qualities = dict(zip(names, map(judge.judge, (plain, int8, rounded)), strict=True))
    console = Console()
    quality = Table("", *names, title=f"{loaded.config.name}: {judge.tokens} tokens of text, {len(PROMPTS)} prompts")
    quality.add_row("perplexity", *(f"{q.perplexity:.4f}" for q in qualities.values()))
    quality.add_row("same likeliest token", *(f"{q.agreement:.2%}" for q in qualities.values()))
    quality.add_row(f"same greedy text, {OUTPUT_TOKENS} tokens", *(f"{q.equal_texts}" for q in qualities.values()))
    quality.add_row("tokens until it differs, mean", *(f"{q.equal_tokens:.1f}" for q in qualities.values()))
    console.print(quality)
    del rounded
    rates = speeds((plain, int8), seconds)
    sizes = [weights_bytes(plain), weights_bytes(int8)]
    speed = Table("", "float32", "int8", "int8 / float32", title="weights and speed")
    speed.add_row("weights, MB", *(f"{size / 1e6:.1f}" for size in sizes), f"{sizes[1] / sizes[0]:.3f}")
    for name, (one, other) in rates.items():
        speed.add_row(f"{name}, tokens per second", f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}")
    console.print(speed)
    if json_path is not None:
        figures = {
            "text_tokens": judge.tokens,
            "quality": {name: asdict(q) for name, q in qualities.items()},
            "weights_bytes": sizes,
            "tokens_per_s": rates,
        }
        json_path.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
