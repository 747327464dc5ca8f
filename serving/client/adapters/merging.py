"""Several retrievers' lists as one, shown again whenever one of them answers."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from s2l_jax.core.errors import InvalidArgument
from serving.client.context import AsyncContext, Context
from serving.client.context_documents import Document

Find = Callable[[], list[Document]]
FindAsync = Callable[[], Awaitable[list[Document]]]
_RANK_OFFSET = 60


class Merger:
    """The latest list of each source as one list.

    By reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): a document scores 1 / (60 + rank) in each
    list it is in. Among equals the source of the lower number goes first, so the result does not depend on who
    answered first. One source's list stays as it is.
    """

    def __init__(self) -> None:
        self._lists: dict[int, Sequence[Document]] = {}

    def put(self, source: int, documents: Sequence[Document]) -> None:
        """Replaces what the source has found."""
        self._lists[source] = documents

    def drop(self, source: int) -> None:
        """Forgets the source."""
        self._lists.pop(source, None)

    def merged(self) -> list[Document]:
        """All that was found, best first, each document once, with the text of the first source that has it."""
        scores: dict[Hashable, float] = {}
        first: dict[Hashable, Document] = {}
        for _, documents in sorted(self._lists.items()):
            for rank, key in enumerate(dict.fromkeys(one.key for one in documents), start=1):
                scores[key] = scores.get(key, 0.0) + 1.0 / (_RANK_OFFSET + rank)
            for one in documents:
                first.setdefault(one.key, one)
        return sorted(first.values(), key=lambda one: -scores[one.key])


def find_all(context: Context, finders: Sequence[Find]) -> list[Document]:
    """Runs all finders at once, each in a thread of its own, and shows what there is whenever one of them returns.

    Returns:
      The last list that was shown, in the order of `Merger`.

    Raises:
      Exception: the first error of a finder, once the others have returned; the session goes on with what was shown.
      S2LError: the session has failed.
    """
    _require_some(finders)
    merger = Merger()
    with ThreadPoolExecutor(len(finders), "s2l-retrieve") as pool:
        # Callbacks and traces of the libraries hang on context variables.
        places = {pool.submit(contextvars.copy_context().run, find): place for place, find in enumerate(finders)}
        for future in as_completed(places):
            merger.put(places[future], future.result())
            context.show(merger.merged())
    return merger.merged()


async def find_all_async(context: AsyncContext, finders: Sequence[FindAsync]) -> list[Document]:
    """As `find_all`, in tasks; those that are under way when one fails are cancelled."""
    _require_some(finders)
    merger = Merger()

    async def numbered(place: int, find: FindAsync) -> tuple[int, list[Document]]:
        return place, await find()

    tasks = [asyncio.create_task(numbered(place, find)) for place, find in enumerate(finders)]
    try:
        for done in asyncio.as_completed(tasks):
            merger.put(*await done)
            await context.show(merger.merged())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return merger.merged()


def _require_some(finders: Sequence[object]) -> None:
    if not finders:
        raise InvalidArgument("there is no retriever to ask: name at least one")
