"""Certificates for tests."""

import functools
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trustme

from serving.client import ClientTls
from serving.tls import ServerTls


@dataclass(frozen=True)
class Certificates:
    """Files of a root, and of a server and a client that it signed; `strange` is a root that signed neither."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path
    strange: Path

    def server(self, *, mutual: bool = False) -> ServerTls:
        return ServerTls(self.cert, self.key, self.ca if mutual else None)

    def client(self, *, mutual: bool = False) -> ClientTls:
        return ClientTls(self.ca, self.client_cert, self.client_key) if mutual else ClientTls(self.ca)

    def context(self, *, mutual: bool = False) -> ssl.SSLContext:
        """A client's, for HTTPS."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if mutual:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context


@functools.cache
def certificates() -> Certificates:
    """Made once."""
    folder = Path(tempfile.mkdtemp(prefix="s2l-certificates-"))
    root = trustme.CA()
    server, client = root.issue_cert("localhost", "127.0.0.1"), root.issue_cert("client@example.org")
    paths = [folder / f"{name}.pem" for name in ("ca", "cert", "key", "client_cert", "client_key", "strange")]
    root.cert_pem.write_to_path(str(paths[0]))
    server.cert_chain_pems[0].write_to_path(str(paths[1]))
    server.private_key_pem.write_to_path(str(paths[2]))
    client.cert_chain_pems[0].write_to_path(str(paths[3]))
    client.private_key_pem.write_to_path(str(paths[4]))
    trustme.CA().cert_pem.write_to_path(str(paths[5]))
    return Certificates(*paths)
