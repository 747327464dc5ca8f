"""A profile: what some hardware costs with some model, how much memory it has, and where each figure comes from."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cost_profiles.measurement import CopyPoint, StepPoint
from cost_profiles.padding import PaddedCosts
from cost_profiles.record import read_record
from cost_profiles.served import LEAST_IDLE_S
from cost_profiles.work import Work
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.plan import StepPlan

PROFILE_VERSION = 3
Provenance = Literal["measured", "imported", "roofline", "calibrated"]
# The parts of the costs, each with its terms in `PhysicalCosts`.
PART_TERMS: Mapping[str, tuple[str, ...]] = {
    "steps": ("step_s", "token_s", "attended_s", "decode_s", "decode_context_s"),
    "swap_out": ("swap_out_s", "swap_out_block_s"),
    "swap_in": ("swap_in_s", "swap_in_block_s"),
    "handoff": ("handoff_s", "handoff_block_s"),
}
PARTS = tuple(PART_TERMS)


@dataclass(frozen=True, slots=True)
class ProfileMemory:
    """Memory of all devices of one engine together.

    Attributes:
      device_bytes: of the devices.
      host_bytes: of the host, for KV.
      weights_bytes: what the weights take of the devices.
      block_bytes: KV of one block, over all devices.
      block_tokens: tokens a block holds.

    Raises:
      InvalidArgument: a figure is too small.
    """

    device_bytes: int
    host_bytes: int
    weights_bytes: int
    block_bytes: int
    block_tokens: int = 16

    def __post_init__(self) -> None:
        for name in self.__slots__:
            least = 0 if name in {"host_bytes", "weights_bytes"} else 1
            if getattr(self, name) < least:
                raise InvalidArgument(f"{name} is {getattr(self, name)}, but must be at least {least}")

    def pool_blocks(self, kv_share: float) -> int:
        """Blocks in this share of the device memory that the weights leave.

        Raises:
          InvalidArgument: not one fits, or the share is not above 0 and at most 1.
        """
        if not 0.0 < kv_share <= 1.0:
            raise InvalidArgument(f"KV's share of memory is {kv_share}, but must be above 0 and at most 1")
        left_bytes = self.device_bytes - self.weights_bytes
        blocks = int(left_bytes * kv_share) // self.block_bytes
        if blocks < 1:
            raise InvalidArgument(
                f"weights of {self.weights_bytes / 1e9:.1f} GB leave no room for KV in "
                f"{self.device_bytes / 1e9:.1f} GB: take more devices, or give KV a larger share"
            )
        return blocks

    def host_blocks(self, host_bytes: int | None = None) -> int:
        """Blocks in so much host memory; None is all there is for KV."""
        return (self.host_bytes if host_bytes is None else host_bytes) // self.block_bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Where one part of the costs comes from.

    Attributes:
      provenance: how it came about.
      source: in words: which machine, paper, data sheet.
      r_squared: share of the points' variance that the costs explain; None without points.
      worst_error: largest relative error on a point; None without points.
    """

    provenance: Provenance
    source: str
    r_squared: float | None = None
    worst_error: float | None = None


@dataclass(frozen=True, slots=True)
class Residual:
    """How far a calibrated profile stays from one figure that it was fitted to."""

    what: str
    expected_s: float
    predicted_s: float

    @property
    def relative_error(self) -> float:
        """Above 0 if the prediction is too slow."""
        return self.predicted_s / self.expected_s - 1.0


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs and memory of one engine: hardware, model and parallelism together.

    Attributes:
      name: such as `h200-tp2-llama3.1-8b`.
      model: name of the model.
      hardware: in words.
      devices: how many chips one engine has.
      dtype: of weights and KV.
      memory: of all devices.
      max_model_len: tokens of prompt and output together, at most.
      costs: of steps and copies.
      latency_s: what a piece of context takes from the client to the scheduler, beside the device's work.
      parts: where the costs come from, by `PARTS`.
      steps: measured steps.
      copies: measured copies.
      residuals: what a calibration was fitted to.
      padded: what steps cost as the engine pads them; None if that is not known, or nothing is padded.
      exposed_copies: share of a copy's time by which it makes the step longer that it is in. 0: copies run beside the
        computation, and only what outlasts it counts; about 1 on a CPU, which has nothing else to copy with.
      serving_slowdown: how many times as long a step takes while a server runs it, beside the one that `costs` and
        `padded` have of an engine alone: on a CPU the orchestrator and its clients want the same cores.
      idle_slowdown: how many times as long a step takes that starts when the device has stood idle for `LEAST_IDLE_S`:
        clocks and caches may be cold.
      conditions: under which it was measured: when, with what software, how quiet the machine was.
    """

    name: str
    model: str
    hardware: str
    devices: int
    dtype: str
    memory: ProfileMemory
    max_model_len: int
    costs: PhysicalCosts
    latency_s: float = 0.0
    parts: Mapping[str, Part] = field(default_factory=dict)
    steps: tuple[StepPoint, ...] = ()
    copies: tuple[CopyPoint, ...] = ()
    residuals: tuple[Residual, ...] = ()
    padded: PaddedCosts | None = None
    exposed_copies: float = 0.0
    serving_slowdown: float = 1.0
    idle_slowdown: float = 1.0
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.parts) != set(PARTS):
            raise InvalidArgument(f"parts are {', '.join(self.parts) or 'none'}, but must be {', '.join(PARTS)}")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise InvalidArgument(f"latency_s is {self.latency_s!r}, but must be a number of seconds, 0 or more")
        if not (math.isfinite(self.exposed_copies) and self.exposed_copies >= 0):
            raise InvalidArgument(f"exposed_copies is {self.exposed_copies!r}, but must be a share, 0 or more")
        for name in ("serving_slowdown", "idle_slowdown"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be a factor above 0")
        for name in ("devices", "max_model_len"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}, but must be at least 1")
        times = {f"steps[{index}].seconds": point.seconds for index, point in enumerate(self.steps)}
        times |= {f"copies[{index}].seconds": point.seconds for index, point in enumerate(self.copies)}
        times |= {f"residuals[{index}].expected_s": one.expected_s for index, one in enumerate(self.residuals)}
        for name, seconds in times.items():
            if not seconds > 0:
                raise InvalidArgument(f"{name} is {seconds}, but must be above 0: errors are relative to it")

    def step_s(self, plan: StepPlan, idle_s: float = 0.0) -> float:
        """Seconds that a server's step takes with its chunks and samples, as exactly as this profile can tell.

        Args:
          plan: the step.
          idle_s: how long the device has stood idle before it.
        """
        alone_s = self.costs.step(plan.shape) if self.padded is None else self.padded.step(Work.of(plan))
        factor = self.serving_slowdown * (self.idle_slowdown if idle_s >= LEAST_IDLE_S else 1.0)
        return factor * alone_s

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` reads it."""
        return {"s2l_profile": PROFILE_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Profile":
        """Reads what `to_json` gave.

        Raises:
          InvalidArgument: it is something else; the message names the field.
        """
        if not isinstance(value, Mapping) or value.get("s2l_profile") != PROFILE_VERSION:
            raise InvalidArgument(f'expected a profile: a JSON object with "s2l_profile": {PROFILE_VERSION}')
        return read_record(cls, {name: one for name, one in value.items() if name != "s2l_profile"})
