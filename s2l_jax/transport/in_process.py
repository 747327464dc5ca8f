"""Pages go from one engine to another of the same process: a copy from devices to devices."""

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from s2l_jax.core.errors import InternalError
from s2l_jax.transport.protocol import Pages, Place, Ticket

_ADDRESS = "in-process"


class InProcessTransport:
    """Copies between the devices of this process, on threads of its own, so that no engine's thread waits for it.

    The copy also changes how pages are split, if the two engines are split over different numbers of devices: both
    sides see arrays of the same shape (`s2l_jax.models.sharding.CONTENTS`), only their parts differ. Between two CPU
    devices there is no copy: the target's device reads what the source's has gathered, which nobody writes to again.
    """

    def __init__(self, threads: int = 1) -> None:
        """Starts with nothing.

        Args:
          threads: that copy at once.
        """
        self._keys = itertools.count()
        self._offered: dict[int, Pages] = {}
        self._copier = ThreadPoolExecutor(threads, thread_name_prefix="s2l-transport")

    def offer(self, pages: Pages) -> Ticket:
        """See `KVTransport.offer`."""
        key = next(self._keys)
        self._offered[key] = pages
        return Ticket(_ADDRESS, key)

    def fetch(self, ticket: Ticket, place: Place) -> Future[Pages]:
        """See `KVTransport.fetch`."""
        return self.submit(ticket, place)

    def submit(self, ticket: Ticket, carry: Place) -> Future[Pages]:
        """Begins to bring pages over in another way: `carry` does it, on a thread of this transport."""
        return self._copier.submit(self._move, ticket, carry)

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
        return place(_in_place(self._offered.pop(ticket.key)))


def _in_place(pages: Pages) -> Pages:
    """Pages of one CPU device as NumPy sees them, in the same memory: other CPU devices take that over as it is."""
    if isinstance(pages, tuple) and all(_is_on_one_cpu(piece) for piece in pages):
        return tuple(np.asarray(piece) for piece in pages)
    return pages


def _is_on_one_cpu(piece: Any) -> bool:
    devices = piece.devices() if hasattr(piece, "devices") else ()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"
