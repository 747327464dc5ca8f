"""The gRPC server: all services on one port, and its life from start to drained."""

import asyncio
import logging
import signal
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from s2l_jax.core.errors import InvalidArgument
from serving.client.types import ModelInfo
from serving.grpc.door import Door
from serving.grpc.info import InfoServicer
from serving.grpc.jetstream import AdapterServicer, JetStreamConfig, OrchestratorServicer
from serving.grpc.streaming import StreamingContextServicer
from serving.protos.jetstream.core.proto import jetstream_pb2_grpc, multi_lora_decoding_pb2_grpc
from serving.protos.s2l.v1 import info_pb2_grpc, streaming_pb2_grpc
from serving.session_owner import SessionOwner
from serving.tenants.tenants import Tenants
from serving.tls import ServerTls
from serving.tracing.context import ContextPool, TraceInterceptor

SERVICE_NAMES = ("s2l.v1.StreamingContext", "s2l.v1.Info", "jetstream_proto.Orchestrator", "v1")

_log = logging.getLogger(__name__)
_STOP_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """Where to listen, and limits of connections.

    Attributes:
      host: address to bind.
      port: port to bind; 0 lets the system choose.
      max_message_bytes: size of one request at most.
      max_streams: streams per connection at most; more of them wait at the client.
      tokenizer_threads: threads that tokenize.
      max_calls: calls at once, of all connections; more of them are refused.
      open_timeout_s: time for a call's request to come, or a stream's first.
      send_timeout_s: a stream whose client takes nothing for this long is ended.
      jetstream: what JetStream's requests cannot say.
      tls: the server's certificate; None is without TLS.
    """

    host: str = "127.0.0.1"
    port: int = 9000
    max_message_bytes: int = 16 << 20
    max_streams: int = 4096
    tokenizer_threads: int = 2
    max_calls: int = 8192
    open_timeout_s: float = 20.0
    send_timeout_s: float = 60.0
    jetstream: JetStreamConfig = field(default_factory=JetStreamConfig)
    tls: ServerTls | None = None


class GrpcServer:
    """Serves one orchestrator. Belongs to the event loop it is started in; the orchestrator is started by its owner.

    Args:
      orchestrator: owns sessions and engine.
      model: what is served.
      config: where to listen.
      tenants: who may call; None lets everybody.
    """

    def __init__(
        self, orchestrator: SessionOwner, model: ModelInfo, config: GrpcConfig, tenants: Tenants | None = None
    ) -> None:
        self._tenants = tenants or Tenants(orchestrator)
        self._orchestrator = orchestrator
        self._model = model
        self._config = config
        self._is_draining = False
        self._pool = ContextPool(config.tokenizer_threads, thread_name_prefix="s2l-tokenizer")
        self._health = health.aio.HealthServicer()

    async def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
          InvalidArgument: the address cannot be bound.
        """
        self._server = grpc.aio.server(
            interceptors=(Door(self._tenants, self._config.open_timeout_s), TraceInterceptor()),
            options=_options(self._config),
            maximum_concurrent_rpcs=self._config.max_calls,
        )
        self._register(self._server)
        address = f"{self._config.host}:{self._config.port}"
        try:
            if self._config.tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._config.tls.grpc_credentials())
        except RuntimeError as error:
            raise InvalidArgument(
                f"cannot listen on {address}: it is in use or not an address of this machine; "
                "choose another --port (0 takes a free one) or --host"
            ) from error
        await self._server.start()
        for name in ("", *SERVICE_NAMES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, drain_timeout_s: float) -> bool:
        """Refuses new sessions, lets running ones end, then stops.

        Args:
          drain_timeout_s: sessions still running after this are ended with UNAVAILABLE.

        Returns:
          True if all sessions ended by themselves.
        """
        self._is_draining = True
        await self._health.enter_graceful_shutdown()
        loop = asyncio.get_running_loop()
        # Not in the tokenizers' pool: sessions that are ending need it.
        is_drained = await loop.run_in_executor(None, self._orchestrator.drain, drain_timeout_s)
        await loop.run_in_executor(None, self._orchestrator.close)
        await self._server.stop(_STOP_GRACE_S)
        self._pool.shutdown(wait=True, cancel_futures=True)
        return is_drained

    def _register(self, server: grpc.aio.Server) -> None:
        tenants, pool, model, config = self._tenants, self._pool, self._model, self._config
        streaming = StreamingContextServicer(
            tenants,
            pool,
            model.default_max_tokens,
            open_timeout_s=config.open_timeout_s,
            send_timeout_s=config.send_timeout_s,
        )
        streaming_pb2_grpc.add_StreamingContextServicer_to_server(streaming, server)
        info_pb2_grpc.add_InfoServicer_to_server(InfoServicer(self._orchestrator, model), server)
        jetstream = OrchestratorServicer(
            tenants,
            pool,
            model.eos_token_ids,
            lambda: not self._is_draining,
            config.jetstream,
            send_timeout_s=config.send_timeout_s,
        )
        jetstream_pb2_grpc.add_OrchestratorServicer_to_server(jetstream, server)
        multi_lora_decoding_pb2_grpc.add_v1Servicer_to_server(AdapterServicer(), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


def _options(config: GrpcConfig) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_concurrent_streams", config.max_streams),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Two servers on one port would share its connections silently.
        ("grpc.so_reuseport", 0),
    )


async def wait_for_signal() -> signal.Signals:
    """Waits for SIGTERM or SIGINT; a second one has its usual effect."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()

    def receive(number: signal.Signals) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        received.set_result(number)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, receive, each)
    return await received
