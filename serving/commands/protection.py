"""Options of `s2l serve` that say who may use the server."""

import functools
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2l_jax.core.errors import InvalidArgument

if TYPE_CHECKING:
    from serving.client.tls import ClientTls
    from serving.tls import ServerTls

_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--api-keys",
        type=_FILE,
        envvar="S2L_API_KEYS_FILE",
        show_envvar=True,
        help="File of API keys, read again on SIGHUP; see docs/security.md.  [default: none, everybody is let in]",
    ),
    click.option("--open-path", "open_paths", multiple=True, help="HTTP path that needs no key, such as /metrics."),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        help="Site whose pages may use HTTP, such as https://app.example.",
    ),
    click.option("--tls-cert", type=_FILE, help="The server's certificate (PEM), for both ports.  [default: no TLS]"),
    click.option("--tls-key", type=_FILE, help="Its private key."),
    click.option("--tls-client-ca", type=_FILE, help="Lets in only clients whose certificate one of these signed."),
    click.option("--peer-tls-ca", type=_FILE, help="What certificates of --peers are signed by.  [default: no TLS]"),
    click.option("--peer-tls-cert", type=_FILE, help="Certificate to show to --peers that ask for one."),
    click.option("--peer-tls-key", type=_FILE, help="Its private key."),
)


@dataclass(frozen=True, slots=True)
class Protection:
    """Who may use a server.

    Attributes:
      api_keys: file of keys; None lets everybody in.
      open_paths: paths of HTTP that need no key.
      cors_origins: sites whose pages may use HTTP.
      tls: certificates; None is without TLS.
      peer_tls: certificates for the way to engines in other processes; None is without TLS.
    """

    api_keys: Path | None = None
    open_paths: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    tls: "ServerTls | None" = None
    peer_tls: "ClientTls | None" = None

    def warning(self, host: str) -> str | None:
        """What somebody who opens a server on this address should know."""
        if _is_loopback(host):
            return None
        if self.api_keys is None and (self.tls is None or self.tls.client_ca is None):
            return f"everybody who reaches {host} may use this server: give --api-keys, or --host 127.0.0.1"
        if self.tls is None:
            return f"keys and texts can be read on their way to {host}: give --tls-cert and --tls-key, or use a proxy"
        return None

    def engine_warning(self, host: str) -> str | None:
        """The same of an engine that waits for an orchestrator."""
        if _is_loopback(host) or (self.tls is not None and self.tls.client_ca is not None):
            return None
        return f"whoever reaches {host} has this engine: give --tls-cert, --tls-key and --tls-client-ca"


def protection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of this module, as one argument `protection`."""

    @functools.wraps(command)
    def run(
        *,
        api_keys: Path | None,
        open_paths: tuple[str, ...],
        cors_origins: tuple[str, ...],
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_client_ca: Path | None,
        peer_tls_ca: Path | None,
        peer_tls_cert: Path | None,
        peer_tls_key: Path | None,
        **rest: Any,
    ) -> None:
        if api_keys is not None:
            from serving.tenants.keys import read_keys

            read_keys(api_keys)  # what is wrong with it should be said before a model is loaded
        tls = _tls(tls_cert, tls_key, tls_client_ca)
        peer_tls = _peer_tls(peer_tls_ca, peer_tls_cert, peer_tls_key)
        command(protection=Protection(api_keys, open_paths, _checked(cors_origins), tls, peer_tls), **rest)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def _tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> "ServerTls | None":
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise InvalidArgument("TLS needs both --tls-cert and --tls-key")
    from serving.tls import ServerTls

    return ServerTls(cert, key, client_ca)


def _peer_tls(ca: Path | None, cert: Path | None, key: Path | None) -> "ClientTls | None":
    if ca is None and cert is None and key is None:
        return None
    if ca is None:
        raise InvalidArgument("TLS to --peers needs --peer-tls-ca: what their certificates are signed by")
    from serving.client.tls import ClientTls

    tls = ClientTls(ca, cert, key)
    tls.credentials()  # what is wrong with it should be said before a model is loaded
    return tls


def _checked(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        scheme, separator, host = origin.partition("://")
        if origin != "*" and not (scheme in {"http", "https"} and separator and host and "/" not in host):
            raise InvalidArgument(f"--cors-origin is {origin!r}, but must look like https://app.example, or be *")
    return origins


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
