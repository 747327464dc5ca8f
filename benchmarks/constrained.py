"""What constrained output costs: masks per token, and a token against the same session without a constraint.

    python benchmarks/constrained.py            # both tables, SmolLM2-135M; some minutes
    python benchmarks/constrained.py --masks    # masks alone, seconds

Masks are timed on recorded outputs. The second table is one server without a network: sessions of equal length decode
greedily, once as they please and once under an expression that any text matches, so that both do the same work but for
the constraint; then beside as many sessions without one.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Sequence

import numpy as np

from s2l_jax.core.constraint import Constraint
from s2l_jax.core.params import SamplingParams
from s2l_jax.models.grammar import GrammarCompiler
from s2l_jax.models.registry import load
from s2l_jax.models.tokenizer import Tokenizer
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.assembly import assemble
from serving.config import ServeConfig

_MODEL = "smollm2-135m"
_REPEATS = 3
_TOKENS = 64
_BATCHES = (1, 8)
_ANYTHING = Constraint.regex(r"(?s).*")
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "emails": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["friend", "colleague", "neighbour"]},
    },
    "required": ["name", "age", "emails", "kind"],
    "additionalProperties": False,
}
_ANSWER = '{"name": "Zoë Jones", "age": 41, "emails": ["zoe@example.org", "z@example.org"], "kind": "friend"}'
_CASES = (
    ("schema of four fields", Constraint.json(_PERSON), _ANSWER),
    ("any JSON object", Constraint.json_object(), _ANSWER),
    ("date", Constraint.regex(r"\d{4}-\d{2}-\d{2}"), "2026-11-26"),
    ("three to ten words", Constraint.regex(r"(\w+ ){2,9}\w+"), "the quick brown fox jumps over the lazy dog"),
    ("any text", _ANYTHING, "The quick brown fox jumps over the lazy dog.\n"),
    ("1000 choices", Constraint.choice([f"choice number {i}" for i in range(1000)]), "choice number 777"),
)


def masks(tokenizer: Tokenizer) -> None:
    """Prints what grammars cost."""
    start_s = time.perf_counter()
    GrammarCompiler(tokenizer).start(_ANYTHING)
    print(f"the first constraint, with a vocabulary of {tokenizer.vocab_size}: {time.perf_counter() - start_s:.2f} s\n")
    print(f"{'constraint':24}{'compile ms':>12}{'mask us P50':>14}{'P99':>8}{'tokens':>8}")
    for name, constraint, output in _CASES:
        ids = tokenizer.encode(output)
        compile_s, mask_s = [], []
        for _ in range(_REPEATS):
            compiler = GrammarCompiler(tokenizer)
            compiler.start(_ANYTHING)  # reads the vocabulary
            start_s = time.perf_counter()
            state = compiler.start(constraint)
            compile_s.append(time.perf_counter() - start_s)
            for end in range(len(ids)):
                start_s = time.perf_counter()
                state.mask(ids[:end])
                mask_s.append(time.perf_counter() - start_s)
        p50, p99 = np.percentile(mask_s, [50, 99]) * 1e6
        print(f"{name:24}{min(compile_s) * 1e3:12.1f}{p50:14.0f}{p99:8.0f}{len(ids):8}")


class _Sink:
    """Notes when tokens came."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.ended = threading.Event()

    def __call__(self, event: SinkEvent) -> None:
        self.times_s.append(time.perf_counter())
        if isinstance(event, FailedEvent):
            print(event.error)
        if isinstance(event, DoneEvent | FailedEvent):
            self.ended.set()

    @property
    def gap_s(self) -> float:
        """Between two tokens, in the mean of the session."""
        return (self.times_s[-2] - self.times_s[0]) / (len(self.times_s) - 2)


def _gaps_s(orchestrator: Orchestrator, kinds: Sequence[SamplingParams]) -> list[float]:
    """Runs one session of each kind, side by side."""
    sinks = []
    for number, params in enumerate(kinds):
        sink = _Sink()
        orchestrator.open(sink=sink, params=params, content=f"Story {number}. Once upon a time", final=True)
        sinks.append(sink)
    for sink in sinks:
        sink.ended.wait()
    return [sink.gap_s for sink in sinks]


def tokens(orchestrator: Orchestrator) -> None:
    """Prints what tokens cost."""
    free = SamplingParams(max_tokens=_TOKENS, ignore_eos=True)
    tied = SamplingParams(max_tokens=_TOKENS, ignore_eos=True, constraint=_ANYTHING)
    print(f"\n{'sessions':34}{'ms a token':>12}{'ratio':>8}")
    for batch in _BATCHES:
        kinds = {
            f"{batch} free": [free] * batch,
            f"{batch} constrained": [tied] * batch,
            f"{batch} constrained beside {batch} free": [*[tied] * batch, *[free] * batch],
            f"{batch} free beside {batch} constrained": [*[free] * batch, *[tied] * batch],
            f"{2 * batch} free": [free] * 2 * batch,
        }
        found: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(_REPEATS):  # in turn, so that all see the same machine
            for name, sessions in kinds.items():
                found[name].append(statistics.mean(_gaps_s(orchestrator, sessions)[:batch]))
        base = statistics.median(found[f"{batch} free"])
        for name, gaps_s in found.items():
            gap_s = statistics.median(gaps_s)
            print(f"{name:34}{gap_s * 1e3:12.1f}{gap_s / base:8.2f}")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", action="store_true", help="masks alone")
    options = parser.parse_args()
    masks(load(_MODEL, dtype="float32").tokenizer)
    if not options.masks:
        assembly = assemble(ServeConfig(model=_MODEL, max_model_len=512, max_batch=16, token_budget=64))
        tokens(assembly.orchestrator)
        assembly.orchestrator.close()


if __name__ == "__main__":
    main()
