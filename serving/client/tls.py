"""Certificates of a client, as files in PEM."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from s2l_jax.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Whom a client believes, and what it shows.

    Attributes:
      ca: certificates that the server's must be signed by; None takes those that gRPC comes with.
      cert: the client's own certificate, for servers that ask for one (mTLS).
      key: its private key.

    Raises:
      InvalidArgument: a certificate without its key, or the other way round.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidArgument("a client's certificate and its private key go together: give both, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel.

        Raises:
          InvalidArgument: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from error
