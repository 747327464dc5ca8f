"""Is the model right? Greedy text and logits beside transformers on torch, float32, with the same weights.

    python benchmarks/oracle_greedy.py                 smollm2-135m: 10 prompts, plain and as a chat, 64 tokens each,
                                                       through paged KV by a minimal driver and by the engine
    python benchmarks/oracle_greedy.py --families      a small random checkpoint of each supported family

The other side runs in an environment of its own, which the first run makes under the cache directory (1.2 GB).
Where texts differ, the gap between the two best logits there says whether it is a near tie.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, Sample, StepPlan
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.models import registry
from s2l_jax.models.hf_config import config_from_hf
from s2l_jax.models.llama import Llama
from s2l_jax.models.paged_driver import PagedDriver
from s2l_jax.models.safetensors_file import open_weights
from s2l_jax.models.stream_encoder import common_prefix

PEER = Path(__file__).with_name("oracle_peer.py")
PEER_PACKAGES = ("torch==2.13.0", "transformers==5.23.0", "safetensors==0.8.0")
OUTPUT_TOKENS = 64
BLOCK_SIZE = 16
CHUNK = 64
NEAR_TIE = 1e-3
SESSION, SLOT = SessionId("oracle"), SlotId(0)
PROMPTS = (
    "The capital of France is",
    "Write a short poem about the sea in winter.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "What is 17 + 25? Explain step by step.",
    "Résumé en français : la bibliothèque d'Alexandrie était",
    "List three differences between TCP and UDP:\n1.",
    "Once upon a time, in a village between two rivers, there lived a clockmaker who",
    '{"name": "Ada Lovelace", "born": 1815, "occupation":',
    "Photosynthesis converts light into chemical energy. " * 12 + "In one sentence, photosynthesis is",
    "日本の首都は",
)


@dataclass(frozen=True)
class Comparison:
    """One prompt, both sides; gaps are between the best and the second-best logit."""

    prompt: str
    form: str
    prompt_tokens: int
    equal_tokens: int
    engine_equal_tokens: int
    peer_gap: float | None
    our_gap: float | None
    max_logit_difference: float
    text: str

    @property
    def agrees(self) -> bool:
        """Equal, or first different where the peer could hardly choose; the engine as the driver."""
        like_driver = self.engine_equal_tokens == self.equal_tokens
        return like_driver and (self.peer_gap is None or self.peer_gap < NEAR_TIE)


class EngineDriver:
    """Greedy decoding through the engine: chunks of a prompt, then one token a step."""

    def __init__(self, model: Llama, max_tokens: int) -> None:
        blocks = -(-max_tokens // BLOCK_SIZE)
        self._blocks = np.arange(blocks, dtype=np.int32)[::-1].copy()
        sizes = EngineConfig(blocks, BLOCK_SIZE, CHUNK, 1, 1, blocks * BLOCK_SIZE)
        self._engine = JaxEngine(model, model.config, sizes)
        self._engine.warmup()

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The most likely continuation."""
        tokens, computed = list(prompt), 0
        while len(tokens) < len(prompt) + count:
            part = np.array(tokens[computed : computed + CHUNK], np.int32)
            end = computed + len(part)
            chunk = Chunk(SESSION, SLOT, computed, part, self._blocks[: -(-end // BLOCK_SIZE)])
            sample = Sample(SESSION, SLOT, SamplingParams(max_tokens=count), 0, end, None, len(prompt))
            samples = (sample,) if end == len(tokens) else ()
            result = self._engine.execute(StepPlan(end, (chunk,), samples))
            tokens += [token.token_id for token in result.tokens]
            computed = end
        return tokens[len(prompt) :]


def compare_greedy(cache_dir: Path, report: Callable[[str], None]) -> list[Comparison]:
    """Runs both sides on all prompts."""
    loaded = registry.load("smollm2-135m", dtype="float32", cache_dir=cache_dir)
    template = loaded.chat_template
    assert template is not None
    texts = [("plain", text, text) for text in PROMPTS]
    texts += [("chat", text, template.render([{"role": "user", "content": text}])) for text in PROMPTS]
    prompts = [loaded.tokenizer.encode(rendered).tolist() for _, _, rendered in texts]
    with tempfile.TemporaryDirectory() as work:
        job = Path(work) / "job.json"
        job.write_text(json.dumps({"prompts": prompts, "tokens": OUTPUT_TOKENS}))
        report("transformers is generating")
        assert loaded.directory is not None
        run_peer(cache_dir, "greedy", str(loaded.directory), str(job), work)
        report("s2l is generating")
        longest = max(map(len, prompts)) + OUTPUT_TOKENS
        model = loaded.build()
        driver, engine = PagedDriver(model, longest), EngineDriver(model, longest)
        results = []
        for index, (form, text, _) in enumerate(texts):
            peer = np.load(Path(work) / f"{index}.npz")
            tokens, rows = driver.greedy(prompts[index], OUTPUT_TOKENS)
            driver.reset()
            forced = driver.feed([*prompts[index], *peer["tokens"][:-1].tolist()])[-OUTPUT_TOKENS:]
            equal = common_prefix(np.array(tokens), peer["tokens"])
            differs = equal < OUTPUT_TOKENS
            results.append(
                Comparison(
                    prompt=text,
                    form=form,
                    prompt_tokens=len(prompts[index]),
                    equal_tokens=equal,
                    engine_equal_tokens=common_prefix(
                        np.array(engine.greedy(prompts[index], OUTPUT_TOKENS)), peer["tokens"]
                    ),
                    peer_gap=gap(peer["logits"][equal]) if differs else None,
                    our_gap=gap(rows[equal]) if differs else None,
                    max_logit_difference=float(np.abs(forced - peer["logits"]).max()),
                    text=loaded.tokenizer.decode(tokens),
                )
            )
    return results


def compare_families(directory: Path) -> dict[str, float]:
    """Largest logit difference of each checkpoint that the peer has written into a directory."""
    differences = {}
    for target in sorted(path for path in directory.iterdir() if path.is_dir()):
        config = config_from_hf(json.loads((target / "config.json").read_text()), target.name)
        driver = PagedDriver(Llama.from_weights(config, open_weights(target), jnp.float32), 64)
        expected = np.load(target / "expected.npz")
        difference = np.abs(driver.feed(expected["tokens"].tolist()) - expected["logits"])
        differences[target.name] = float(difference.max())
    return differences


def gap(logits: np.ndarray) -> float:
    """How far the best logit is above the second best."""
    second, best = np.partition(logits, -2)[-2:]
    return float(best - second)


def run_peer(cache_dir: Path, *arguments: str) -> None:
    """Runs oracle_peer.py in its environment, which is made first if it is not there."""
    python = cache_dir / "oracle-venv" / "bin" / "python"
    if not python.is_file():
        interpreter = shutil.which("python3.11") or shutil.which("python3")
        if interpreter is None:
            raise click.ClickException("no python3 on PATH to make the peer's environment with")
        subprocess.run([interpreter, "-m", "venv", str(python.parents[1])], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
    subprocess.run([python, str(PEER), *arguments], check=True)


def greedy_table(results: list[Comparison]) -> Table:
    table = Table(
        "form",
        "prompt",
        "prompt tokens",
        "equal tokens",
        "by the engine",
        "gap there (peer, ours)",
        "max logit difference",
    )
    table.columns[1].no_wrap = True
    for r in results:
        gaps = "" if r.peer_gap is None else f"{r.peer_gap:.1e}, {r.our_gap:.1e}"
        equal = f"{r.equal_tokens} of {OUTPUT_TOKENS}"
        prompt = r.prompt[:30].replace("\n", " ")
        table.add_row(
            r.form,
            prompt,
            str(r.prompt_tokens),
            equal,
            str(r.engine_equal_tokens),
            gaps,
            f"{r.max_logit_difference:.1e}",
        )
    return table


@click.command()
@click.option("--families", is_flag=True, help="Compare a small random checkpoint of each family instead.")
@click.option("--fixtures", type=click.Path(path_type=Path), help="With --families: keep the checkpoints here.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), default=registry.default_cache_dir, help="Default ~/.cache/s2l"
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(families: bool, fixtures: Path | None, cache_dir: Path, json_path: Path | None) -> None:
    """Compare greedy text and logits with transformers on torch."""
    console = Console()
    if families:
        with tempfile.TemporaryDirectory() as work:
            run_peer(cache_dir, "families", work)
            differences = compare_families(Path(work))
            if fixtures is not None:
                shutil.copytree(work, fixtures, dirs_exist_ok=True)
        table = Table("family", "max logit difference")
        for name, difference in differences.items():
            table.add_row(name, f"{difference:.1e}")
        good, figures = max(differences.values()) < NEAR_TIE, differences
    else:
        results = compare_greedy(cache_dir, console.print)
        table = greedy_table(results)
        good, figures = all(r.agrees for r in results), [asdict(r) for r in results]
    console.print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=1, ensure_ascii=False))
    if not good:
        raise click.ClickException("the two sides differ by more than a near tie")


if __name__ == "__main__":
    main()
