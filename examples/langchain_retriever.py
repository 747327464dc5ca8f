"""Answers a question from two LangChain retrievers, and computes what the quick one found while the slow one looks.

pip install 's2l-jax[langchain]'
s2l serve --model tiny-random &      # or a model that knows something
python examples/langchain_retriever.py
"""

import argparse
import time
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from s2l.client import Client, Context, SamplingParams
from s2l.client.adapters import langchain

NOTES = {
    "Mia": "Mia is a cat. She is six years old and lives in Lyon.",
    "Rex": "Rex is a dog. He is afraid of Mia.",
    "Tom": "Tom is a parrot. He repeats what Rex barks.",
    "Lyon": "Lyon is a city on the Rhone and the Saone.",
}


class NotesRetriever(BaseRetriever):
    """Finds the notes that share most words with a question, after a wait."""

    wait_s: float
    limit: int

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        time.sleep(self.wait_s)
        words = set(query.lower().strip("?").split())
        found = sorted(NOTES, key=lambda title: -len(words & set(NOTES[title].lower().strip(".").split())))
        return [Document(NOTES[title], id=title, metadata={"title": title}) for title in found[: self.limit]]


def main() -> None:
    """Asks, and says what the order of documents saved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="grpc://127.0.0.1:9000")
    parser.add_argument("--question", default="Who is afraid of Mia?")
    args = parser.parse_args()
    with Client(args.target, timeout_s=120) as client:
        template = client.model().prompt
        with client.session(SamplingParams(max_tokens=32), add_bos=template.add_bos) as session:
            context = Context(session, order="stable", template=template, max_documents=4)
            context.show(())  # what stands before the documents is computed while the retrievers look
            quick, slow = NotesRetriever(wait_s=0.0, limit=1), NotesRetriever(wait_s=1.0, limit=3)
            langchain.retrieve(context, args.question, slow, quick)
            context.finish(args.question)
            for token in session.tokens():
                print(token.text, end="", flush=True)
            done = session.result().done
    print(
        f"\n\n{done.prompt_tokens} tokens of prompt; first token {1000 * done.ttft_final_s:.0f} ms after the last list"
    )
    for step in context.steps:
        print(f"{step.documents} documents: {step.saved}")
    print(f"rank order would have kept about {context.savings.rank_kept_tokens} tokens")


if __name__ == "__main__":
    main()
