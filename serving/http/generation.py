"""The sessions behind one request: one for each answer that it asks for."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from s2l_jax.core.errors import S2LError
from s2l_jax.core.outcome import Ack
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import Content, DoneEvent, FailedEvent, TokenEvent
from serving.http.backend import Backend
from serving.http.constrained import naming
from serving.http.requests import SamplingRequest
from serving.outbox import Outbox
from serving.tenants.account import Account


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to give.

    Attributes:
      content: the whole prompt.
      params: how to sample.
      add_bos: begin with the begin-of-sequence token.
    """

    content: Content
    params: SamplingParams
    add_bos: bool


class Generation:
    """All answers to one request, generated side by side. Whoever opens it closes it, however it went.

    Args:
      backend: the served model.
      account: whose request it is.
      request: says how urgent it is.
      jobs: what to generate, no more than `Backend.check_answers` allows.
    """

    def __init__(self, backend: Backend, account: Account, request: SamplingRequest, jobs: Sequence[Job]) -> None:
        self._samples = [_Sample(backend, account, request, job) for job in jobs]

    async def open(self) -> None:
        """Opens all sessions.

        Raises:
          S2LError: one was refused, so none is left.
        """
        try:
            for sample in self._samples:
                await sample.open()
        except BaseException:
            self.close()
            raise

    async def events(self) -> AsyncIterator[tuple[int, TokenEvent | DoneEvent]]:
        """What becomes of the answers, each event with its answer's index, until all are done.

        Raises:
          S2LError: one of the sessions failed.
        """
        if len(self._samples) == 1:
            async for event in self._samples[0].events():
                yield 0, event
            return
        merged: asyncio.Queue[tuple[int, TokenEvent | DoneEvent | FailedEvent]] = asyncio.Queue(maxsize=1)
        tasks = [asyncio.create_task(_pump(i, sample, merged)) for i, sample in enumerate(self._samples)]
        try:
            running = len(tasks)
            while running:
                index, one = await merged.get()
                if isinstance(one, FailedEvent):
                    raise one.error
                running -= isinstance(one, DoneEvent)
                yield index, one
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Ends the sessions that are still running."""
        for sample in self._samples:
            sample.close()


async def _pump(
    index: int, sample: "_Sample", merged: "asyncio.Queue[tuple[int, TokenEvent | DoneEvent | FailedEvent]]"
) -> None:
    try:
        async for event in sample.events():
            await merged.put((index, event))
    except S2LError as error:
        await merged.put((index, FailedEvent(error)))


class _Sample:
    """One answer: a session of its own."""

    def __init__(self, backend: Backend, account: Account, request: SamplingRequest, job: Job) -> None:
        self._backend = backend
        self._account = account
        self._request = request
        self._job = job
        self._outbox = Outbox()
        self._in_flight: Future[Ack] | None = None
        self._session_id: str | None = None

    async def open(self) -> None:
        """Opens the session; tokenization runs in the pool."""
        self._in_flight = self._backend.pool.submit(self._open)
        await asyncio.wrap_future(self._in_flight)

    def _open(self) -> Ack:
        with naming(self._request.constraint_field):
            ack = self._account.open(
                sink=self._outbox.sink,
                params=self._job.params,
                content=self._job.content,
                final=True,
                add_bos=self._job.add_bos,
                priority=self._request.priority or 0,
                first_token_within_s=self._request.first_token_within_s,
            )
        self._session_id = ack.session_id
        return ack

    async def events(self) -> AsyncIterator[TokenEvent | DoneEvent]:
        """Tokens, and the end."""
        while True:
            match await self._outbox.get():
                case TokenEvent() as event:
                    yield event
                case DoneEvent() as event:
                    yield event
                    return
                case FailedEvent(error=error):
                    raise error

    def close(self) -> None:
        """Ends the session if it is running, also one that a thread of the pool is just opening."""
        future = self._in_flight
        if future is not None and not future.done() and not future.cancel():
            future.add_done_callback(lambda _: self._cancel())
        else:
            self._cancel()

    def _cancel(self) -> None:
        if self._session_id is not None and not self._outbox.is_ended:
            self._account.cancel(self._session_id)
