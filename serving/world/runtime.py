"""JAX's own part of a world. Importing this module imports the accelerator library."""

import logging

import jax

from s2l_jax.core.errors import InvalidArgument, Unavailable
from serving.world.config import WorldConfig

_log = logging.getLogger(__name__)
_HEARTBEATS_S = 3  # silences: ours is noticed first, and says more
_SHUTDOWN_S = 10


def start_runtime(config: WorldConfig) -> None:
    """Makes the devices of all processes known to each of them; nothing may have run on any before.

    Raises:
      InvalidArgument: the port beside that of plans cannot be had.
      Unavailable: the processes could not be brought together.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending a process
    jax.config.update("jax_enable_recoverability", True)  # or a process that dies aborts the others without a word
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.size,
            config.rank,
            cluster_detection_method="deactivate",
            coordinator_bind_address=config.coordinator,
            initialization_timeout=int(config.join_s) + 1,
            heartbeat_timeout_seconds=int(_HEARTBEATS_S * config.silence_s) + 1,
            shutdown_timeout_seconds=_SHUTDOWN_S,
        )
    except RuntimeError as error:
        first_line = str(error).strip().split("\n", maxsplit=1)[0]
        if config.rank == 0:
            raise InvalidArgument(f"jax.distributed cannot be started at {config.coordinator}: {first_line}") from error
        raise Unavailable(f"jax.distributed cannot be reached at {config.coordinator}: {first_line}") from error


def stop_runtime() -> None:
    """Parts from the others, which do the same now."""
    try:
        jax.distributed.shutdown()
    except RuntimeError as error:
        _log.warning("the processes of this world did not part in order: %s", error)
