"""What became of one kernel on one target."""

from dataclasses import asdict, dataclass
from typing import Any

INTERPRETER = "interpreter"  # the target of tests that interpret kernels


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report; None where a figure does not apply or the compiler does not tell.

    Attributes:
      kernel: the case, and the kernel in it; or the tests, and how many passed.
      target: such as `v6e` or `sm_90`, or `INTERPRETER`.
      ok: it compiled, nothing was spilled, and no copy of the page pool is in it; or the tests passed.
      compile_s: of the whole case, shared by its kernels; of tests, how long they took.
      temp_bytes: device memory beside arguments and results, of the whole case.
      vmem_bytes: TPU: scratch, windows and spills.
      smem_bytes: GPU: shared memory of a block.
      spill_bytes: of registers.
      registers: GPU: of a thread.
      occupancy: GPU, our kernels: threads that a multiprocessor holds at a time, over the most that it can.
      bundles_per_kv_token: TPU decode: instruction bundles of the hot loop over the tokens of KV that one turn reads.
      mxu_occupancy: TPU prefill: share of the slots of the hot loop's bundles that feed a matrix unit which do so.
      error: why it is not ok.
    """

    kernel: str
    target: str
    ok: bool
    compile_s: float | None = None
    temp_bytes: int | None = None
    vmem_bytes: int | None = None
    smem_bytes: int | None = None
    spill_bytes: int | None = None
    registers: int | None = None
    occupancy: float | None = None
    bundles_per_kv_token: float | None = None
    mxu_occupancy: float | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Row":
        """Reads what `to_json` gave."""
        return cls(**value)
