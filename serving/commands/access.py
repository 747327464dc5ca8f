"""Options of commands that talk to a server: how they are let in."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from serving.client import ClientTls

_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--api-key", envvar="S2L_API_KEY", show_envvar=True, help="For a server that needs one."),
    click.option("--tls-ca", type=_FILE, help="Believe servers whose certificate one of these (PEM) signed."),
    click.option("--tls-cert", type=_FILE, help="Own certificate, for a server that asks for one."),
    click.option("--tls-key", type=_FILE, help="Its private key."),
)


@dataclass(frozen=True, slots=True)
class Access:
    """How a client is let in.

    Attributes:
      api_key: the key, if there is one.
      tls: certificates, if there are any.
    """

    api_key: str | None = None
    tls: "ClientTls | None" = None


def access_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of this module, as one argument `access`."""

    @functools.wraps(command)
    def run(
        *, api_key: str | None, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, **rest: Any
    ) -> None:
        tls = None
        if tls_ca or tls_cert or tls_key:
            from serving.client import ClientTls

            tls = ClientTls(tls_ca, tls_cert, tls_key)
        command(access=Access(api_key, tls), **rest)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run
