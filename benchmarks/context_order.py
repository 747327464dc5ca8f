"""How much of a prompt do refined search results keep, in the retriever's order and in `order="stable"`?

    python benchmarks/context_order.py
    python benchmarks/context_order.py --search 200 --generated 200 --json out/context_order.json

Two streams of result lists go through `s2l.client.Context`'s assembly in both orders, without a server: real searches
(FanOutQA's questions over 10,033 Wikipedia passages, as `s2l trace search` makes them; packages of 93 MB are fetched
once and passages embedded once, which takes minutes), whose prompts are tokenized as SmolLM2 does, whole; and made-up
ones with the published sizes of Stream2LLM's vector search. Kept are tokens at the beginning of a prompt that the one
before has too; sent are the others. First lists, which keep nothing, are left out. A server with time to compute
each list computes what is sent, so `less to compute` is what stable order saves it after the first list.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from s2l_jax.core.tokens import common_prefix
from serving.client import Document, PromptPieces
from serving.client.context_assembly import ORDERS, Assembly, Order
from serving.client.context_documents import Room, as_it_stands

Lists = Sequence[Sequence[Document]]
_FIRST_CHARACTER = 0x10000  # of planes whose characters are all ordinary to Python


@dataclass(frozen=True, slots=True)
class Kept:
    """One workload in one order.

    Attributes:
      lists: lists after the first of their session.
      kept_tokens: beginnings that stayed, in sum.
      sent_tokens: all behind them.
      sessions_behind: sessions in which rank order kept more.
    """

    lists: int
    kept_tokens: int
    sent_tokens: int
    sessions_behind: int


@click.command(help=__doc__)
@click.option("--search", "questions", default=1035, show_default=True, help="Real searches; 0: none.")
@click.option("--generated", "sessions", default=500, show_default=True, help="Made-up searches; 0: none.")
@click.option("--results", default=10, show_default=True, help="Passages in a list of a real search.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
def main(questions: int, sessions: int, results: int, json_path: Path | None) -> None:
    console = Console()
    found: dict[str, dict[Order, Kept]] = {}
    if questions:
        found["real searches"] = measure(real_searches(questions, results), as_it_stands, _smollm2_tokens())
    if sessions:
        found["published sizes"] = measure(generated_searches(sessions), lambda one: one.text, _characters)
    for name, kept in found.items():
        console.print(_table(name, kept))
    if json_path:
        json_path.write_text(
            json.dumps({name: {o: asdict(k) for o, k in kept.items()} for name, kept in found.items()})
        )


def measure(
    searches: Iterator[Lists], render: Callable[[Document], str], tokens_of: Callable[[str], np.ndarray]
) -> dict[Order, Kept]:
    """Shows all lists in both orders.

    Args:
      searches: the lists of each session.
      render: a document as it stands in the prompt.
      tokens_of: the tokens of a prompt.
    """
    counts = {order: np.zeros(4, int) for order in ORDERS}
    for lists in searches:
        kept = {order: _session(order, lists, render, tokens_of) for order in ORDERS}
        for order in ORDERS:
            counts[order] += [*kept[order], kept[order][1] < kept["rank"][1]]
    return {order: Kept(*(int(count) for count in counts[order])) for order in ORDERS}


def _session(
    order: Order, lists: Lists, render: Callable[[Document], str], tokens_of: Callable[[str], np.ndarray]
) -> tuple[int, int, int]:
    """Lists after the first, and what was kept and sent for them."""
    assembly = Assembly(order, PromptPieces(), render, Room())
    before, steps, kept, sent = None, 0, 0, 0
    for documents in lists:
        assembly.apply(assembly.change(documents))
        tokens = tokens_of(assembly.text or "")
        if before is not None:
            same = common_prefix(before, tokens)
            steps, kept, sent = steps + 1, kept + same, sent + len(tokens) - same
        before = tokens
    return steps, kept, sent


def real_searches(questions: int, results: int) -> Iterator[Lists]:
    """What a search over Wikipedia's passages shows for each question, without lists equal to the one before."""
    from workloads.search.embeddings import embedded
    from workloads.search.minilm import MiniLm
    from workloads.search.packages import cache_dir
    from workloads.search.refinement import ProgressiveIndex
    from workloads.search.wikipedia import fanout_questions, wikipedia_passages

    console, cache = Console(stderr=True), cache_dir()
    passages = wikipedia_passages(cache, console.print)
    encoder = MiniLm.fetch(cache, console.print)
    vectors = embedded([f"{passage.title}: {passage.text}" for passage in passages], encoder, cache)
    asked = fanout_questions(cache, console.print)[:questions]
    refinement = ProgressiveIndex(vectors, 128, 0).refine(encoder.embed(asked), results)
    documents = [Document(one.text, str(place), one.title) for place, one in enumerate(passages)]
    for number in range(len(asked)):
        yield _without_repeats([[documents[at] for at in found[number] if at >= 0] for found in refinement.lists])


def generated_searches(sessions: int) -> Iterator[Lists]:
    """Lists of the generator, each document of as many equal characters, its own, as it has tokens."""
    from workloads.generate.anns import AnnsConfig, anns_sessions

    for session in anns_sessions(AnnsConfig(sessions=sessions)):
        updates = [event.parts or () for event in session.events if event.op == "update"]
        names = sorted({name for parts in updates for name, _ in parts[1:-1]})
        character = {name: chr(_FIRST_CHARACTER + number) for number, name in enumerate(names)}
        yield [[Document(character[name] * count, name) for name, count in parts[1:-1]] for parts in updates]


def _without_repeats(lists: Lists) -> Lists:
    return [documents for at, documents in enumerate(lists) if at == 0 or documents != lists[at - 1]]


def _characters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.int32)


def _smollm2_tokens() -> Callable[[str], np.ndarray]:
    from s2l_jax.models.registry import load

    return load("smollm2-135m").tokenizer.encode


def _table(name: str, kept: dict[Order, Kept]) -> Table:
    rank = kept["rank"]
    table = Table(title=f"{name}: {rank.lists:,} lists after the first", box=SIMPLE_HEAD, title_justify="left")
    for column in (
        "order",
        "kept",
        "tokens kept",
        "tokens sent",
        "less to compute",
        "sessions behind rank",
    ):
        table.add_column(column, justify="left" if column == "order" else "right")
    for order, one in kept.items():
        share = one.kept_tokens / max(1, one.kept_tokens + one.sent_tokens)
        less = 1 - one.sent_tokens / max(1, rank.sent_tokens)
        row = (order, f"{share:.1%}", f"{one.kept_tokens:,}", f"{one.sent_tokens:,}", f"{less:.1%}")
        table.add_row(*row, f"{one.sessions_behind:,}")
    return table


if __name__ == "__main__":
    main()
