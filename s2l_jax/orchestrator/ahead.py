"""Full blocks that leave for the engine that will generate while their session's context is still being computed.

So only the tail is left to move once the first token is there. What is sent is named by content
(`s2l_jax.core.inflow`), and nothing else connects it with its session: an update that changes the context cannot make
it wrong, only useless. Then it is the first that its target overwrites, as when its session ends without moving.

Ownership is that of `s2l_jax.orchestrator.transfers`, but for one thing: the session may lose blocks before they are
gathered, so the source's thread looks up where they are, just before it gathers them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from s2l_jax.core.inflow import Expected, content_of, full_blocks
from s2l_jax.core.keys import BlockKey
from s2l_jax.engine.buckets import COPIED_PAGES
from s2l_jax.orchestrator.member import Member
from s2l_jax.orchestrator.open_session import OpenSession
from s2l_jax.orchestrator.run import Move, Run
from s2l_jax.transport.protocol import KVTransport

RUN_PAGES = COPIED_PAGES[0]
"""Pages that are sent together. Fewer are not worth it: they move with the tail."""

PAGES_AHEAD = 32
"""Pages of one source that may be under way ahead, so that those which somebody waits for do not queue behind many."""


@dataclass(slots=True, eq=False)
class Advance:
    """What of one session is sent ahead.

    Attributes:
      session: whose it is.
      source: where from.
      target: where to.
      blocks: leading blocks that have been sent, or need not be.
      due: runs that have not been gathered.
      under_way: runs that have been, in order, and have not been scattered.
      open: runs that are not settled: those, and those that are being gathered or scattered; each with the index of its
        first block.
      brought: index and key of each block that has come.
    """

    session: OpenSession
    source: Member
    target: Member
    blocks: int = 0
    due: deque[Run] = field(default_factory=deque)
    under_way: deque[Run] = field(default_factory=deque)
    open: dict[Run, tuple[int, Expected]] = field(default_factory=dict)
    brought: list[tuple[int, BlockKey]] = field(default_factory=list)

    @property
    def has_come(self) -> bool:
        """True if the next run to scatter is there, or has failed."""
        pages = self.under_way[0].pages if self.under_way else None
        return pages is not None and pages.done()


class Ahead:
    """All that an orchestrator sends ahead. Every method needs the registry's lock, and none blocks."""

    def __init__(self, transport: KVTransport) -> None:
        self._transport = transport
        self._advances: dict[str, Advance] = {}

    def send(self, session: OpenSession, choose: Callable[[], Member | None]) -> None:
        """Sends what a session has got since, as far as its target has room; `choose` finds a target at first."""
        state = session.member.scheduler.session(session.id)
        full = full_blocks(state)
        advance = self._advances.get(session.id)
        if full - (0 if advance is None else advance.blocks) < RUN_PAGES:
            return
        if advance is None:
            target = choose()
            if target is None:
                return
            advance = self._advances[session.id] = Advance(session, session.member, target)
        scheduler = advance.target.scheduler
        while full - advance.blocks >= RUN_PAGES:
            first = advance.blocks
            content = content_of(state, first, RUN_PAGES)
            known = scheduler.inflow.known(content)
            if not known:
                expected = scheduler.inflow.expect(content, scheduler.open_sessions + 1)
                if expected is None:
                    return
                run = Run(advance, state.blocks.view[first : first + RUN_PAGES], expected.blocks)
                advance.due.append(run)
                advance.open[run] = first, expected
            advance.blocks += known or RUN_PAGES

    def next_to_gather(self, source: Member) -> Run | None:
        """A run that the source's thread should gather, taken out; None if there is none. `gathered` is to follow."""
        for advance in self._from(source):
            while advance.due and self._has_room(source):
                run = advance.due.popleft()
                if self._find_blocks(run, advance):
                    return run
                self.lose(run)
        return None

    def gathered(self, run: Run) -> bool:
        """A run is on its way; False if nobody wants it any more."""
        advance = self._advance_of(run)
        if advance is None:
            return False
        advance.under_way.append(run)
        return True

    def next_to_scatter(self, target: Member) -> Run | None:
        """The next run that has come for the target, taken out; None if there is none. `landed` is to follow."""
        for advance in self._advances.values():
            if advance.target is target and advance.has_come:
                return advance.under_way.popleft()
        return None

    def is_due(self, member: Member, *, may_gather: bool) -> bool:
        """True if there is anything to scatter for a member, or to gather if it may."""
        has_room = may_gather and self._has_room(member)
        return any(
            (advance.source is member and advance.due and has_room) or (advance.target is member and advance.has_come)
            for advance in self._advances.values()
        )

    def landed(self, run: Run) -> None:
        """A run has been handed to the target's device."""
        advance = self._advance_of(run)
        if advance is not None:
            first, expected = advance.open.pop(run)
            advance.target.scheduler.inflow.settle(expected, has_come=True)
            advance.brought += enumerate(expected.content.keys, first)
            advance.source.work.notify_all()  # there is room for more

    def lose(self, run: Run) -> None:
        """A run will not come: its blocks move with the tail."""
        advance = self._advance_of(run)
        if advance is not None:
            self._settle(advance, run)

    def hold_back(self, session: OpenSession) -> None:
        """Sends nothing more of a session: it is about to be handed over."""
        advance = self._advances.get(session.id)
        if advance is not None:
            for run in [*advance.due]:
                self._settle(advance, run)

    def coming(self, session: OpenSession, target: Member) -> list[Expected]:
        """What is on its way to a target, in order."""
        advance = self._advances.get(session.id)
        if advance is None or advance.target is not target:
            return []
        return [expected for run, (_, expected) in advance.open.items() if run not in advance.due]

    def pass_on(self, session: OpenSession, move: Move) -> tuple[list[Run], int]:
        """A session has been adopted, and what its target took of what was coming belongs to its move now.

        Returns:
          Runs that are under way, in order, and how many are being scattered. One that is being gathered is to follow.
        """
        advance = self._advances.get(session.id)
        if advance is None:
            return [], 0
        taken = [run for run, (_, expected) in advance.open.items() if expected not in advance.target.scheduler.inflow]
        under_way = [run for run in advance.under_way if run in taken]
        for run in taken:
            run.move = move
            del advance.open[run]
        advance.under_way = deque(run for run in advance.under_way if run in advance.open)
        self.drop(session)
        return under_way, sum(run.pages is not None for run in taken) - len(under_way)

    def cut(self, session: OpenSession, kept_tokens: int) -> None:
        """A session's context has changed behind its first `kept_tokens` tokens."""
        advance = self._advances.get(session.id)
        if advance is None:
            return
        kept = kept_tokens // advance.source.scheduler.config.block_size
        advance.blocks = min(advance.blocks, kept)
        self._leave(advance, kept)

    def drop(self, session: OpenSession) -> None:
        """A session goes on without what was sent ahead, or does not go on, or has been adopted."""
        advance = self._advances.get(session.id)
        if advance is not None:
            self._leave(advance, 0)
            del self._advances[session.id]

    def drop_to(self, target: Member) -> None:
        """A target has lost all KV, or does nothing any more; then its scheduler is left alone."""
        for advance in [*self._advances.values()]:
            if advance.target is target:
                self.drop(advance.session)

    def count_to(self, target: Member) -> int:
        """Sessions that are likely to go on at a target."""
        return sum(advance.target is target for advance in self._advances.values())

    def _leave(self, advance: Advance, kept: int) -> None:
        """Nobody waits for anything behind the first `kept` blocks any more."""
        for run, (first, _) in [*advance.open.items()]:
            if first + RUN_PAGES > kept:
                self._settle(advance, run)
        if advance.target.is_alive:
            advance.target.scheduler.inflow.give_way([key for index, key in advance.brought if index >= kept])
        advance.brought = [(index, key) for index, key in advance.brought if index < kept]

    def _settle(self, advance: Advance, run: Run) -> None:
        """A run will not come, wherever it is. If it is being gathered or scattered, that does no harm."""
        _, expected = advance.open.pop(run)
        if advance.target.is_alive:
            advance.target.scheduler.inflow.settle(expected, has_come=False)
        for runs in (advance.due, advance.under_way):
            if run in runs:
                runs.remove(run)
        if run.ticket is not None:
            self._transport.withdraw(run.ticket)

    def _find_blocks(self, run: Run, advance: Advance) -> bool:
        """Sees where the content of a run is now; False if its session does not have it any more."""
        first, expected = advance.open[run]
        end = first + RUN_PAGES
        state = advance.source.scheduler.session(advance.session.id)
        if full_blocks(state) < end or tuple(state.keys(first, end)) != expected.content.keys:
            return False
        run.source = state.blocks.view[first:end]
        return True

    def _advance_of(self, run: Run) -> Advance | None:
        """What a run belongs to, unless it has been settled."""
        advance = run.move
        return advance if isinstance(advance, Advance) and run in advance.open else None

    def _has_room(self, source: Member) -> bool:
        under_way = sum(len(advance.open) - len(advance.due) for advance in self._from(source))
        return (under_way + 1) * RUN_PAGES <= PAGES_AHEAD

    def _from(self, source: Member) -> Iterator[Advance]:
        return (advance for advance in self._advances.values() if advance.source is source)
