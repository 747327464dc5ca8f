"""Something to time on an engine, and how it is timed. Shared by the quick probe of a server and the full measurement.

Pages hold nothing that matters: measuring comes before any session, and leaves junk in pages and host slots that nobody
has been given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from cost_profiles.measurement import Copy
from cost_profiles.work import Work
from s2l_jax.core.ids import BlockId, HostSlot
from s2l_jax.core.plan import HostCopy, StepPlan, StepTiming
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.protocol import Engine

_EPOCH = 0  # the scheduler counts from 1

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A step of some work, a copy of some blocks, or both in one step.

    Attributes:
      plans: what runs, one after the other; its seconds add up.
      copy: what is copied; None for a step.
      blocks: how many are copied.
      work: of a step.
      is_whole: the step is timed as a whole, by the clock, with whatever the host does for it; a part of it is not.
    """

    plans: tuple[StepPlan, ...]
    copy: Copy | None = None
    blocks: int = 0
    work: Work | None = None
    is_whole: bool = False

    @classmethod
    def of_work(cls, work: Work, config: EngineConfig) -> Self:
        """A step; errors are those of `Work.plan`."""
        return cls((work.plan(config),), work=work)

    @classmethod
    def of_copy(cls, copy: Copy, blocks: int) -> Self:
        """A copy of the first blocks of either pool. What loads finds slots that an equal `swap_out` has filled.

        A hand-off goes through host memory, as it has to between two engines that share nothing else.
        """
        pages = _pages(blocks)
        save, load = StepPlan(1, (), (), saves=pages), StepPlan(1, (), (), loads=pages)
        return cls({"swap_out": (save,), "swap_in": (load,), "handoff": (save, load)}[copy], copy, blocks)

    @classmethod
    def of_both(cls, work: Work, copy: Literal["swap_out", "swap_in"], blocks: int, config: EngineConfig) -> Self:
        """A step that copies as well, or no block at all, timed as a whole; errors are those of `Work.plan`."""
        pages = _pages(blocks)
        saves, loads = (pages, ()) if copy == "swap_out" else ((), pages)
        return cls((work.plan(config)._replace(saves=saves, loads=loads),), copy, blocks, work, is_whole=True)

    def run(self, engine: Engine, now: Clock) -> float:
        """Seconds that it takes; those of a part on the engine's own clock, if it has one.

        Raises:
          InternalError: a step failed.
        """
        seconds = 0.0
        for plan in self.plans:
            began_s = now()
            timing = engine.execute(plan).timing
            part_s = 0.0 if self.is_whole else _part(timing, plan)
            seconds += part_s or now() - began_s
        return seconds


def copies(counts: Sequence[int], kinds: Sequence[Copy], config: EngineConfig) -> list[Trial]:
    """Trials of copies of so many blocks, as far as the pools hold them; saves first, so that loads find their slots.

    Args:
      counts: of blocks.
      kinds: what to copy; `swap_out` among them if `swap_in` is.
      config: of the engine; without a host pool there are no trials.
    """
    room = min(config.host_blocks, config.num_blocks)
    sizes = sorted({min(count, room) for count in counts}) if room else []
    return [Trial.of_copy(kind, blocks) for blocks in sizes for kind in kinds]


def _pages(blocks: int) -> tuple[HostCopy, ...]:
    return tuple(HostCopy(BlockId(index), HostSlot(index), _EPOCH) for index in range(blocks))


def _part(timing: StepTiming, plan: StepPlan) -> float:
    """The seconds that the engine measured itself, 0 if it did not."""
    if plan.chunks or plan.samples:
        return timing.compute_s
    return timing.save_s if plan.saves else timing.load_s
