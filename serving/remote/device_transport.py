"""Pages between engines of which some are in other processes, from device to device, past this process if need be."""

import logging
from collections.abc import Iterable
from concurrent.futures import Future

from s2l_jax.core.errors import S2LError
from s2l_jax.transport.protocol import Pages, Place, Ticket
from serving.remote.device_link import DeviceLink
from serving.remote.device_probe import failure_of
from serving.remote.engine import RemoteEngine, RemotePages
from serving.remote.transport import GrpcTransport, by_messages

_log = logging.getLogger(__name__)


class DeviceTransport(GrpcTransport):
    """Whoever has pages offers them, and the target's process pulls them (`serving.remote.device_link`).

    To and from engines that do not, or with which it once went wrong, pages go in messages.

    Args:
      link: this process's end.
    """

    def __init__(self, link: DeviceLink) -> None:
        super().__init__()
        self._link = link

    def fetch(self, ticket: Ticket, place: Place) -> Future[Pages]:
        """See `KVTransport.fetch`."""
        return self.submit(ticket, lambda pages: self._carry(pages, place))

    def _carry(self, pages: Pages, place: Place) -> Pages:
        source = pages.engine if isinstance(pages, RemotePages) else None
        target = _engine_of(place)
        others = [engine for engine in (source, target) if engine is not None]
        if not others or not all(engine.pulls for engine in others):
            return by_messages(pages, place)
        try:
            offer = self._link.offer(pages) if source is None else source.offer(pages.key)
            return place(self._link.pull(offer)) if target is None else target.pull(offer)
        except S2LError as error:
            for engine in others:
                engine.pulls = False
                _log.warning("KV to and from %s goes in messages from now on: %s", engine.address, error)
            raise


def probe(engines: Iterable[RemoteEngine], host: str) -> None:
    """Has a third process pull from each engine that says it can be done; those where it cannot are noted and logged.

    Args:
      engines: to be tried.
      host: address at which other processes reach this one.
    """
    for engine in engines:
        failure: str | None = "it was started without --kv-transport jax, or is not there yet"
        if engine.pulls:
            try:
                failure = failure_of(engine.offer(0), host)
            except S2LError as error:
                failure = str(error)
        engine.pulls = failure is None
        if failure is not None:
            _log.warning("KV to and from %s goes in messages: %s", engine.address, failure)


def _engine_of(place: Place) -> RemoteEngine | None:
    """The engine whose `place` this is, if it is in another process."""
    engine = getattr(place, "__self__", None)
    return engine if isinstance(engine, RemoteEngine) else None
