"""A profile: measured points, the costs fitted to them, and what they were measured on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from s2l_jax.core.costs import PhysicalCosts, StepShape

Copy = Literal["swap_out", "swap_in"]
PROFILE_VERSION = 1


@dataclass(frozen=True, slots=True)
class ProfileKey:
    """What a profile is valid for.

    Attributes:
      model: name of the model.
      device: kind and number of devices, on a CPU its model and cores.
      dtype: of activations and KV.
      block_size: tokens a block holds.
      host_memory: what the host pool is made of, empty if there is none.
      version: of the software that ran.
    """

    model: str
    device: str
    dtype: str
    block_size: int
    host_memory: str
    version: str


@dataclass(frozen=True, slots=True)
class StepPoint:
    """Seconds that one step of a shape took."""

    shape: StepShape
    seconds: float


@dataclass(frozen=True, slots=True)
class CopyPoint:
    """Seconds that one copy of some blocks took."""

    kind: Copy
    blocks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs of one machine.

    Attributes:
      costs: fitted to the points.
      steps: measured steps.
      copies: measured copies between device and host; empty if there is no host pool.
      r_squared: share of the steps' variance that the costs explain.
      worst_error: largest relative error of the costs on a step.
      provenance: where the points come from: `measured`.
    """

    costs: PhysicalCosts
    steps: tuple[StepPoint, ...]
    copies: tuple[CopyPoint, ...]
    r_squared: float
    worst_error: float
    provenance: str = "measured"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` reads it."""
        return {"s2l_profile": PROFILE_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Profile":
        """Reads what `to_json` gave.

        Raises:
          ValueError, TypeError, LookupError, InvalidArgument: it is something else.
        """
        if value["s2l_profile"] != PROFILE_VERSION:
            raise ValueError(f"profile version {value['s2l_profile']!r} is not {PROFILE_VERSION}")
        return cls(
            PhysicalCosts(**value["costs"]),
            tuple(StepPoint(StepShape(*point["shape"]), point["seconds"]) for point in value["steps"]),
            tuple(CopyPoint(**point) for point in value["copies"]),
            value["r_squared"],
            value["worst_error"],
            value["provenance"],
        )
