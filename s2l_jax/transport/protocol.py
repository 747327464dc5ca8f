"""The seam between engines: pages that one has gathered become pages that another can scatter."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

type Pages = Any
"""Pages outside of any pool, as `PageAccess.gather` gives them; only engines and transports look inside."""

type Place = Callable[[Pages], Pages]
"""Puts pages where an engine's `scatter` takes them from, and returns when they are there."""


class Ticket(NamedTuple):
    """Names pages that are to be fetched.

    Attributes:
      address: of the transport that has them.
      key: which pages of its.
    """

    address: str
    key: int


class KVTransport(Protocol):
    """Carries pages from engine to engine. The source offers them, the target fetches them, each exactly once.

    Any thread may call. No call waits for a device or a network but what runs behind a future. A transport keeps its
    own deadlines: a future ends, with pages or with an error, whatever becomes of the other side.
    """

    def offer(self, pages: Pages) -> Ticket:
        """Keeps pages, which may still be in the making, until they are fetched or withdrawn."""

    def fetch(self, ticket: Ticket, place: Place) -> Future[Pages]:
        """Begins to bring pages over.

        Args:
          ticket: from `offer` on the other side.
          place: of the target engine.

        Returns:
          Pages to scatter. Its error is what went wrong on the way, or in making the pages.
        """

    def withdraw(self, ticket: Ticket) -> None:
        """Lets go of pages that nobody will fetch; nothing happens if they have been fetched."""

    def close(self) -> None:
        """Ends what is under way."""
