"""An engine that measures itself once it is warm, on the thread that owns it."""

from collections.abc import Callable

from cost_profiles.probe import probe
from cost_profiles.profile import Profile
from s2l_jax.core.costs import CostModel, PhysicalCosts, StepShape
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.protocol import Engine, Progress


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


class ProbingEngine:
    """Passes everything on to an engine, and probes it at the end of `warmup`.

    Args:
      engine: what to measure.
      config: its sizes.
      on_profile: given the profile, on the thread that called `warmup`.
    """

    def __init__(self, engine: Engine, config: EngineConfig, on_profile: Callable[[Profile], None]) -> None:
        self._engine = engine
        self._config = config
        self._on_profile = on_profile
        self.submit = engine.submit
        self.collect = engine.collect
        self.is_ready = engine.is_ready
        self.execute = engine.execute
        self.close = engine.close

    def warmup(self, progress: Progress | None = None) -> None:
        """See `Engine.warmup`."""
        self._engine.warmup(progress)
        self._on_profile(probe(self._engine, self._config))
