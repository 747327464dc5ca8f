"""Options of servers that are some of many behind a router."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from s2l_jax.core.errors import InvalidArgument

_DISCOVERIES = ("etcd", "file", "kubernetes")

discovery_option = click.option(
    "--dynamo-discovery",
    "discovery",
    type=click.Choice(_DISCOVERIES),
    default="etcd",
    show_default=True,
    help="How servers and routers find each other; the environment says where: ETCD_ENDPOINTS, DYN_FILE_KV.",
)


@dataclass(frozen=True, slots=True)
class Joining:
    """What a server joins.

    Attributes:
      namespace: of Dynamo; routers of the same one find the server.
      discovery: how they do.

    Raises:
      InvalidArgument: the namespace cannot be one.
    """

    namespace: str
    discovery: str

    def __post_init__(self) -> None:
        if not self.namespace.replace("-", "").replace("_", "").isalnum():
            raise InvalidArgument(
                f"--dynamo is {self.namespace!r}, but a namespace has letters, digits, - and _, and nothing else"
            )


def joining_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of a server that may join others, as one argument `joining`."""

    @functools.wraps(command)
    def run(*, namespace: str | None, discovery: str, **rest: Any) -> None:
        command(joining=None if namespace is None else Joining(namespace, discovery), **rest)

    joins = click.option("--dynamo", "namespace", help="Serve s2l route as well, in this namespace of Dynamo.")
    return joins(discovery_option(run))
