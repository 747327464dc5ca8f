"""The HTTP server's life: it listens beside the gRPC server, in the same event loop."""

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import cast

import uvicorn

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.chat import ChatTemplate
from s2l_jax.models.tokenizer import Tokenizer
from serving.client.types import ModelInfo
from serving.http.app import make_app
from serving.http.backend import Backend
from serving.http.connection import Connection
from serving.session_owner import SessionOwner
from serving.tenants.tenants import Tenants
from serving.tls import ServerTls
from serving.tracing.context import ContextPool
from serving.watch.observation import Observation

_STOP_GRACE_S = 2


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where to listen, and limits of clients.

    Attributes:
      host: address to bind.
      port: port to bind; 0 lets the system choose.
      max_body_bytes: size of one request, or of one message of a WebSocket, at most.
      max_choices: answers that one request may ask for.
      tokenizer_threads: threads that tokenize.
      receive_timeout_s: time for a request's body to come.
      send_timeout_s: a client that takes nothing for this long is cut off.
      head_timeout_s: time for the head of a request to come, and for the first message of a WebSocket.
      keep_alive_s: a connection without a request stays open this long, longer than clients keep theirs, so that none
        sends a request while it is being closed.
      max_connections: connections at once.
      tls: the server's certificate; None is plain HTTP.
      open_paths: need no key on a server with keys, besides `/health` and `/ready`.
      cors_origins: sites whose pages may use the server; `*` is any.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body_bytes: int = 16 << 20
    max_choices: int = 64
    tokenizer_threads: int = 2
    receive_timeout_s: float = 60.0
    send_timeout_s: float = 60.0
    head_timeout_s: float = 20.0
    keep_alive_s: int = 65
    max_connections: int = 4096
    tls: ServerTls | None = None
    open_paths: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()


class HttpServer:
    """Serves one orchestrator. Belongs to the event loop it is started in; the orchestrator belongs to its owner.

    Args:
      orchestrator: owns sessions and engine.
      model: what is served.
      tokenizer: of the model.
      chat_template: how a conversation becomes a prompt, None if the model has none.
      config: where to listen.
      observation: what to show of the server, if it is watched.
      tenants: who may ask; None lets everybody.
    """

    def __init__(
        self,
        orchestrator: SessionOwner,
        model: ModelInfo,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate | None,
        config: HttpConfig,
        observation: Observation | None = None,
        tenants: Tenants | None = None,
    ) -> None:
        self._config = config
        self._pool = ContextPool(config.tokenizer_threads, thread_name_prefix="s2l-http-tokenizer")
        self._backend = Backend(
            orchestrator=orchestrator,
            model=model,
            tokenizer=tokenizer,
            chat_template=chat_template,
            pool=self._pool,
            max_choices=config.max_choices,
            send_timeout_s=config.send_timeout_s,
            open_timeout_s=config.head_timeout_s,
            origins=frozenset(config.cors_origins),
        )
        app = make_app(
            self._backend,
            tenants or Tenants(orchestrator),
            max_body_bytes=config.max_body_bytes,
            receive_timeout_s=config.receive_timeout_s,
            open_paths=config.open_paths,
            observation=observation,
        )
        connection = functools.partial(
            Connection, max_connections=config.max_connections, head_timeout_s=config.head_timeout_s
        )
        self._server = _Server(
            uvicorn.Config(
                app,
                # On h11, which bounds the size of headers; the faster parser does not.
                http=cast("type[asyncio.Protocol]", connection),
                ws="websockets-sansio",
                ws_max_size=config.max_body_bytes,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_STOP_GRACE_S,
                timeout_keep_alive=config.keep_alive_s,
                ssl_context_factory=None if config.tls is None else _context_factory(config.tls),
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
          InvalidArgument: the address cannot be bound.
        """
        # What the library warns about is what clients send.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        listener = self._listen()
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="s2l-http")
        started = asyncio.create_task(self._server.has_started.wait())
        await asyncio.wait({self._serving, started}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            self._serving.result()
        port: int = listener.getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stops listening and lets answers be sent to their ends; the orchestrator should have been drained before."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _listen(self) -> socket.socket:
        config = self._config
        try:
            family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((config.host, config.port), family=family, backlog=2048)
        except OSError as error:
            raise InvalidArgument(
                f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another --http-port (0 is "
                "without HTTP) or --host"
            ) from error
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Inherited by connections: also one that is being closed is let go if its client takes nothing.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(config.send_timeout_s * 1000))
        return listener


def _context_factory(tls: ServerTls) -> Callable[..., ssl.SSLContext]:
    return lambda *_: tls.context()


class _Server(uvicorn.Server):
    """Leaves signals to the command that runs it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()
