"""Rows of the per-session device buffers: who has which, and which keep the end of a context that may come back.

A row keeps the final hidden state of its session's last token, which is all that sampling needs. When an update changes
a context whose end is computed, the row is parked under the content it belongs to, and the session goes on with another
one; if the content comes back, so does the row, and nothing has to be computed, not even the last token. Only rows that
no session needs are used for this.
"""

from collections import OrderedDict

from s2l_jax.core.ids import SlotId
from s2l_jax.core.session import Session

type Content = tuple[bytes, bytes]


class Rows:
    """A fixed number of rows; sessions come first, what is parked gives way."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = [SlotId(i) for i in reversed(range(total))]
        self._parked: OrderedDict[Content, SlotId] = OrderedDict()

    def take(self) -> SlotId | None:
        """A row for a session; None if other sessions have them all."""
        if self._free:
            return self._free.pop()
        return self._parked.popitem(last=False)[1] if self._parked else None

    def give(self, row: SlotId) -> None:
        """A session has ended."""
        self._free.append(row)

    def end_of(self, session: Session) -> Content | None:
        """What the session's row is worth keeping for; None if its context is not computed to the end for certain."""
        known = len(session.tokens)
        return None if session.kept != known or session.ends or not known else _content(session)

    def exchange(self, session: Session, old: Content | None) -> None:
        """The context has changed: the row goes with the old one, and one that belongs to the new one is used again.

        Args:
          session: its tokens are the new ones.
          old: what `end_of` said before the change; None if there was none, or the old row serves the new context.
        """
        if old is None and (not self._parked or session.ends or session.kept == len(session.tokens)):
            return
        row = None if session.ends else self._parked.pop(_content(session), None)
        if row is not None:
            session.kept = len(session.tokens)
        if old is None or old in self._parked:
            if row is None:
                return
            self.give(session.slot)
        else:
            row = self.take() if row is None else row
            if row is None:
                return
            self._parked[old] = session.slot
        session.slot = row

    def forget(self) -> None:
        """The device has lost all rows."""
        self._free.extend(self._parked.values())
        self._parked.clear()

    def check_integrity(self, held: list[SlotId]) -> None:
        """Raises RuntimeError unless every row is held, parked or free, once."""
        if sorted([*self._free, *self._parked.values(), *held]) != list(range(self.total)):
            raise RuntimeError(f"rows do not add up: {self._free} free, {self._parked} parked, {held} held")


def _content(session: Session) -> Content:
    full = len(session.tokens) // session.block_size
    return session.key(full - 1), session.block_tokens(full)
