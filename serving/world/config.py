"""The processes of one engine, and which of them this is."""

import re
from dataclasses import dataclass
from typing import Self

from s2l_jax.core.errors import InvalidArgument

DEFAULT_PORT = 9300
_ADDRESS = re.compile(r"(.+):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """A world: processes whose devices together are one engine's.

    Attributes:
      size: how many processes, 2 or more.
      rank: which of them this is. Rank 0 has the scheduler and the server, the others follow.
      host: where rank 0 is found by the others, and listens; on a private network.
      port: of plans; `jax.distributed` takes the next one.
      silence_s: a process that is not heard of for so long ends its world.
      join_s: how long processes wait for each other at the start.

    Raises:
      InvalidArgument: a value is out of range; the message says which option to change.
    """

    size: int
    rank: int
    host: str
    port: int = DEFAULT_PORT
    silence_s: float = 10.0
    join_s: float = 600.0

    def __post_init__(self) -> None:
        if self.size < 2:
            raise InvalidArgument(f"--world-size is {self.size}, but a world has 2 processes or more: leave it out")
        if not 0 <= self.rank < self.size:
            raise InvalidArgument(f"--world-rank is {self.rank}, but must be in 0..{self.size - 1}, each taken once")
        if not 0 < self.port < 65535:
            raise InvalidArgument(f"--world-address has port {self.port}, but this one and the next must be ports")
        for name in ("silence_s", "join_s"):
            if not 0 < getattr(self, name) < float("inf"):
                option = f"--world-{name.replace('_', '-')}"
                raise InvalidArgument(f"{option} is {getattr(self, name)}, but must be more than 0, and finite")

    @classmethod
    def parse(cls, size: int, rank: int, address: str, *, silence_s: float, join_s: float) -> Self:
        """With an address as `HOST:PORT`, or `HOST` with the usual port.

        Raises:
          InvalidArgument: as above.
        """
        found = _ADDRESS.fullmatch(address)
        host, port = (address, DEFAULT_PORT) if found is None else (found[1], int(found[2]))
        if not host or re.search(r"[\s,]", host):
            raise InvalidArgument(f"--world-address is {address!r}, but must look like HOST:PORT, where rank 0 is")
        return cls(size, rank, host.strip("[]"), port, silence_s, join_s)

    @property
    def address(self) -> str:
        """Where plans come from."""
        return _joined(self.host, self.port)

    @property
    def coordinator(self) -> str:
        """Where `jax.distributed` has its coordinator."""
        return _joined(self.host, self.port + 1)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
