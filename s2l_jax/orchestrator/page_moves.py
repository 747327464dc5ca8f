"""Moves the pages of sessions that go from engine to engine: one engine's part of it, on its thread."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from s2l_jax.orchestrator.failures import emit_failures
from s2l_jax.orchestrator.member import Member
from s2l_jax.orchestrator.recovery import Recovery
from s2l_jax.orchestrator.registry import Registry
from s2l_jax.orchestrator.run import Run
from s2l_jax.orchestrator.transfers import Transfer
from s2l_jax.transport.protocol import Pages

_log = logging.getLogger(__name__)
_PAGES_A_TURN = 64
"""Scattered between two steps at most, so that those who are decoding do not wait long for those who come."""


class PageMoves:
    """Gathers what leaves an engine and scatters what comes.

    Only the engine's thread calls `serve`, with the registry's lock released.
    """

    def __init__(self, member: Member, registry: Registry, clock: Callable[[], float]) -> None:
        self._member = member
        self._registry = registry
        self._recovery = Recovery(registry)
        self._transfers = registry.fleet.transfers
        self._clock = clock

    def serve(self) -> None:
        """Does what is due; the rest of the engine's work comes behind it on the device.

        Raises:
          InternalError: pages could not be scattered, and outstanding steps were dropped: see `PageAccess.scatter`.
        """
        with self._registry.lock:
            self._registry.fleet.place_waiting(self._clock())  # what has just ended here leaves before the next step
        while (run := self._next_to_gather()) is not None:
            self._send(run)
        pages = 0
        while pages < _PAGES_A_TURN and (run := self._next_to_scatter()) is not None:
            self._take(run)
            pages += len(run.target)

    def _next_to_gather(self) -> Run | None:
        with self._registry.lock:
            while isinstance(task := self._transfers.next_to_gather(self._member), Transfer):
                self._transfers.release_source(task)
                self._registry.arrive_if_complete(task, self._clock())
            return task

    def _next_to_scatter(self) -> Run | None:
        with self._registry.lock:
            return self._transfers.next_to_scatter(self._member)

    def _send(self, run: Run) -> None:
        target, transport = run.move.target, self._transfers.transport
        try:
            ticket = transport.offer(self._member.pages.gather(run.source.tolist()))
            pages = transport.fetch(ticket, target.pages.place)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this session's only, which has a way out
            self._give_up(run, error)
            return
        with self._registry.lock:
            is_wanted = self._transfers.gathered(run, ticket, pages)
            self._registry.counters.ahead_blocks += 0 if isinstance(run.move, Transfer) else len(run.source)
        if is_wanted:
            pages.add_done_callback(partial(self._wake, target))
        else:
            transport.withdraw(ticket)

    def _take(self, run: Run) -> None:
        assert run.pages is not None
        try:
            pages = run.pages.result()
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(run, error)
            return
        try:
            self._member.pages.scatter(run.target.tolist(), pages)
        except Exception as error:
            self._give_up(run, error)
            raise
        with self._registry.lock:
            transfer = self._transfers.landed(run)
            if transfer is not None:
                self._registry.arrive_if_complete(transfer, self._clock())

    def _give_up(self, run: Run, error: BaseException) -> None:
        """The session is computed again; if it has not moved yet, the run will move with the others."""
        move = run.move
        _log.error("pages of session %s did not get from engine %s to %s", move.session.id, move.source, move.target,
                   exc_info=error, extra={"session": move.session.id})  # fmt: skip
        with self._registry.lock:
            failures = self._recovery.lose_run(run, self._clock())
        emit_failures(failures)

    def _wake(self, target: Member, _: "Future[Pages]") -> None:
        with self._registry.lock:
            target.work.notify_all()
