"""LangChain's retrievers, streamed into a `Context`.

```python
from s2l.client.adapters import langchain

context = Context(session, order="stable", template=client.model().prompt)
# Shows what there is whenever one of them answers:
langchain.retrieve(context, question, vector_store.as_retriever(), web_retriever)
# Or, for whatever retrievers a chain has:
chain.invoke(question, config={"callbacks": [langchain.callback(context)]})
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
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.retrievers import RetrieverLike

    from serving.client.adapters.langchain_callback import AsyncContextCallback, ContextCallback


def to_documents(found: Iterable["LangChainDocument"]) -> list[Document]:
    """LangChain's documents as ours: `id` and `page_content`; the title is `title` or `source` of the metadata."""
    return [
        Document(one.page_content, one.id, str(one.metadata.get("title") or one.metadata.get("source") or ""))
        for one in found
    ]


def retrieve(context: Context, query: str, *retrievers: "RetrieverLike") -> list[Document]:
    """Asks all retrievers at once and shows what they have found whenever one of them answers.

    Args:
      context: where it is shown; `finish` is left to the caller.
      query: what to look for.
      retrievers: anything whose `invoke` takes a query and returns documents.

    Returns:
      The last list that was shown, merged as `merging.Merger` says.

    Raises:
      InvalidArgument: there is no retriever.
      Exception: what a retriever raised; the context holds what the others had found before.
      S2LError: the session has failed.
    """

    def find(retriever: "RetrieverLike") -> list[Document]:
        return to_documents(retriever.invoke(query))

    return find_all(context, [functools.partial(find, retriever) for retriever in retrievers])


async def aretrieve(context: AsyncContext, query: str, *retrievers: "RetrieverLike") -> list[Document]:
    """As `retrieve`, with the retrievers' `ainvoke`."""

    async def find(retriever: "RetrieverLike") -> list[Document]:
        return to_documents(await retriever.ainvoke(query))

    return await find_all_async(context, [functools.partial(find, retriever) for retriever in retrievers])


def callback(context: Context) -> "ContextCallback":
    """A callback handler that shows what any retriever of a chain finds, as it finds it.

    What a retriever found that asked others (an ensemble, several queries for one) replaces what those had found.

    Raises:
      FailedPrecondition: langchain-core is not installed.
    """
    try:
        from serving.client.adapters.langchain_callback import ContextCallback
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return ContextCallback(context)


def acallback(context: AsyncContext) -> "AsyncContextCallback":
    """As `callback`, for `ainvoke` and its like.

    Raises:
      FailedPrecondition: langchain-core is not installed.
    """
    try:
        from serving.client.adapters.langchain_callback import AsyncContextCallback
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return AsyncContextCallback(context)


def _missing(error: ModuleNotFoundError) -> Exception:
    if error.name is None or error.name.partition(".")[0] != "langchain_core":
        return error
    return FailedPrecondition(
        "langchain-core is not installed, but its callbacks need it: pip install 's2l-jax[langchain]'"
    )
