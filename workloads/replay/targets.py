"""Chooses the target that a user names."""

from dataclasses import replace
from typing import TYPE_CHECKING

from s2l_jax.core.errors import InvalidArgument
from serving.client.channel import address_of
from serving.config import ServeConfig
from workloads.replay.grpc_target import GrpcTarget
from workloads.replay.target import Target

if TYPE_CHECKING:
    from serving.assembly import Progress

ENGINE = "engine"
_IDLE_TIMEOUT_S = 600.0  # a replayed stream may be silent for long


def make_target(spec: str, engine: ServeConfig | None = None, progress: "Progress | None" = None) -> Target:
    """A target for `grpc://HOST:PORT`, or for `engine`: this process, without a server.

    Args:
      spec: what the user gave.
      engine: `engine` only: what to load, and how to run it; its idle time-out is replaced by a long one.
      progress: `engine` only: told how far loading and compiling are.

    Raises:
      InvalidArgument: the target is neither of the two.
    """
    if spec == ENGINE:
        from workloads.replay.engine_target import EngineTarget

        return EngineTarget(replace(engine or ServeConfig(), idle_timeout_s=_IDLE_TIMEOUT_S), progress)
    if not spec.startswith("grpc://"):
        raise InvalidArgument(f"--target is {spec!r}, but must be grpc://HOST:PORT or {ENGINE}")
    address_of(spec)
    return GrpcTarget(spec)
