"""The engine in this process, behind its orchestrator but without a network."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from s2l_jax.core.costs import CostModel
from s2l_jax.core.errors import InternalError, S2LError
from s2l_jax.core.outcome import Ack
from s2l_jax.core.params import SamplingParams
from s2l_jax.engine.protocol import Engine
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, ProgressEvent, Sink, SinkEvent, TokenEvent
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.assembly import Assembly, assemble
from serving.assembly import Progress as AssemblyProgress
from serving.client.types import Done, Progress, Token
from serving.client.types import Event as Reply
from serving.config import ServeConfig
from workloads.replay.target import Piece, TargetCounters, TargetInfo


class EngineTarget:
    """Loads a model on entering, sends sessions straight to its orchestrator, ends it on leaving.

    Sinks run on the engine's thread and only hand over to the event loop.
    """

    def __init__(
        self,
        config: ServeConfig,
        progress: AssemblyProgress | None = None,
        *,
        wrap_engine: Callable[[Engine], Engine] | None = None,
        costs: CostModel | None = None,
    ) -> None:
        """Loads nothing yet.

        Args:
          config: what to run.
          progress: told how far loading and compiling are.
          wrap_engine: as `assemble`.
          costs: as `assemble`.
        """
        self.name = "engine"
        self._config = config
        self._progress = progress
        self._wrap_engine = wrap_engine
        self._given_costs = costs
        self._assembly: Assembly

    async def __aenter__(self) -> Self:
        self._assembly = await asyncio.to_thread(
            assemble, self._config, self._progress, wrap_engine=self._wrap_engine, costs=self._given_costs
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._assembly.orchestrator.close)

    @property
    def costs(self) -> CostModel:
        """What the scheduler reckons with."""
        return self._assembly.costs

    @property
    def orchestrator(self) -> Orchestrator:
        """Between entering and leaving."""
        return self._assembly.orchestrator

    async def info(self) -> TargetInfo:
        """What the engine serves."""
        model = self._assembly.model
        return TargetInfo(model.name, model.vocab_size, self._config.policy, model.server_version)

    async def counters(self) -> TargetCounters:
        """The orchestrator's counters."""
        stats = self._assembly.orchestrator.stats().scheduler
        return TargetCounters(stats.steps, asdict(stats.preemptions))

    async def run(self, session_id: str, params: SamplingParams, pieces: AsyncIterator[Piece]) -> AsyncIterator[Reply]:
        """See `Target.run`."""
        orchestrator = self._assembly.orchestrator
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[SinkEvent] = asyncio.Queue()

        def sink(event: SinkEvent) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        first = await anext(pieces)
        ack = await self._open(session_id, params, first, sink)
        sender = asyncio.create_task(_send(orchestrator, ack.session_id, pieces, sink))
        try:
            while True:
                event = await events.get()
                if isinstance(event, FailedEvent):
                    raise event.error
                yield _reply(event)
                if isinstance(event, DoneEvent):
                    return
        finally:
            orchestrator.cancel(ack.session_id)  # no error if it has ended
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sender

    async def _open(self, session_id: str, params: SamplingParams, first: Piece, sink: Sink) -> Ack:
        """Opens a session; if that is cancelled, what the thread has opened by then is closed again."""
        orchestrator = self._assembly.orchestrator
        opening = asyncio.create_task(
            asyncio.to_thread(
                orchestrator.open,
                sink=sink,
                params=params,
                content=first.wire_content,
                session_id=session_id,
                final=first.final,
            )
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(S2LError):
                orchestrator.cancel((await opening).session_id)
            raise


async def _send(orchestrator: Orchestrator, session_id: str, pieces: AsyncIterator[Piece], sink: Sink) -> None:
    """Sends what follows the open; an event that is refused ends the session."""
    try:
        async for piece in pieces:
            if piece.op == "update":
                await asyncio.to_thread(
                    orchestrator.update,
                    session_id,
                    piece.wire_content,
                    keep_tokens=piece.keep_tokens,
                    keep_chars=piece.keep_chars,
                    final=piece.final,
                )
            else:
                await asyncio.to_thread(orchestrator.append, session_id, piece.wire_content, final=piece.final)
    except S2LError as error:
        sink(FailedEvent(error))
    except Exception as error:
        sink(FailedEvent(InternalError(f"the replay cannot send: {error!r}")))
        raise


def _reply(event: TokenEvent | ProgressEvent | DoneEvent) -> Reply:
    """The event as the client library would give it."""
    match event:
        case TokenEvent():
            return Token(event.ids, event.text, event.logprobs, event.top)
        case ProgressEvent():
            return Progress(event.computed_tokens, event.context_tokens)
        case DoneEvent():
            return Done(event.finish_reason, **_without_none(asdict(event.stats)))


def _without_none(stats: dict[str, Any]) -> dict[str, Any]:
    """A session that ended before its first token has no TTFT, which the wire, too, says with 0."""
    return {key: value or 0 for key, value in stats.items()}
