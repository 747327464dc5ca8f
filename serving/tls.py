"""Certificates of a server, as files in PEM."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from s2l_jax.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server shows, and whom it lets in.

    Attributes:
      cert: the server's certificate, and those between it and the root.
      key: its private key, without a password.
      client_ca: certificates that clients' must be signed by (mTLS); None asks clients for none.

    Raises:
      InvalidArgument: a file cannot be read, or the key is not the certificate's.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        self.context()

    def context(self) -> ssl.SSLContext:
        """For HTTPS."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(
                f"--tls-cert {self.cert} and --tls-key {self.key} cannot be used, they must be PEM and belong together"
                f": {error}"
            ) from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ssl.SSLError) as error:
                raise InvalidArgument(f"--tls-client-ca {self.client_ca} has no certificates: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For gRPC."""
        pair = self.key.read_bytes(), self.cert.read_bytes()
        roots = None if self.client_ca is None else self.client_ca.read_bytes()
        return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)


def _no_password() -> str:
    raise InvalidArgument("--tls-key is locked with a password: give it without one (openssl pkey -in ... -out ...)")
