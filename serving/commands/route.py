"""`s2l route`: one door to many servers."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.orchestrator.config import OrchestratorConfig
from serving.commands.joining import Joining, discovery_option
from serving.commands.protection import Protection, protection_options
from serving.commands.ready_file import write_ready_file
from serving.commands.watch_options import take_watch_config, watch_options
from serving.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from s2l_jax.models.registry import LoadedModel
    from serving.grpc.server import GrpcConfig
    from serving.http.server import HttpConfig
    from serving.logs.logs import Logs
    from serving.watch.config import WatchConfig

_WAITING_THREADS = 64  # each waits for a replica's answer to one event


@click.command(epilog="Example: s2l route --dynamo team --model smollm2-135m")
@click.option("--dynamo", "namespace", required=True, help="Namespace of the servers, as in s2l serve --dynamo.")
@discovery_option
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="Theirs: its tokenizer and template are needed."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--http-port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 is without HTTP.")
@click.option("--max-sessions", default=1024, show_default=True, type=click.IntRange(1), help="Sessions open at once.")
@click.option("--block-size", default=16, show_default=True, type=click.IntRange(1), help="That of the servers.")
@click.option("--drain-timeout-s", default=30.0, show_default=True, help="Time for sessions to end after SIGTERM.")
@protection_options
@watch_options
@click.option(
    "--ready-file", type=click.Path(path_type=Path), help="Written (JSON with host, ports, pid) when serving."
)
def route(
    namespace: str,
    discovery: str,
    model: str,
    host: str,
    port: int,
    http_port: int,
    max_sessions: int,
    block_size: int,
    drain_timeout_s: float,
    protection: Protection,
    ready_file: Path | None,
    **options: Any,
) -> None:
    """Serve the model of other servers, each session by one of them.

    A session goes to the server that has computed how its context begins, and is not busy with others, and stays there.
    If that server is lost, another one goes on with it: its client notices nothing.
    """
    from s2l_jax.models import registry
    from serving.grpc.server import GrpcConfig
    from serving.http.server import HttpConfig
    from serving.logs.logs import logging_to
    from serving.runner import run

    watching = take_watch_config(options)
    logs = click.get_current_context().with_resource(logging_to(watching.log_format, watching.log_level))
    warning = protection.warning(host)
    if warning is not None:
        click.echo(f"Warning: {warning}", err=True)
    loaded = registry.load(model, dtype="float32")  # of which no weight is ever read
    grpc_config = GrpcConfig(host, port, tls=protection.tls, tokenizer_threads=_WAITING_THREADS)
    http_config = HttpConfig(
        host,
        http_port,
        tls=protection.tls,
        open_paths=protection.open_paths,
        cors_origins=protection.cors_origins,
        tokenizer_threads=_WAITING_THREADS,
    )
    joining = Joining(namespace, discovery)
    run(
        _route(
            joining,
            watching,
            logs,
            loaded,
            max_sessions,
            block_size,
            grpc_config,
            http_config,
            protection,
            drain_timeout_s,
            ready_file,
        )
    )


async def _route(
    joining: Joining,
    watching: "WatchConfig",
    logs: "Logs",
    loaded: "LoadedModel",
    max_sessions: int,
    block_size: int,
    grpc_config: "GrpcConfig",
    http_config: "HttpConfig",
    protection: Protection,
    drain_timeout_s: float,
    ready_file: Path | None,
) -> None:
    from serving.grpc.server import GrpcServer, wait_for_signal
    from serving.http.server import HttpServer
    from serving.metrics.readings import ServerFacts
    from serving.replicas.dynamo import DynamoReplicas, connect
    from serving.replicas.router import Router
    from serving.tenants.tenants import Tenants
    from serving.watch.start import watched

    runtime = connect(joining.discovery)
    click.echo(f"looking for servers that were started with --dynamo {joining.namespace}")
    replicas = await DynamoReplicas.find(runtime, joining.namespace, block_size)
    model = await replicas.model()
    if model.name != loaded.config.name:
        raise InvalidArgument(f"--model is {loaded.config.name}, but the servers have {model.name}")
    limits = OrchestratorConfig(
        max_sessions=max_sessions,
        max_waiting=max_sessions,
        default_max_tokens=model.default_max_tokens,
        limit_max_tokens=model.max_model_len,
    )
    router = Router(replicas, asyncio.get_running_loop(), loaded.tokenizer, model.eos_token_ids, limits)
    facts = ServerFacts(model.name, model.server_version, model.policy, block_size)
    observation = click.get_current_context().with_resource(watched(router, facts, watching, logs))
    tenants = Tenants(router, protection.api_keys)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, tenants.reload)
    server = GrpcServer(router, model, grpc_config, tenants)
    http = None
    if http_config.port:
        http = HttpServer(router, model, loaded.tokenizer, loaded.chat_template, http_config, observation, tenants)
    http_port = None if http is None else await http.start()
    port = await server.start()
    click.echo(f"{model.name} of {len(replicas.present())} servers, on port {port}, HTTP on {http_port or 'none'}")
    if ready_file is not None:
        write_ready_file(ready_file, grpc_config.host, port, http_port)
    number = await wait_for_signal()
    click.echo(f"{number.name}: no new sessions, running ones have {drain_timeout_s:g} s to end (again to stop now)")
    is_drained = await server.stop(drain_timeout_s)
    if http is not None:
        await http.stop()
    runtime.shutdown()
    click.echo("stopped, all sessions had ended" if is_drained else "stopped, some sessions were cut off")
