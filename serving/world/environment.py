"""What launchers of process groups say in the environment of each process."""

from collections.abc import Mapping

from s2l_jax.core.errors import InvalidArgument

LAUNCHERS = ("lws", "tpu")


def placed_by(launcher: str, environment: Mapping[str, str]) -> tuple[int, int, str]:
    """Size and rank of a process group, and the host of its first process.

    Args:
      launcher: `lws` is Kubernetes' LeaderWorkerSet; `tpu` is what GKE tells the pods of a TPU slice of several hosts.
      environment: of this process.

    Raises:
      InvalidArgument: the environment does not say.
    """
    if launcher == "lws":
        size, rank = (_number(environment, name) for name in ("LWS_GROUP_SIZE", "LWS_WORKER_INDEX"))
        return size, rank, _text(environment, "LWS_LEADER_ADDRESS")
    hosts = _text(environment, "TPU_WORKER_HOSTNAMES").split(",")
    return len(hosts), _number(environment, "TPU_WORKER_ID"), hosts[0].strip()


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise InvalidArgument(
            f"--world reads {name} from the environment, which is not set: give --world-size, --world-rank and "
            "--world-address instead"
        )
    return value


def _number(environment: Mapping[str, str], name: str) -> int:
    value = _text(environment, name)
    if not value.isdecimal():
        raise InvalidArgument(f"--world reads {name} from the environment, which is {value!r} and no number")
    return int(value)
