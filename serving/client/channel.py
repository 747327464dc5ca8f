"""Where a server is and how its channel is set up; conversion of its answers about itself."""

import grpc

from s2l_jax.core.errors import InvalidArgument
from serving.client.prompt import PromptPieces
from serving.client.tls import ClientTls
from serving.client.types import HostStats, ModelInfo, ServerStats
from serving.protos.s2l.v1 import info_pb2 as pb

DEFAULT_TARGET = "127.0.0.1:9000"

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
)


def address_of(target: str) -> str:
    """`HOST:PORT` of `grpc://HOST:PORT`, `grpcs://HOST:PORT` or `HOST:PORT`.

    Raises:
      InvalidArgument: the target has no port or another scheme.
    """
    scheme, separator, rest = target.rpartition("://")
    host, colon, port = rest.rstrip("/").rpartition(":")
    if (separator and scheme not in ("grpc", "grpcs")) or not (host and colon and port.isdigit()):
        raise InvalidArgument(f"target is {target!r}, but must look like grpc://HOST:PORT or HOST:PORT")
    return f"{host}:{port}"


def credentials_of(target: str, tls: ClientTls | None) -> grpc.ChannelCredentials | None:
    """What a channel with TLS is opened with, None for one without: `grpcs://`, or certificates, say that it is wanted.

    Raises:
      InvalidArgument: the target says `grpc://`, so without TLS, but there are certificates; or one cannot be read.
    """
    if tls is None and not target.startswith("grpcs://"):
        return None
    if target.startswith("grpc://"):
        raise InvalidArgument(f"target is {target!r}, which is without TLS, but certificates are given: use grpcs://")
    return (tls or ClientTls()).credentials()


def metadata_of(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What each call carries.

    Raises:
      InvalidArgument: the key is none that can be sent.
    """
    if api_key is None:
        return ()
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key or not api_key:
        raise InvalidArgument("the API key must be printable ASCII characters without spaces")
    return (("authorization", f"Bearer {api_key}"),)


def model_from_wire(wire: pb.Model) -> ModelInfo:
    """The server's model."""
    prompt = wire.prompt
    return ModelInfo(
        name=wire.name,
        max_model_len=wire.max_model_len,
        vocab_size=wire.vocab_size,
        bos_token_id=wire.bos_token_id if wire.HasField("bos_token_id") else None,
        eos_token_ids=tuple(wire.eos_token_ids),
        default_max_tokens=wire.default_max_tokens,
        prompt=PromptPieces(prompt.before_context, prompt.before_question, prompt.after_question, prompt.add_bos),
        server_version=wire.server_version,
        policy=wire.policy,
    )


def stats_from_wire(wire: pb.Stats) -> ServerStats:
    """The server's counters."""
    host, kinds = wire.host, wire.preemptions
    return ServerStats(
        sessions=dict(wire.sessions),
        free_blocks=wire.free_blocks,
        held_blocks=wire.held_blocks,
        total_blocks=wire.total_blocks,
        steps=wire.steps,
        preemptions={field.name: getattr(kinds, field.name) for field in kinds.DESCRIPTOR.fields},
        cached_blocks=wire.cached_blocks,
        host=HostStats(host.total, host.free, host.backups, host.swapped),
    )
