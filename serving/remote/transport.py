"""Pages between engines of which some are in other processes: over this process, each way in bounded messages."""

from concurrent.futures import Future

from s2l_jax.transport.in_process import InProcessTransport
from s2l_jax.transport.protocol import Pages, Place, Ticket
from serving.remote.engine import RemotePages

_THREADS = 64
"""More than one engine's runs under way (`PAGES_UNDER_WAY`), so that some are left for the others' pages."""


class GrpcTransport(InProcessTransport):
    """Fetches what lies in another process first, then places it; both keep their own deadlines.

    Several at once, so that an engine that does not answer does not hold up the others' pages.
    """

    def __init__(self) -> None:
        super().__init__(_THREADS)

    def fetch(self, ticket: Ticket, place: Place) -> Future[Pages]:
        """See `KVTransport.fetch`."""
        return self.submit(ticket, lambda pages: by_messages(pages, place))


def by_messages(pages: Pages, place: Place) -> Pages:
    """Fetches pages if they lie in another process, and places them, from this process's memory."""
    return place((pages.fetch(),) if isinstance(pages, RemotePages) else pages)
