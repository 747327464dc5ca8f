"""Brings the processes of a world together. Importing this module imports the accelerator library."""

import hashlib
import os
import signal
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from flax import nnx

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.engine.config import EngineConfig
from serving.config import ServeConfig
from serving.world.config import WorldConfig
from serving.world.follower import Follower
from serving.world.leader import Leader
from serving.world.link import Link
from serving.world.meeting import meet
from serving.world.runtime import start_runtime

_ALIKE = (
    *("model", "dtype", "quantization", "slices", "max_model_len", "kv_blocks", "block_size", "token_budget"),
    *("max_batch", "max_sessions", "host_kv_gib"),
)


def lead(config: ServeConfig) -> Leader:
    """Waits for all other processes, and makes their devices known here.

    Raises:
      InvalidArgument: the address cannot be had.
      Unavailable: they do not come.
    """
    links, world = _join(config)
    return Leader(links, world, config.step_timeout_s, on_drain=lambda: os.kill(os.getpid(), signal.SIGTERM))


def join(config: ServeConfig) -> Follower:
    """Waits for rank 0 and all others, and makes their devices known here.

    Raises:
      InvalidArgument: this process was started otherwise than rank 0.
      Unavailable: rank 0 does not come.
    """
    links, world = _join(config)
    return Follower(links[0], world, config.step_timeout_s)


def agreed(member: Leader | Follower, sizes: EngineConfig, model: nnx.Module) -> EngineConfig:
    """The sizes that all processes have room for. What all have of a model must be equal, or the world ends."""
    own = {"num_blocks": sizes.num_blocks, "host_blocks": sizes.host_blocks, "weights": fingerprint(model)}
    if isinstance(member, Follower):
        return _sized(sizes, member.agree(own))

    def choose(said: list[dict[str, Any]]) -> dict[str, Any]:
        if len({each["weights"] for each in said}) > 1:
            member.watchdog.lose("processes have read different weights: give all of them the same model")
        return {name: min(each[name] for each in said) for name in ("num_blocks", "host_blocks")}

    return _sized(sizes, member.agree(own, choose))


def fingerprint(model: nnx.Module) -> str:
    """Of the weights that every device has all of."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(model)):
        if leaf.is_fully_replicated:
            digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _join(config: ServeConfig) -> tuple[dict[int, Link], WorldConfig]:
    world = config.world
    if world is None:
        raise InvalidArgument("this process is of no world: give --world-size, --world-rank and --world-address")
    links = meet(world, facts_of(config))
    start_runtime(world)
    return links, world


def facts_of(config: ServeConfig) -> dict[str, str]:
    """What all processes of an engine must have been started with."""
    options = {f"--{name.replace('_', '-')}": str(getattr(config, name)) for name in _ALIKE}
    return options | {"s2l": version("s2l-jax"), "jax": jax.__version__}


def _sized(sizes: EngineConfig, chosen: dict[str, int]) -> EngineConfig:
    return replace(sizes, num_blocks=chosen["num_blocks"], host_blocks=chosen["host_blocks"])
