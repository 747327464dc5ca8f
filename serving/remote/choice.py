"""Which way pages take between processes, chosen at start."""

from collections.abc import Sequence

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.transport.protocol import KVTransport
from serving.remote.engine import RemoteEngine
from serving.remote.transport import GrpcTransport

_EVERYWHERE = ("0.0.0.0", "::", "")


def check_host(host: str, *, has_tls: bool) -> None:
    """Raises InvalidArgument unless `jax` may be used at this address."""
    if host in _EVERYWHERE:
        raise InvalidArgument(
            f"--kv-transport jax tells other processes where to pull KV from, which cannot be {host!r}: "
            "give --host an address of the network between the engines"
        )
    if has_tls:
        raise InvalidArgument("--kv-transport jax carries KV in the clear: leave it out where engines speak TLS")


def transport_between(kind: str, engines: Sequence[RemoteEngine], host: str) -> KVTransport:
    """What carries pages to and from engines in other processes.

    `auto` is `grpc`. With `jax`, a third process first tries whether it can pull from each of the engines; KV of those
    from which it cannot goes through gRPC, and the log says why.

    Args:
      kind: one of `serving.config.KV_TRANSPORTS`.
      engines: the others.
      host: address at which other processes reach this one.
    """
    if kind != "jax":
        return GrpcTransport()
    from serving.remote.device_link import DeviceLink
    from serving.remote.device_transport import DeviceTransport, probe

    probe(engines, host)
    return DeviceTransport(DeviceLink(host))
