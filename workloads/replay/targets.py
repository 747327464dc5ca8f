"""Chooses the target that a user names."""

from s2l_jax.core.errors import InvalidArgument
from serving.client.channel import address_of
from workloads.replay.grpc_target import GrpcTarget
from workloads.replay.target import Target

ENGINE = "engine"


def make_target(spec: str, model: str, policy: str) -> Target:
    """A target for `grpc://HOST:PORT`, or for `engine`: this process, without a server.

    Args:
      spec: what the user gave.
      model: `engine` only: what to load.
      policy: `engine` only: scheduling policy, empty for the default.

    Raises:
      InvalidArgument: the target is neither of the two.
    """
    if spec == ENGINE:
        from workloads.replay.engine_target import EngineTarget

        return EngineTarget(model, policy)
    if not spec.startswith("grpc://"):
        raise InvalidArgument(f"--target is {spec!r}, but must be grpc://HOST:PORT or {ENGINE}")
    address_of(spec)
    return GrpcTarget(spec)
