"""Puts a retriever's lists in order and says what to send so that most of the prompt stays. No input or output."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from s2l_jax.core.errors import InvalidArgument
from serving.client.context_documents import Document, Room, Shown
from serving.client.context_saved import Step
from serving.client.prompt import PromptPieces

Order = Literal["rank", "stable"]
ORDERS: tuple[Order, ...] = ("rank", "stable")


@dataclass(frozen=True, slots=True)
class Change:
    """How the prompt becomes the next one.

    Attributes:
      op: `append` puts `tail` behind all there is, `update` behind its first `keep_chars` characters; None: no change.
      keep_chars: beginning that stays.
      tail: what comes behind it.
      shown: the documents of the next prompt, in their order there.
      text: the next prompt, up to its last document.
      rank_text: the same in the retriever's order.
      rank_keep_chars: beginning that this has in common with the one before it.
    """

    op: Literal["append", "update"] | None
    keep_chars: int
    tail: str
    shown: tuple[Shown, ...]
    text: str
    rank_text: str
    rank_keep_chars: int

    def step(self, seq: int) -> Step:
        """The change as it is reported, told to the server in event `seq`."""
        return Step(self.op, len(self.shown), self.keep_chars, len(self.tail), self.rank_keep_chars, seq)


class Assembly:
    """The prompt as the server has it, up to the last document, and the next one for a list of documents.

    Args:
      order: `rank` shows documents as they come; `stable` leaves those that stay where they are and puts new ones
        behind.
      template: what stands around the documents.
      render: a document as it stands in the prompt.
      room: how many documents go in.

    Raises:
      InvalidArgument: no such order.
    """

    def __init__(self, order: Order, template: PromptPieces, render: Callable[[Document], str], room: Room) -> None:
        if order not in ORDERS:
            raise InvalidArgument(f"order is {order!r}, but must be one of {', '.join(ORDERS)}")
        self._order = order
        self._render = render
        self._room = room
        self.template = template
        self.text: str | None = None
        self._rank_text = ""
        self.shown: tuple[Shown, ...] = ()

    def change(self, documents: Iterable[Document | str]) -> Change:
        """What shows these documents; changes nothing here until `apply`.

        The first change replaces whatever the session was opened with.

        Raises:
          InvalidArgument: something is neither a document nor text.
        """
        ranked = self._room.first(documents, self._render)
        shown = ranked if self._order == "rank" else in_stable_order(self.shown, ranked)
        text, rank_text = self._prompt(shown), self._prompt(ranked)
        before = self.text or ""
        keep = common_prefix(before, text)
        op: Literal["append", "update"] | None = "update"
        if self.text is not None and keep == len(before):
            op = "append" if len(text) > keep else None
        rank_keep = common_prefix(self._rank_text, rank_text)
        return Change(op, keep, text[keep:], tuple(shown), text, rank_text, rank_keep)

    def apply(self, change: Change) -> None:
        """The server has been told."""
        self.text, self._rank_text, self.shown = change.text, change.rank_text, change.shown

    def _prompt(self, shown: Sequence[Shown]) -> str:
        return self.template.before_context + "".join(one.text for one in shown)


def in_stable_order(before: Sequence[Shown], ranked: Sequence[Shown]) -> list[Shown]:
    """The documents of `ranked`: first those that were there before, in their order there, then the others.

    A document whose text has changed keeps its place. The documents at the front stay up to the first that is gone or
    changed, and no other order of the same documents would let more of them stay.
    """
    now = {one.document.key: one for one in ranked}
    old = {one.document.key for one in before}
    stayed = [now[one.document.key] for one in before if one.document.key in now]
    return stayed + [one for one in ranked if one.document.key not in old]


def common_prefix(left: str, right: str) -> int:
    """Number of characters at the beginning of both."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
