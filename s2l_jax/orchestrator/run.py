"""Pages that move together from one engine to another."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from s2l_jax.orchestrator.member import Member
from s2l_jax.orchestrator.open_session import OpenSession
from s2l_jax.transport.protocol import Pages, Ticket


class Move(Protocol):
    """What pages are moved for: a session that goes on elsewhere, or will."""

    session: OpenSession
    source: Member
    target: Member


@dataclass(slots=True, eq=False)
class Run:
    """As many pages as one executable copies.

    Attributes:
      move: what for.
      source: blocks to gather, int32 `[n]`.
      target: blocks to scatter to, int32 `[n]`.
      ticket: what the transport knows them by, once gathered.
      pages: what is scattered, once under way.
    """

    move: Move
    source: np.ndarray
    target: np.ndarray
    ticket: Ticket | None = None
    pages: Future[Pages] | None = None
