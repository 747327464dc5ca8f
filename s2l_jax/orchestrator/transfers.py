"""Sessions on their way from one engine to another.

A session that has its first token waits until a generate engine has room for it (`Transfers.waiting`, served in order).
Then it is open in both schedulers, and its pages move in runs: the source's thread gathers a run, a transport copies
it, the target's thread scatters it. Neither thread waits for the other: each does what is due between two of its steps.
What can be sent before that is (`s2l_jax.orchestrator.ahead`), whenever no session waits for its pages.

Ownership. The registry's lock guards everything in here; pages move without it. Blocks of the source stay the session's
until the last run has been *started* to be gathered, for the device does that before any later step. Blocks of the
target are the session's from the beginning; if it ends on the way, whoever gets them writes to them in later steps of
the same thread that scatters, so a run that is scattered late does no harm, and one that is not yet, is not any more.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from s2l_jax.engine.buckets import copy_runs
from s2l_jax.orchestrator.ahead import Ahead
from s2l_jax.orchestrator.member import Member
from s2l_jax.orchestrator.open_session import OpenSession
from s2l_jax.orchestrator.run import Run
from s2l_jax.transport.protocol import KVTransport, Pages, Ticket

PAGES_UNDER_WAY = 256
"""Pages of one source that may be outside of any pool, unless a single run is longer."""


@dataclass(slots=True)
class Transfer:
    """One session's move.

    Attributes:
      session: which moves.
      source: where from.
      target: where to; the session's own member from the beginning of the transfer.
      due: runs that have not been gathered.
      under_way: runs that have been, in order, and have not been scattered; sent ahead, as far as they precede `due`.
      blocks: how many blocks of KV move now.
      landing: runs that are being scattered.
      holds_source: the session is still open at the source.
    """

    session: OpenSession
    source: Member
    target: Member
    blocks: int
    due: deque[Run] = field(default_factory=deque)
    under_way: deque[Run] = field(default_factory=deque)
    landing: int = 0
    holds_source: bool = True

    @property
    def has_come(self) -> bool:
        """True if the next run to scatter is there, or has failed."""
        pages = self.under_way[0].pages if self.under_way else None
        return pages is not None and pages.done()


class Transfers:
    """All transfers of an orchestrator. Every method needs the registry's lock, and none blocks.

    Attributes:
      transport: carries pages.
      ahead: what leaves before its session.
      waiting: sessions that wait for room elsewhere, in order.
    """

    def __init__(self, transport: KVTransport) -> None:
        self.transport = transport
        self.ahead = Ahead(transport)
        self.waiting: deque[OpenSession] = deque()
        self._moving: dict[str, Transfer] = {}

    def begin(self, session: OpenSession, target: Member, source_blocks: np.ndarray, target_blocks: np.ndarray) -> None:
        """A target has adopted a session, and wants the pages of `source_blocks` in `target_blocks`."""
        transfer = Transfer(session, session.member, target, len(target_blocks))
        for run in copy_runs(len(target_blocks)):
            transfer.due.append(Run(transfer, source_blocks[run], target_blocks[run]))
        under_way, transfer.landing = self.ahead.pass_on(session, transfer)
        transfer.under_way.extend(under_way)
        self._moving[session.id] = transfer
        session.member = target
        transfer.source.work.notify_all()

    def next_to_gather(self, source: Member) -> Run | Transfer | None:
        """What the source's thread should do: gather a run, or release a transfer that has none left; None: nothing.

        A run has been taken out with that; `gathered` is to follow.
        """
        for transfer in self._from(source):
            if transfer.due:
                return transfer.due.popleft() if self._has_room(source) else None
            if transfer.holds_source:
                return transfer
        return self.ahead.next_to_gather(source)

    def gathered(self, run: Run, ticket: Ticket, pages: "Future[Pages]") -> bool:
        """A run is on its way; False if its session is not, so that nobody will fetch it."""
        run.ticket, run.pages = ticket, pages
        transfer = run.move
        if not isinstance(transfer, Transfer):
            return self.ahead.gathered(run)
        if not self.is_moving(transfer):
            return False
        transfer.under_way.append(run)
        return True

    def release_source(self, transfer: Transfer) -> None:
        """Everything has been gathered: the source may use the session's blocks for others."""
        if transfer.holds_source:
            transfer.holds_source = False
            transfer.source.scheduler.cancel(transfer.session.id)

    def next_to_scatter(self, target: Member) -> Run | None:
        """The next run that has come for the target, taken out; None if there is none. `landed` is to follow."""
        for transfer in self._moving.values():
            if transfer.target is target and transfer.has_come:
                transfer.landing += 1
                return transfer.under_way.popleft()
        return self.ahead.next_to_scatter(target)

    def is_due(self, member: Member) -> bool:
        """True if there is anything to gather or to scatter for a member."""
        has_room = self._has_room(member)
        goes_first = any(transfer.due for transfer in self._from(member))
        return self.ahead.is_due(member, may_gather=not goes_first) or any(
            (transfer.source is member and transfer.holds_source and (has_room or not transfer.due))
            or (transfer.target is member and transfer.has_come)
            for transfer in self._moving.values()
        )

    def landed(self, run: Run) -> Transfer | None:
        """A run has been handed to the target's device; returns the transfer that it belongs to, if it does."""
        transfer = run.move
        if not isinstance(transfer, Transfer):
            self.ahead.landed(run)
            return None
        transfer.landing -= 1
        transfer.source.work.notify_all()  # there is room for more
        return transfer

    def is_complete(self, transfer: Transfer) -> bool:
        """True if all pages are where they belong; then the transfer is over."""
        is_over = not (transfer.due or transfer.under_way or transfer.landing or transfer.holds_source)
        if is_over and self.is_moving(transfer):
            del self._moving[transfer.session.id]
            return True
        return False

    def drop(self, session: OpenSession) -> bool:
        """Ends whatever is under way for a session; it stays open at its own member only.

        Returns:
          True if it was about to move.
        """
        self.ahead.drop(session)
        if session in self.waiting:
            self.waiting.remove(session)
            return True
        transfer = self._moving.pop(session.id, None)
        if transfer is None:
            return False
        if transfer.source.is_alive:
            self.release_source(transfer)
        for run in transfer.under_way:
            if run.ticket is not None:
                self.transport.withdraw(run.ticket)
        transfer.due.clear()
        transfer.under_way.clear()
        return True

    def touching(self, member: Member) -> list[Transfer]:
        """Those that need pages of a member's: to be gathered there, or scattered there at any time."""
        return [t for t in self._moving.values() if t.target is member or (t.source is member and t.holds_source)]

    def count_from(self, member: Member) -> int:
        """Sessions that wait at a member, or leave it."""
        return sum(session.member is member for session in self.waiting) + sum(1 for _ in self._from(member))

    def is_moving(self, transfer: Transfer) -> bool:
        """True unless it is over, or its session has ended or begun anew since."""
        return self._moving.get(transfer.session.id) is transfer

    def _has_room(self, source: Member) -> bool:
        """True unless as many pages of a source are under way as may be."""
        return sum(len(run.source) for t in self._from(source) for run in t.under_way) < PAGES_UNDER_WAY

    def _from(self, source: Member) -> Iterator[Transfer]:
        return (transfer for transfer in self._moving.values() if transfer.source is source)
