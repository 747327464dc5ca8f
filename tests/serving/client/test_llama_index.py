"""LlamaIndex's retrievers and callbacks against a server; skipped where llama-index-core (260 MB) is not installed."""

import pytest

from serving.client import AsyncClient, AsyncContext, Client, Context, Document, SamplingParams
from serving.client.adapters import llama_index
from tests.serving.harness import run, threaded_world, world

retriever_module = pytest.importorskip("llama_index.core.base.base_retriever")
callbacks_module = pytest.importorskip("llama_index.core.callbacks")
schema = pytest.importorskip("llama_index.core.schema")

GREEDY = SamplingParams(max_tokens=4)


class Letters(retriever_module.BaseRetriever):
    """Finds letters."""

    def __init__(self, letters: str) -> None:
        super().__init__(callback_manager=callbacks_module.CallbackManager())
        self.letters = letters

    def _retrieve(self, query_bundle: object) -> list[object]:
        return [schema.NodeWithScore(node=schema.TextNode(text=letter, id_=letter)) for letter in self.letters]


def test_documents() -> None:
    node = schema.TextNode(text="text", id_="7", metadata={"file_name": "file"})
    assert llama_index.to_documents([schema.NodeWithScore(node=node)]) == [Document("text", "7", "file")]


def test_retrievers_and_callbacks() -> None:
    with threaded_world() as one, Client(one.target, timeout_s=20) as client:
        with client.session(GREEDY) as session:
            context = Context(session, order="stable", template=client.model().prompt)
            llama_index.retrieve(context, "q", Letters("ab"), Letters("bc"))
            assert {document.id for document in context.documents} == {*"abc"} and len(context.steps) == 2
            context.finish("why?")
            assert session.result().text == one.expected(context.text + "|why?>", 4)
        with client.session(GREEDY) as session:
            context = Context(session)
            retriever = Letters("ab")
            retriever.callback_manager.add_handler(llama_index.callback(context))
            retriever.retrieve("q")
            assert [document.id for document in context.documents] == [*"ab"]


def test_asyncio() -> None:
    async def test() -> None:
        async with (
            world() as one,
            AsyncClient(one.target, timeout_s=20) as client,
            client.session(GREEDY) as session,
        ):
            context = AsyncContext(session)
            found = await llama_index.aretrieve(context, "q", Letters("ab"), Letters("c"))
            assert [document.id for document in found] == [*"acb"]

    run(test)
