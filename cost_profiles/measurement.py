"""A measurement: points, the costs fitted to them, and what they were measured on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from cost_profiles.record import read_record
from cost_profiles.work import Work
from s2l_jax.core.costs import PhysicalCosts, StepShape
from s2l_jax.core.errors import InvalidArgument

Copy = Literal["swap_out", "swap_in", "handoff"]
MEASUREMENT_VERSION = 2


@dataclass(frozen=True, slots=True)
class MachineKey:
    """What a measurement is valid for.

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
    """Seconds that one step took.

    Attributes:
      shape: of its work, in sums.
      seconds: what it took.
      work: in detail; None if that is not known.
    """

    shape: StepShape
    seconds: float
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class CopyPoint:
    """Seconds that one copy of some blocks took."""

    kind: Copy
    blocks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """Costs of one machine, as an engine measured them.

    Attributes:
      costs: fitted to the points.
      steps: measured steps.
      copies: measured copies of blocks; empty if there is no host pool.
      r_squared: share of the steps' variance that the costs explain.
      worst_error: largest relative error of the costs on a step.
    """

    costs: PhysicalCosts
    steps: tuple[StepPoint, ...]
    copies: tuple[CopyPoint, ...]
    r_squared: float
    worst_error: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` reads it."""
        return {"s2l_measurement": MEASUREMENT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Measurement":
        """Reads what `to_json` gave.

        Raises:
          InvalidArgument: it is something else.
        """
        if not isinstance(value, Mapping) or value.get("s2l_measurement") != MEASUREMENT_VERSION:
            raise InvalidArgument(f'expected an object with "s2l_measurement": {MEASUREMENT_VERSION}')
        names = {field.name for field in fields(cls)}
        return read_record(cls, {name: one for name, one in value.items() if name in names})
