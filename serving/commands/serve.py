"""`s2l serve`: a model behind gRPC and HTTP."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2l_jax.core.config import PREEMPTION_MODES
from serving.commands.joining import Joining, joining_options
from serving.commands.protection import Protection, protection_options
from serving.commands.ready_file import write_ready_file
from serving.commands.watch_options import engine_watch_options, take_watch_config
from serving.commands.world_options import take_world_config, world_options
from serving.config import DEFAULT_MODEL, DTYPES, KV_TRANSPORTS, QUANTIZATIONS, ServeConfig, default_cache_dir

if TYPE_CHECKING:
    from serving.assembly import Assembly
    from serving.grpc.server import GrpcConfig
    from serving.http.server import HttpConfig
    from serving.replicas.joined import Joined
    from serving.watch.observation import Observation
    from serving.watch.start import Startup

_DEFAULTS = ServeConfig(cache_dir=None)


@click.command(epilog="Example: s2l serve --model smollm2-135m --port 9000 --max-model-len 4096")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name (see s2l models list) or path.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--http-port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 is without HTTP.")
@click.option("--slices", help="Devices to split the model over: cpu=2, gpu=1, tpu=4, v5e-8.  [default: one device]")
@click.option("--prefill-slices", help="Devices of engines that only compute contexts, one slice each: cpu=2,cpu=2.")
@click.option("--generate-slices", help="Devices of engines that only generate, likewise; goes with the option above.")
@click.option(
    "--role", help="prefill or generate: with --peers, of this process's own engine; without, an engine alone."
)
@click.option("--peers", help="HOST:PORT of engines in other processes, started with --role and without --peers.")
@click.option(
    "--send-ahead/--no-send-ahead",
    default=True,
    show_default=True,
    help="Whether KV leaves for the engine that will generate while the context is still being computed.",
)
@world_options
@click.option(
    "--kv-transport",
    type=click.Choice(KV_TRANSPORTS),
    default=_DEFAULTS.kv_transport,
    show_default=True,
    help="How KV gets to engines in other processes; jax: from device to device, for private networks only.",
)
@click.option("--max-model-len", type=int, help="Tokens of prompt and output together.  [default: the model's limit]")
@click.option("--kv-blocks", type=int, help="KV blocks in the pool.  [default: a share of the memory]")
@click.option("--block-size", default=_DEFAULTS.block_size, show_default=True, help="Tokens a block holds.")
@click.option("--token-budget", default=_DEFAULTS.token_budget, show_default=True, help="Tokens per engine step.")
@click.option("--max-batch", default=_DEFAULTS.max_batch, show_default=True, help="Sessions per engine step.")
@click.option("--max-sessions", default=_DEFAULTS.max_sessions, show_default=True, help="Sessions open at once.")
@click.option("--policy", default=_DEFAULTS.policy, show_default=True, help="Who goes first when not all can.")
@click.option("--host-kv-gib", type=float, help="GiB of host memory for KV, 0 for none.  [default: a share of it]")
@click.option(
    "--preemption",
    type=click.Choice(PREEMPTION_MODES),
    default=_DEFAULTS.preemption,
    show_default=True,
    help="What becomes of KV that a session loses: thrown away, copied to the host, or what costs less.",
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Of weights and KV.  [default: what this machine is fast at]")
@click.option("--quantization", type=click.Choice(QUANTIZATIONS), help="Quantise weights.  [default: as they are]")
@click.option("--default-max-tokens", default=_DEFAULTS.default_max_tokens, show_default=True, help="Output limit.")
@click.option("--idle-timeout-s", default=_DEFAULTS.idle_timeout_s, show_default=True, help="Ends silent sessions.")
@click.option(
    "--step-timeout-s",
    default=_DEFAULTS.step_timeout_s,
    show_default=True,
    help="An engine that ends no step for this long is given up.",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help=f"Of executables and measurements.  [default: {default_cache_dir().parent}]",
)
@click.option("--drain-timeout-s", default=30.0, show_default=True, help="Time for sessions to end after SIGTERM.")
@click.option("--jetstream-temperature", default=0.0, show_default=True, help="Of requests by JetStream's clients.")
@protection_options
@joining_options
@click.option(
    "--ready-file", type=click.Path(path_type=Path), help="Written (JSON with host, ports, pid) when serving."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@engine_watch_options
def serve(
    host: str,
    port: int,
    http_port: int,
    drain_timeout_s: float,
    jetstream_temperature: float,
    cache_dir: Path | None,
    ready_file: Path | None,
    quiet: bool,
    protection: Protection,
    joining: Joining | None,
    **options: Any,
) -> None:
    """Serve a model over gRPC and HTTP.

    Sessions take context while it is still arriving (service s2l.v1.StreamingContext); JetStream's clients find their
    service on the same port, beside health checks and reflection, and OpenAI's clients find theirs on --http-port.
    SIGTERM and Ctrl-C let running sessions end first.
    """
    if cache_dir is not None:
        options |= {"cache_dir": cache_dir, "profile_dir": cache_dir / "profiles"}
    watching = take_watch_config(options)
    world = take_world_config(options)
    config = ServeConfig(world=world, **options)
    from serving.assembly import assemble
    from serving.commands.progress import progress_bars
    from serving.grpc.jetstream import JetStreamConfig
    from serving.grpc.server import GrpcConfig
    from serving.http.server import HttpConfig
    from serving.logs.logs import logging_to
    from serving.runner import run
    from serving.watch.start import Startup, facts_of, watched

    if config.world is not None and config.world.rank > 0:
        _follow(config, ready_file, quiet=quiet)
        return
    if config.role is not None and config.peers is None:
        _serve_engine(config, host, port, protection, ready_file, quiet=quiet)
        return
    context = click.get_current_context()
    logs = context.with_resource(logging_to(watching.log_format, watching.log_level))
    warning = protection.warning(host)
    if warning is not None:
        click.echo(f"Warning: {warning}", err=True)
    startup = Startup()
    with progress_bars(quiet=quiet) as progress:
        assembly = assemble(config, startup.timed(progress), peer_tls=protection.peer_tls, host=host)
    facts = facts_of(assembly, startup)
    observation = context.with_resource(watched(assembly.orchestrator, facts, watching, logs))
    jetstream = JetStreamConfig(temperature=jetstream_temperature)
    grpc_config = GrpcConfig(host, port, jetstream=jetstream, tls=protection.tls)
    http_config = None
    if http_port:
        http_config = HttpConfig(
            host,
            http_port,
            tls=protection.tls,
            open_paths=protection.open_paths,
            cors_origins=protection.cors_origins,
        )
    serving = _serve(
        assembly,
        grpc_config,
        http_config,
        protection.api_keys,
        observation,
        drain_timeout_s,
        ready_file,
        startup,
        joining,
    )
    if assembly.leader is None:
        run(serving)
        return
    from serving.world.serving_leader import draining_when_lost

    with draining_when_lost(assembly.leader, assembly.orchestrator, drain_timeout_s):
        run(serving)


def _follow(config: ServeConfig, ready_file: Path | None, *, quiet: bool) -> None:
    """One of the processes of an engine whose server is elsewhere."""
    from serving.commands.progress import progress_bars
    from serving.world.run import run_follower

    def on_warm() -> None:
        assert config.world is not None
        click.echo(f"rank {config.world.rank} of {config.world.size} follows {config.world.address}")
        if ready_file is not None:
            write_ready_file(ready_file, config.world.host, config.world.port, None)

    with progress_bars(quiet=quiet) as progress:
        run_follower(config, progress, on_warm)


def _serve_engine(
    config: ServeConfig, host: str, port: int, protection: Protection, ready_file: Path | None, *, quiet: bool
) -> None:
    """An engine that waits for an orchestrator in another process."""
    from serving.commands.progress import progress_bars
    from serving.remote.run import run_engine

    warning = protection.engine_warning(host)
    if warning is not None:
        click.echo(f"Warning: {warning}", err=True)

    def on_ready(bound: int) -> None:
        click.echo(f"an engine to {config.role} waits for its orchestrator at {host}:{bound}")
        if ready_file is not None:
            write_ready_file(ready_file, host, bound, None)

    with progress_bars(quiet=quiet) as progress:
        run_engine(config, f"{host}:{port}", protection.tls, progress, on_ready)


async def _serve(
    assembly: "Assembly",
    config: "GrpcConfig",
    http_config: "HttpConfig | None",
    api_keys: Path | None,
    observation: "Observation",
    drain_timeout_s: float,
    ready_file: Path | None,
    startup: "Startup",
    joining: Joining | None,
) -> None:
    from serving.grpc.server import GrpcServer, wait_for_signal
    from serving.http.server import HttpServer
    from serving.tenants.tenants import Tenants

    orchestrator, model = assembly.orchestrator, assembly.model
    tenants = Tenants(orchestrator, api_keys)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, tenants.reload)
    server = GrpcServer(orchestrator, model, config, tenants)
    http = None
    if http_config is not None:
        http = HttpServer(
            orchestrator, model, assembly.tokenizer, assembly.chat_template, http_config, observation, tenants
        )
    try:
        http_port = None if http is None else await http.start()
        port = await server.start()
        joined = None if joining is None else await _join(joining, assembly)
    except BaseException:
        orchestrator.close()
        raise
    _announce(assembly, config, port, http_port, startup.passed_s)
    if ready_file is not None:
        write_ready_file(ready_file, config.host, port, http_port)
    number = await wait_for_signal()
    click.echo(f"{number.name}: no new sessions, running ones have {drain_timeout_s:g} s to end (again to stop now)")
    if joined is not None:
        await joined.leave()
    is_drained = await server.stop(drain_timeout_s)
    if http is not None:
        # Last, so that it says until then that it is not ready, and what it still has to send is sent.
        await http.stop()
    if joined is not None:
        await joined.close()
    click.echo("stopped, all sessions had ended" if is_drained else "stopped, some sessions were cut off")


async def _join(joining: Joining, assembly: "Assembly") -> "Joined":
    from serving.replicas.joined import Joined

    joined = await Joined.start(
        joining.namespace, joining.discovery, assembly.orchestrator, assembly.model, assembly.engine.block_size
    )
    click.echo(f"Serving s2l route --dynamo {joining.namespace} as well")
    return joined


def _announce(assembly: "Assembly", config: "GrpcConfig", port: int, http_port: int | None, took_s: float) -> None:
    sizes, model, host = assembly.engine, assembly.model, config.host
    s = "" if config.tls is None else "s"
    click.echo(
        f"{model.name} ({sizes.dtype}, up to {model.max_model_len} tokens, "
        f"{sizes.num_blocks} KV blocks of {sizes.block_size} and {sizes.host_blocks} on the host) "
        f"is ready after {took_s:.1f} s\n"
        f"Listening on grpc{s}://{host}:{port}  -  try: s2l ask 'What is this about?' --context README.md "
        f"--target grpc{s}://{host}:{port}"
    )
    if len(assembly.deployed) > 1:
        click.echo("\n".join(f"Engine {i}: {role} on {place}" for i, (role, place) in enumerate(assembly.deployed)))
    if http_port is not None:
        click.echo(f"Listening on http{s}://{host}:{http_port}/v1  -  try: curl http{s}://{host}:{http_port}/v1/models")
