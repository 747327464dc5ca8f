"""How the processes of a world find each other, and see that they were started alike."""

import contextlib
import json
import logging
import socket
import time
from collections.abc import Mapping

from s2l_jax.core.errors import InvalidArgument, Unavailable
from serving.world.config import WorldConfig
from serving.world.frame import Kind
from serving.world.link import Link, LinkBroken

_log = logging.getLogger(__name__)
_HELLO_S = 5.0
_AGAIN_S = 0.2

type Facts = Mapping[str, str]
"""What all processes must have alike, by the name that a user knows."""


def meet(config: WorldConfig, facts: Facts) -> dict[int, Link]:
    """Waits for all processes; returns links to them by rank: to all others on rank 0, to rank 0 on the others.

    Raises:
      InvalidArgument: rank 0 cannot listen there, or this process was started otherwise than rank 0.
      Unavailable: they are not there in time.
    """
    return _receive_all(config, facts) if config.rank == 0 else {0: _reach(config, facts)}


def _receive_all(config: WorldConfig, facts: Facts) -> dict[int, Link]:
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise InvalidArgument(
            f"rank 0 cannot listen on {config.address} ({error}): give an address of this machine, and a free port"
        ) from error
    links: dict[int, Link] = {}
    end_s = time.monotonic() + config.join_s
    with listener:
        while len(links) < config.size - 1:
            listener.settimeout(max(0.01, end_s - time.monotonic()))
            try:
                connection, address = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, config.size)) - set(links))
                raise Unavailable(
                    f"no process of rank {', '.join(map(str, missing))} came to {config.address} in {config.join_s:g} s"
                ) from None
            link = Link(connection)
            rank = _rank_of(link, config, facts, f"{address[0]}:{address[1]}")
            if rank is not None:
                if rank in links:
                    links[rank].close()  # it has been started again
                links[rank] = link
    for link in links.values():
        _send(link, Kind.WELCOME)
    return links


def _rank_of(link: Link, config: WorldConfig, facts: Facts, source: str) -> int | None:
    """The rank of who has just come; None if it has no place in this world."""
    try:
        frame = link.receive(_HELLO_S)
        hello = json.loads(frame.payload)
        rank, size, theirs = hello["rank"], hello["size"], hello["facts"]
        if frame.kind is not Kind.HELLO or not isinstance(rank, int):
            raise ValueError("no greeting")
        why = _difference(config, facts, rank, size, theirs)
    except (LinkBroken, ValueError, LookupError, TypeError, AttributeError) as error:
        _log.warning("what came from %s is no process of this world: %s", source, error)
        link.close()
        return None
    if why is None:
        return rank
    _log.warning("a process at %s has no place in this world: %s", source, why)
    with contextlib.suppress(LinkBroken):
        link.send(Kind.REFUSED, why.encode())
    link.close()
    return None


def _difference(config: WorldConfig, facts: Facts, rank: int, size: int, theirs: Facts) -> str | None:
    if size != config.size:
        return f"rank {rank} was started with --world-size {size}, rank 0 with {config.size}"
    if not 0 < rank < size:
        return f"rank {rank} is not in 1..{size - 1}"
    for name in sorted({*facts, *theirs}):
        if facts.get(name) != theirs.get(name):
            return f"rank {rank} has {name} {theirs.get(name)}, rank 0 has {facts.get(name)}: start all processes alike"
    return None


def _reach(config: WorldConfig, facts: Facts) -> Link:
    hello = json.dumps({"rank": config.rank, "size": config.size, "facts": dict(facts)}).encode()
    end_s = time.monotonic() + config.join_s
    why = "nobody listens there"
    while time.monotonic() < end_s:
        try:
            link = Link(socket.create_connection((config.host, config.port), timeout=_HELLO_S))
            link.send(Kind.HELLO, hello)
            frame = link.receive(max(0.01, end_s - time.monotonic()))
        except (OSError, LinkBroken) as error:
            why = str(error)
            time.sleep(_AGAIN_S)
            continue
        if frame.kind is Kind.REFUSED:
            link.close()
            raise InvalidArgument(f"rank 0 at {config.address} does not take this process: {frame.payload.decode()}")
        return link
    raise Unavailable(f"rank 0 could not be reached at {config.address} in {config.join_s:g} s: {why}")


def _send(link: Link, kind: Kind) -> None:
    try:
        link.send(kind)
    except LinkBroken as error:
        raise Unavailable(f"a process was there and has gone again: {error}") from error
