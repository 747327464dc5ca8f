"""What a router needs of the servers behind it, whatever carries its requests to them."""

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol

from serving.protos.s2l.v1 import streaming_pb2 as pb


class ReplicaLost(Exception):
    """A replica does not answer, or its answer has broken off: what it had must be done again elsewhere."""


class Replicas(Protocol):
    """Servers of one model. All methods belong to one event loop.

    A replica is named by a number, and a session at a replica by an id that the router makes up and never uses twice.
    """

    def present(self) -> Collection[int]:
        """The replicas that are known to be there now."""

    async def choose(self, session_id: str, tokens: Sequence[int], avoid: Collection[int], tenant: str) -> int:
        """The replica that should serve a context: one that has computed how it begins, and is not busy with others.

        Args:
          session_id: who will be served; `ended` says when no more.
          tokens: the context so far.
          avoid: replicas not to take.
          tenant: whose session it is; what others have computed is of no use to it.

        Raises:
          Unavailable: there is none.
        """

    def ended(self, session_id: str) -> None:
        """A session that a replica was chosen for is over, or has gone on elsewhere."""

    def open(self, replica: int, request: pb.SessionRequest, tenant: str) -> AsyncGenerator[pb.SessionResponse]:
        """Opens a session and yields all that becomes of it: `accepted` first, `done` last.

        Whoever closes the iterator ends the session.

        Raises:
          S2LError: the replica refuses the session, or it failed.
          ReplicaLost: see there.
        """

    async def send(self, replica: int, session_id: str, request: pb.SessionRequest) -> pb.Accepted:
        """Applies an event to a session that is open there, and returns its acknowledgement.

        Raises:
          S2LError: the replica refuses the event.
          ReplicaLost: see there.
        """
