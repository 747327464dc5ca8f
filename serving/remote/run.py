"""`s2l serve --role ROLE` without peers: an engine that waits for an orchestrator."""

from collections.abc import Callable
from importlib.metadata import version

from serving.assembly import Progress, build
from serving.config import ServeConfig
from serving.remote.choice import check_host
from serving.remote.host import EngineHost
from serving.remote.peers import description_of
from serving.remote.server import EngineServer, serve_until_signal
from serving.tls import ServerTls
from serving.world.start import lead


def run_engine(
    config: ServeConfig, address: str, tls: ServerTls | None, progress: Progress, on_ready: Callable[[int], None]
) -> None:
    """Builds an engine and serves it; see `serve_until_signal`.

    Args:
      config: of the engine; its role is one.
      address: `HOST:PORT` to listen on.
      tls: what it shows, and whom it lets in; None is without TLS.
      progress: told how far loading and compiling are.
      on_ready: given the port, once it can be reached.

    Raises:
      InvalidArgument: model, limits and machine do not go together, or the address cannot be bound.
    """
    host_name = address.rpartition(":")[0]
    if config.kv_transport == "jax":
        check_host(host_name, has_tls=tls is not None)
    built = build(config, progress, None if config.world is None else lead(config))
    built.engine.warmup(lambda done, total, name: progress("compile", done, total, name))
    model, sizes = built.model.config, built.sizes
    page_shape = (model.num_layers, model.num_kv_heads, sizes.block_size, 2 * model.head_dim)
    ((role, _),) = config.engine_slices
    description = description_of(role, model, sizes, built.model.quantization, version("s2l-jax"))
    link = None
    if config.kv_transport == "jax":
        from serving.remote.device_link import DeviceLink

        link = DeviceLink(host_name, built.devices[0])
        description.pulls_pages = True
    host = EngineHost(built.engine, built.engine, page_shape, sizes.dtype, link)
    serve_until_signal(host, EngineServer(host, description, address, tls), on_ready)
