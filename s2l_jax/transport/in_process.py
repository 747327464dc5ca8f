"""Pages go from one engine to another of the same process: a copy from devices to devices."""

import itertools
from concurrent.futures import Future, ThreadPoolExecutor

from s2l_jax.core.errors import InternalError
from s2l_jax.transport.protocol import Pages, Place, Ticket

_ADDRESS = "in-process"


class InProcessTransport:
    """Copies between the devices of this process, on a thread of its own, so that no engine's thread waits for it.

    The copy also changes how pages are split, if the two engines are split over different numbers of devices: both
    sides see arrays of the same shape (`s2l_jax.models.sharding.CONTENTS`), only their parts differ.
    """

    def __init__(self) -> None:
        self._keys = itertools.count()
        self._offered: dict[int, Pages] = {}
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="s2l-transport")

    def offer(self, pages: Pages) -> Ticket:
        """See `KVTransport.offer`."""
        key = next(self._keys)
        self._offered[key] = pages
        return Ticket(_ADDRESS, key)

    def fetch(self, ticket: Ticket, place: Place) -> Future[Pages]:
        """See `KVTransport.fetch`."""
        return self._copier.submit(self._move, ticket, place)

    def withdraw(self, ticket: Ticket) -> None:
        """See `KVTransport.withdraw`."""
        self._offered.pop(ticket.key, None)

    def close(self) -> None:
        """See `KVTransport.close`."""
        self._copier.shutdown(cancel_futures=True)
        self._offered.clear()

    def _move(self, ticket: Ticket, place: Place) -> Pages:
        if ticket.key not in self._offered:
            raise InternalError(f"pages {ticket.key} are not there: they were withdrawn or fetched before")
        return place(self._offered.pop(ticket.key))
