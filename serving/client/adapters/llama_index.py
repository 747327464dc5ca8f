"""LlamaIndex's retrievers, streamed into a `Context`.

```python
from s2l.client.adapters import llama_index

context = Context(session, order="stable", template=client.model().prompt)
# Shows what there is whenever one of them answers:
llama_index.retrieve(context, question, index.as_retriever(), keyword_retriever)
# Or, whenever this one is asked:
retriever.callback_manager.add_handler(llama_index.callback(context))
context.finish(question)
```
"""

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from s2l_jax.core.errors import FailedPrecondition
from serving.client.adapters.merging import find_all, find_all_async
from serving.client.context import AsyncContext, Context
from serving.client.context_documents import Document

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore

    from serving.client.adapters.llama_index_callback import ContextCallback


def to_documents(found: Iterable["NodeWithScore"]) -> list[Document]:
    """LlamaIndex's nodes as documents: id and content; the title is `title` or `file_name` of the metadata."""
    return [
        Document(
            one.node.get_content(),
            one.node.node_id,
            str(one.node.metadata.get("title") or one.node.metadata.get("file_name") or ""),
        )
        for one in found
    ]


def retrieve(context: Context, query: str, *retrievers: "BaseRetriever") -> list[Document]:
    """Asks all retrievers at once and shows what they have found whenever one of them answers.

    Args:
      context: where it is shown; `finish` is left to the caller.
      query: what to look for.
      retrievers: whom to ask.

    Returns:
      The last list that was shown, merged as `merging.Merger` says.

    Raises:
      InvalidArgument: there is no retriever.
      Exception: what a retriever raised; the context holds what the others had found before.
      S2LError: the session has failed.
    """

    def find(retriever: "BaseRetriever") -> list[Document]:
        return to_documents(retriever.retrieve(query))

    return find_all(context, [functools.partial(find, retriever) for retriever in retrievers])


async def aretrieve(context: AsyncContext, query: str, *retrievers: "BaseRetriever") -> list[Document]:
    """As `retrieve`, with the retrievers' `aretrieve`."""

    async def find(retriever: "BaseRetriever") -> list[Document]:
        return to_documents(await retriever.aretrieve(query))

    return await find_all_async(context, [functools.partial(find, retriever) for retriever in retrievers])


def callback(context: Context) -> "ContextCallback":
    """A callback handler that shows what a retriever with it finds, whenever it is asked.

    Use it for one question: it cannot tell for whom a retriever was asked. LlamaIndex calls handlers without waiting
    for them, so there is none for asyncio; use `aretrieve`.

    Raises:
      FailedPrecondition: llama-index-core is not installed.
    """
    try:
        from serving.client.adapters.llama_index_callback import ContextCallback
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "llama_index":
            raise
        raise FailedPrecondition(
            "llama-index-core is not installed, but its callbacks need it: pip install 's2l-jax[llama-index]'"
        ) from None
    return ContextCallback(context)
