"""`s2l serve --world-rank N`, N > 0: a process that follows rank 0."""

from collections.abc import Callable

from s2l_jax.engine.engine import JaxEngine
from serving.assembly import Progress, build
from serving.config import ServeConfig
from serving.world.following import follow
from serving.world.runtime import stop_runtime
from serving.world.start import join


def run_follower(config: ServeConfig, progress: Progress, on_warm: Callable[[], None]) -> None:
    """Builds this process's part of an engine and follows rank 0 until it parts.

    Args:
      config: as rank 0's; what matters is checked.
      progress: told how far loading and compiling are.
      on_warm: called once this process can do its part.

    Raises:
      InvalidArgument: this process was started otherwise than rank 0.
      Unavailable: rank 0 does not come.
    """
    follower = join(config)
    engine = build(config, progress, follower).engine
    assert isinstance(engine, JaxEngine)
    follow(engine, follower, lambda done, total, name: progress("compile", done, total, name), on_warm)
    stop_runtime()
    follower.close()
