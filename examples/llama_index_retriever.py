"""Answers a question from two LlamaIndex retrievers in asyncio code, and computes what one found while the other looks.

pip install 's2l-jax[llama-index]'
s2l serve --model tiny-random &      # or a model that knows something
python examples/llama_index_retriever.py
"""

import argparse
import asyncio

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from s2l.client import AsyncClient, AsyncContext, SamplingParams
from s2l.client.adapters import llama_index

NOTES = {
    "Mia": "Mia is a cat. She is six years old and lives in Lyon.",
    "Rex": "Rex is a dog. He is afraid of Mia.",
    "Tom": "Tom is a parrot. He repeats what Rex barks.",
    "Lyon": "Lyon is a city on the Rhone and the Saone.",
}


class NotesRetriever(BaseRetriever):
    """Finds the notes that share most words with a question, after a wait."""

    def __init__(self, wait_s: float, limit: int) -> None:
        super().__init__()
        self._wait_s = wait_s
        self._limit = limit

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        words = set(query_bundle.query_str.lower().strip("?").split())
        scores = {title: len(words & set(text.lower().strip(".").split())) for title, text in NOTES.items()}
        return [
            NodeWithScore(node=TextNode(text=NOTES[title], id_=title, metadata={"title": title}), score=scores[title])
            for title in sorted(scores, key=lambda title: -scores[title])[: self._limit]
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        await asyncio.sleep(self._wait_s)
        return self._retrieve(query_bundle)


async def main() -> None:
    """Asks, and says what the order of documents saved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="grpc://127.0.0.1:9000")
    parser.add_argument("--question", default="Who is afraid of Mia?")
    args = parser.parse_args()
    async with AsyncClient(args.target, timeout_s=120) as client:
        template = (await client.model()).prompt
        async with client.session(SamplingParams(max_tokens=32), add_bos=template.add_bos) as session:
            context = AsyncContext(session, order="stable", template=template, max_documents=4)
            await context.show(())  # what stands before the documents is computed while the retrievers look
            slow, quick = NotesRetriever(wait_s=1.0, limit=3), NotesRetriever(wait_s=0.0, limit=1)
            await llama_index.aretrieve(context, args.question, slow, quick)
            await context.finish(args.question)
            async for token in session.tokens():
                print(token.text, end="", flush=True)
            done = (await session.result()).done
    print(
        f"\n\n{done.prompt_tokens} tokens of prompt; first token {1000 * done.ttft_final_s:.0f} ms after the last list"
    )
    for step in context.steps:
        print(f"{step.documents} documents: {step.saved}")
    print(f"rank order would have kept about {context.savings.rank_kept_tokens} tokens")


if __name__ == "__main__":
    asyncio.run(main())
