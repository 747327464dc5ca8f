"""Callback handlers for LangChain; importing this imports langchain-core."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document as LangChainDocument

from serving.client.adapters import langchain
from serving.client.adapters.runs import Runs
from serving.client.context import AsyncContext, Context


class ContextCallback(BaseCallbackHandler):
    """Shows what retrievers find; see `langchain.callback`. Errors of the session reach the chain's caller."""

    raise_error = True
    run_inline = True

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runs = Runs()

    def on_chain_start(self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any) -> None:
        """Remembers what the run is part of."""
        self._runs.start(run_id, parent_run_id)

    def on_retriever_start(self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any) -> None:
        """Remembers what the run is part of."""
        self._runs.start(run_id, parent_run_id)

    def on_retriever_end(self, documents: Sequence[LangChainDocument], *, run_id: UUID, **_: Any) -> None:
        """Shows all that is found now."""
        self._context.show(self._runs.found(run_id, langchain.to_documents(documents)))


class AsyncContextCallback(AsyncCallbackHandler):
    """`ContextCallback` for asyncio code."""

    raise_error = True
    run_inline = True

    def __init__(self, context: AsyncContext) -> None:
        self._context = context
        self._runs = Runs()

    async def on_chain_start(self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any) -> None:
        """Remembers what the run is part of."""
        self._runs.start(run_id, parent_run_id)

    async def on_retriever_start(self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any) -> None:
        """Remembers what the run is part of."""
        self._runs.start(run_id, parent_run_id)

    async def on_retriever_end(self, documents: Sequence[LangChainDocument], *, run_id: UUID, **_: Any) -> None:
        """Shows all that is found now."""
        await self._context.show(self._runs.found(run_id, langchain.to_documents(documents)))
