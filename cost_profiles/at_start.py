"""Costs of the machine that a server starts on: kept from an earlier start, or measured once the engine is warm.

Only the engine's owner may run it, and that thread is started last, with the scheduler complete. So the engine measures
itself at the end of its warm-up, and a scheduler that was given `LateCosts` has the figures before the first session.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from cost_profiles.measurement import MachineKey, Measurement
from cost_profiles.probe import probe
from cost_profiles.store import load_profile, save_profile
from s2l_jax.core.costs import CostModel, PhysicalCosts, StepShape
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.protocol import Engine, Progress

_log = logging.getLogger(__name__)


class LateCosts:
    """A cost model that is known only after its scheduler has been made: default costs until then."""

    def __init__(self) -> None:
        self.costs: CostModel = PhysicalCosts()

    def step(self, shape: StepShape) -> float:
        """See `CostModel.step`."""
        return self.costs.step(shape)

    def recompute(self, tokens: int, context: int) -> float:
        """See `CostModel.recompute`."""
        return self.costs.recompute(tokens, context)

    def tokens_within(self, seconds: float, context: int) -> int:
        """See `CostModel.tokens_within`."""
        return self.costs.tokens_within(seconds, context)

    def swap_out(self, blocks: int) -> float:
        """See `CostModel.swap_out`."""
        return self.costs.swap_out(blocks)

    def swap_in(self, blocks: int) -> float:
        """See `CostModel.swap_in`."""
        return self.costs.swap_in(blocks)

    def handoff(self, blocks: int) -> float:
        """See `CostModel.handoff`."""
        return self.costs.handoff(blocks)


class ProbingEngine:
    """Passes everything on to an engine, and probes it at the end of `warmup`.

    Args:
      engine: what to measure.
      config: its sizes.
      on_profile: given the profile, on the thread that called `warmup`.
      on_probe: called with 0 when measuring begins, with 1 when it is done.
    """

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        on_profile: Callable[[Measurement], None],
        on_probe: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._config = config
        self._on_profile = on_profile
        self._on_probe = on_probe
        self.submit = engine.submit
        self.collect = engine.collect
        self.is_ready = engine.is_ready
        self.execute = engine.execute
        self.close = engine.close

    def warmup(self, progress: Progress | None = None) -> None:
        """See `Engine.warmup`."""
        self._engine.warmup(progress)
        self._on_probe(0)
        self._on_profile(probe(self._engine, self._config))
        self._on_probe(1)


def machine_costs(
    engine: Engine, config: EngineConfig, key: MachineKey, directory: Path | None, on_probe: Callable[[int], None]
) -> tuple[Engine, CostModel]:
    """Finds the costs that were measured for this key, or arranges for measuring them.

    Args:
      engine: not warm yet.
      config: its sizes.
      key: what it is measured on.
      directory: where profiles are kept; None keeps none, and measures.
      on_probe: as `ProbingEngine`; not called if there is a profile.

    Returns:
      The engine to warm up, and its costs, which may be known only after that.
    """
    kept = load_profile(directory, key) if directory is not None else None
    if kept is not None:
        return engine, kept.costs
    costs = LateCosts()

    def take(profile: Measurement) -> None:
        costs.costs = profile.costs
        if directory is None:
            return
        try:
            save_profile(directory, key, profile)
        except OSError as error:
            _log.warning("the measurements of this machine cannot be kept, the next start measures again: %s", error)

    return ProbingEngine(engine, config, take, on_probe), costs
