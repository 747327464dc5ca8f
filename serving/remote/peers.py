"""Engines in other processes, as members of this process's deployment."""

import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import CostModel
from s2l_jax.core.errors import InvalidArgument, S2LError, Unavailable
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.errors import EngineGone
from s2l_jax.models.config import ModelConfig
from s2l_jax.orchestrator.config import Role
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.client.tls import ClientTls
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.remote.engine import RemoteEngine

_log = logging.getLogger(__name__)
_ROLES: dict[str, Role] = {"prefill": "prefill", "generate": "generate", "both": "both"}
REJOIN_S = 2.0
_LOOK_S = 1.0
_NOTICED_S = 0.02


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
      tls: certificates for the way there; None is without TLS.

    Attributes:
      engines: those that were found at first.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        own: pb.EngineDescription,
        limits: SchedulerConfig,
        costs: CostModel,
        tls: ClientTls | None = None,
    ) -> None:
        self._addresses = addresses
        self._own = own
        self._limits = limits
        self._costs = costs
        self._tls = tls
        self.engines: list[RemoteEngine] = []

    def units(self, first: int) -> list[EngineUnit]:
        """All peers, to be members from index `first` on. One that does not answer yet is lost from the beginning.

        Raises:
          InvalidArgument: one has another model, or other pages.
        """
        with ThreadPoolExecutor(len(self._addresses)) as pool:
            found = list(pool.map(self._unit_or_none_yet, self._addresses, itertools.count(first)))
        self.engines = [engine for engine, _ in found]
        return [unit for _, unit in found]

    def watch(self, orchestrator: Orchestrator, first: int) -> None:
        """Says when peers are gone, and takes in again those that answer, as long as sessions may be opened."""
        for index, engine in enumerate(self.engines, first):
            name = f"s2l-peer-{index}"
            threading.Thread(target=self._watch, args=(orchestrator, index, engine), name=name, daemon=True).start()

    def _unit_or_none_yet(self, address: str, index: int) -> tuple[RemoteEngine, EngineUnit]:
        try:
            return self._unit(address, index)
        except Unavailable as error:
            _log.warning("%s: this server begins without it", error)
            engine = RemoteEngine(address, self._tls)
            engine.close()  # were it there in a moment, it would not be the one that is described here
            role: Role = "generate" if self._own.role == "prefill" else "prefill"
            scheduler = Scheduler(replace(self._limits, role="prefill" if role == "prefill" else "both"), self._costs)
            return engine, EngineUnit(engine, scheduler, role, engine)

    def _unit(self, address: str, index: int) -> tuple[RemoteEngine, EngineUnit]:
        engine = RemoteEngine(address, self._tls)
        try:
            found = engine.describe()
            self._check(found, address)
            scheduler = Scheduler(self._limits_of(found, index), self._costs)
            return engine, EngineUnit(engine, scheduler, _ROLES[found.role], engine)
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

    def _watch(self, orchestrator: Orchestrator, index: int, engine: RemoteEngine) -> None:
        """Runs on a thread of its own for each peer, so that none waits for another that does not answer."""
        said = ""
        while orchestrator.unready() is None:
            if engine.gone.wait(_LOOK_S):
                orchestrator.lose(index, engine.why_gone)
            if orchestrator.stats().engines[index].failure is None:
                time.sleep(_NOTICED_S)
                continue
            engine.close()  # its thread may be waiting for a step that will not end
            try:
                engine = self._join_again(orchestrator, index, engine.address)
            except Exception as error:  # noqa: BLE001 - the watch goes on, whatever it is
                if str(error) != said:
                    said = str(error)
                    about = None if isinstance(error, S2LError | EngineGone) else error
                    _log.warning("the engine at %s is not taken in yet: %s", engine.address, said, exc_info=about)
                time.sleep(REJOIN_S)
            else:
                said = ""
                _log.warning("the engine at %s has joined again", engine.address)

    def _join_again(self, orchestrator: Orchestrator, index: int, address: str) -> RemoteEngine:
        engine, unit = self._unit(address, index)
        try:
            orchestrator.replace(index, unit)
        except BaseException:
            engine.close()
            raise
        return engine
