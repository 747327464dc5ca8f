"""Engines in other processes, as members of this process's deployment."""

import logging
import threading
import time
from dataclasses import replace

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import CostModel
from s2l_jax.core.errors import InvalidArgument, S2LError
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.config import EngineConfig
from s2l_jax.models.config import ModelConfig
from s2l_jax.orchestrator.config import Role
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.remote.engine import RemoteEngine

_log = logging.getLogger(__name__)
_ROLES: dict[str, Role] = {"prefill": "prefill", "generate": "generate", "both": "both"}
REJOIN_S = 2.0


def description_of(
    role: Role, model: ModelConfig, sizes: EngineConfig, quantization: str | None, version: str
) -> pb.EngineDescription:
    """What an engine says of itself."""
    page = [model.num_layers, model.num_kv_heads, sizes.block_size, 2 * model.head_dim]
    return pb.EngineDescription(
        role=role,
        model=f"{model.name} {model.num_layers}x{model.hidden_size} {quantization or ''}".strip(),
        version=version,
        kv=f"{page} {sizes.dtype}",
        num_blocks=sizes.num_blocks,
        block_size=sizes.block_size,
        token_budget=sizes.token_budget,
        max_batch=sizes.max_batch,
        max_sessions=sizes.max_sessions,
        max_model_len=sizes.max_model_len,
        host_blocks=sizes.host_blocks,
    )


class Peers:
    """Finds engines, checks that they fit, and takes them in again when they come back.

    Args:
      addresses: `HOST:PORT` of each.
      own: what this process's own engine says of itself.
      limits: of its scheduler.
      costs: what schedulers reckon with.
    """

    def __init__(
        self, addresses: tuple[str, ...], own: pb.EngineDescription, limits: SchedulerConfig, costs: CostModel
    ) -> None:
        self._addresses = addresses
        self._own = own
        self._limits = limits
        self._costs = costs

    def units(self, first: int) -> list[EngineUnit]:
        """All peers, to be members from index `first` on.

        Raises:
          InvalidArgument: one has another model, or other pages.
          Unavailable: one does not answer.
        """
        return [self._unit(address, first + number) for number, address in enumerate(self._addresses)]

    def watch(self, orchestrator: Orchestrator, first: int) -> None:
        """Takes peers in again that were lost and answer now, as long as sessions may be opened."""
        threading.Thread(target=self._watch, args=(orchestrator, first), name="s2l-rejoin", daemon=True).start()

    def _unit(self, address: str, index: int) -> EngineUnit:
        engine = RemoteEngine(address)
        try:
            found = engine.describe()
            self._check(found, address)
            scheduler = Scheduler(self._limits_of(found, index), self._costs)
            return EngineUnit(engine, scheduler, _ROLES[found.role], engine)
        except BaseException:
            engine.close()
            raise

    def _check(self, found: pb.EngineDescription, address: str) -> None:
        for name in ("model", "version", "kv", "max_model_len"):
            theirs, ours = getattr(found, name), getattr(self._own, name)
            if theirs != ours:
                raise InvalidArgument(f"the engine at {address} has {name} {theirs!r}, but here it is {ours!r}")

    def _limits_of(self, found: pb.EngineDescription, index: int) -> SchedulerConfig:
        return replace(
            self._limits,
            num_blocks=found.num_blocks,
            token_budget=found.token_budget,
            max_batch=found.max_batch,
            max_sessions=found.max_sessions,
            host_blocks=found.host_blocks,
            role="prefill" if found.role == "prefill" else "both",
            seed=index,
        )

    def _watch(self, orchestrator: Orchestrator, first: int) -> None:
        while orchestrator.unready() is None:
            time.sleep(REJOIN_S)
            engines = orchestrator.stats().engines
            for number, address in enumerate(self._addresses):
                if engines[first + number].failure is None:
                    continue
                try:
                    orchestrator.replace(first + number, self._unit(address, first + number))
                except S2LError as error:
                    _log.info("the engine at %s cannot be taken in again yet: %s", address, error)
                except Exception:  # noqa: BLE001 - the watch goes on whatever one of them does
                    _log.exception("the engine at %s could not be taken in again", address)
                else:
                    _log.warning("the engine at %s has joined again", address)
