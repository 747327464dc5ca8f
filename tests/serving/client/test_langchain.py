"""LangChain's retrievers and callbacks against a server."""

import subprocess
import sys
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

from s2l_jax.core.errors import FailedPrecondition
from serving.client import AsyncClient, AsyncContext, Client, Context, Document, SamplingParams
from serving.client.adapters import langchain
from tests.serving.harness import run, threaded_world, world

GREEDY = SamplingParams(max_tokens=4)


class Letters(BaseRetriever):
    """Finds letters."""

    letters: str

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[LangChainDocument]:
        return [LangChainDocument(f"{query}{letter}", id=letter) for letter in self.letters]


class Ensemble(BaseRetriever):
    """Asks others and puts their lists behind each other."""

    retrievers: list[Letters]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[LangChainDocument]:
        config = {"callbacks": run_manager.get_child()}
        return [one for retriever in self.retrievers for one in retriever.invoke(query, config)]

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[LangChainDocument]:
        config = {"callbacks": run_manager.get_child()}
        return [one for retriever in self.retrievers for one in await retriever.ainvoke(query, config)]


def test_documents() -> None:
    found = [
        LangChainDocument("text", id="7", metadata={"title": "Title", "source": "file"}),
        LangChainDocument("text", metadata={"source": "file"}),
        LangChainDocument("text"),
    ]
    assert langchain.to_documents(found) == [
        Document("text", "7", "Title"),
        Document("text", None, "file"),
        Document("text"),
    ]


def test_retrievers_and_callbacks() -> None:
    with threaded_world() as one, Client(one.target, timeout_s=20) as client:
        with client.session(GREEDY) as session:
            context = Context(session, order="stable", template=client.model().prompt)
            langchain.retrieve(context, "q", Letters(letters="ab"), Letters(letters="bc"))
            assert {document.id for document in context.documents} == {*"abc"} and len(context.steps) == 2
            context.finish("why?")
            assert session.result().text == one.expected(context.text + "|why?>", 4)
        with client.session(GREEDY) as session:
            context = Context(session)
            chain = RunnableLambda(str.strip) | Ensemble(retrievers=[Letters(letters="a"), Letters(letters="bc")])
            chain.invoke(" q ", config={"callbacks": [langchain.callback(context)]})
            assert [step.documents for step in context.steps] == [1, 3, 3]
            assert [document.id for document in context.documents] == [*"abc"]


def test_asyncio() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target, timeout_s=20) as client:
            async with client.session(GREEDY) as session:
                context = AsyncContext(session)
                found = await langchain.aretrieve(context, "q", Letters(letters="ab"), Letters(letters="c"))
                assert [document.id for document in found] == [*"acb"]
            async with client.session(GREEDY) as session:
                context = AsyncContext(session)
                ensemble = Ensemble(retrievers=[Letters(letters="a"), Letters(letters="bc")])
                await ensemble.ainvoke("q", config={"callbacks": [langchain.acallback(context)]})
                assert [document.id for document in context.documents] == [*"abc"]

    run(test)


def test_a_session_that_failed_is_told_to_the_chain() -> None:
    with threaded_world() as one, Client(one.target, timeout_s=20) as client, client.session(GREEDY) as session:
        context = Context(session)
        context.finish("why?")
        with pytest.raises(FailedPrecondition, match="asked"):
            Letters(letters="a").invoke("q", config={"callbacks": [langchain.callback(context)]})
        session.result()


@pytest.mark.parametrize(
    ("adapter", "library", "extra"),
    [("langchain", "langchain_core", "langchain"), ("llama_index", "llama_index", "llama-index")],
)
def test_without_the_library(adapter: str, library: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules['{library}'] = None\n"
        f"from s2l.client.adapters import {adapter}\n"
        "from s2l_jax.core.errors import FailedPrecondition\n"
        f"try: {adapter}.callback(None)\n"
        "except FailedPrecondition as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"pip install 's2l-jax[{extra}]'" in out
