"""Shows a retriever's changing list of documents to a session such that the server computes little anew."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from s2l_jax.core.errors import FailedPrecondition
from serving.client.aio import AsyncSession
from serving.client.context_assembly import Assembly, Order
from serving.client.context_documents import Document, Room, as_it_stands
from serving.client.context_saved import Savings, Step, sum_of
from serving.client.prompt import PromptPieces
from serving.client.sync import Session
from serving.client.types import Accepted


class _Record:
    """What both kinds of context tell about themselves."""

    def __init__(self, assembly: Assembly, answers: Mapping[int, Accepted]) -> None:
        self._assembly = assembly
        self._answers = answers
        self._steps: list[Step] = []
        self._is_complete = False

    @property
    def documents(self) -> tuple[Document, ...]:
        """The documents in the prompt, in their order there."""
        return tuple(one.document for one in self._assembly.shown)

    @property
    def text(self) -> str:
        """The prompt up to its last document; empty before the first list."""
        return self._assembly.text or ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """All lists that were shown, with the server's account of those that it has answered."""
        return tuple(replace(step, saved=step.told(self._answers)) for step in self._steps)

    @property
    def savings(self) -> Savings:
        """All steps in sum. Complete when output has come, since the server answers in order."""
        return sum_of(self.steps)

    def _record(self, step: Step) -> Step:
        self._steps.append(step)
        return step

    def _require_open(self) -> None:
        if self._is_complete:
            raise FailedPrecondition("the question was asked; no list can be shown after it")

    @property
    def _last_seq(self) -> int:
        return self._steps[-1].seq if self._steps else 0

    def _ending(self, question: str) -> str:
        return self._assembly.template.tail(question)


class Context(_Record):
    """The prompt of a session, made of the latest list of documents that a retriever has found.

    ```python
    with Client() as client, client.session(SamplingParams(max_tokens=64)) as session:
        context = Context(session, order="stable", template=client.model().prompt)
        for documents in retriever.refine(question):  # each list replaces the one before
            context.show(documents)
        context.finish(question)
        print(session.result().text, context.savings)
    ```

    Each list is sent as the least change of the prompt before: `append` if it only grows, else `update` behind what
    both have in common. What the session was opened with is replaced by the first list. May be used from several
    threads; the last `show` wins.

    Args:
      session: an open session, which nothing else adds to.
      order: `rank` keeps the retriever's order, so only what precedes the first difference stays. `stable` leaves
        documents that are still in the list where they are, and puts new ones behind them: more stays, but the prompt's
        order is no longer the retriever's.
      template: what stands around the documents, such as `client.model().prompt`; open the session with its `add_bos`.
      render: a document as it stands in the prompt.
      max_documents: the first so many of each list are shown.
      max_tokens: as many of the first documents are shown as have so few tokens together.
      count_tokens: counts the tokens of a text, for `max_tokens`.

    Raises:
      InvalidArgument: no such order, or a limit below one.
    """

    def __init__(
        self,
        session: Session,
        *,
        order: Order = "rank",
        template: PromptPieces | None = None,
        render: Callable[[Document], str] = as_it_stands,
        max_documents: int | None = None,
        max_tokens: int | None = None,
        count_tokens: Callable[[str], int] | None = None,
    ) -> None:
        room = Room(max_documents, max_tokens, count_tokens)
        super().__init__(Assembly(order, template or PromptPieces(), render, room), session.accepted)
        self._session = session
        self._lock = threading.Lock()

    def show(self, documents: Iterable[Document | str]) -> Step:
        """Makes these the documents of the prompt; returns at once, before the server has answered.

        Args:
          documents: best first; a str is a document without id and title. Of two that are the same the first counts.

        Raises:
          InvalidArgument: something is neither a document nor text.
          FailedPrecondition: the question was asked, or the session is not open.
          S2LError: the session has failed.
        """
        with self._lock:
            self._require_open()
            change = self._assembly.change(documents)
            seq = self._last_seq
            if change.op == "append":
                seq = self._session.append(change.tail)
            elif change.op == "update":
                seq = self._session.update(change.tail, keep_chars=change.keep_chars)
            self._assembly.apply(change)
            return self._record(change.step(seq))

    def finish(self, question: str) -> None:
        """Puts the question behind the documents and declares the context complete: the answer starts.

        Raises:
          FailedPrecondition: it was asked before, or the session is not open.
          S2LError: the session has failed.
        """
        if not self._steps:
            self.show(())
        with self._lock:
            self._require_open()
            self._session.append(self._ending(question), final=True)
            self._is_complete = True


class AsyncContext(_Record):
    """`Context` for asyncio code; belongs to the event loop of its session.

    Arguments are those of `Context`, with a session of `AsyncClient`.
    """

    def __init__(
        self,
        session: AsyncSession,
        *,
        order: Order = "rank",
        template: PromptPieces | None = None,
        render: Callable[[Document], str] = as_it_stands,
        max_documents: int | None = None,
        max_tokens: int | None = None,
        count_tokens: Callable[[str], int] | None = None,
    ) -> None:
        room = Room(max_documents, max_tokens, count_tokens)
        super().__init__(Assembly(order, template or PromptPieces(), render, room), session.accepted)
        self._session = session
        self._lock = asyncio.Lock()

    async def show(self, documents: Iterable[Document | str]) -> Step:
        """As `Context.show`."""
        async with self._lock:
            self._require_open()
            change = self._assembly.change(documents)
            seq = self._last_seq
            if change.op == "append":
                seq = await self._session.append(change.tail)
            elif change.op == "update":
                seq = await self._session.update(change.tail, keep_chars=change.keep_chars)
            self._assembly.apply(change)
            return self._record(change.step(seq))

    async def finish(self, question: str) -> None:
        """As `Context.finish`."""
        if not self._steps:
            await self.show(())
        async with self._lock:
            self._require_open()
            await self._session.append(self._ending(question), final=True)
            self._is_complete = True
