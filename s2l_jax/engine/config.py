"""Size and numerics of one engine."""

from dataclasses import dataclass
from pathlib import Path

from s2l_jax.core.errors import InvalidArgument

DTYPES = ("float32", "bfloat16", "float16")
HOST_MEMORIES = ("numpy", "pinned_host")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything that fixes an engine's shapes, and therefore its executables.

    Attributes:
      num_blocks: KV blocks in the page pool.
      block_size: tokens per block.
      token_budget: tokens at most that run through the model in one step. The default suits two CPU cores, where 512
        tokens of a 135M model take about a second; an accelerator wants 2048 to 8192.
      max_batch: sequences at most, and samples at most, in one step.
      max_sessions: rows of the buffer that keeps each session's last hidden state.
      max_model_len: tokens at most in one sequence, prompt and output together.
      dtype: of activations and KV; `float32` is what a CPU computes fast, `bfloat16` suits accelerators.
      host_blocks: blocks that the host pool holds; 0 is no host pool.
      host_memory: what the host pool is made of. `numpy` works everywhere; `pinned_host` is memory that an accelerator
        reads and writes by itself.
      cache_dir: where compiled executables are kept between starts; None keeps none.
      compile_threads: executables compiled at the same time; XLA itself uses several cores for each.

    Raises:
      InvalidArgument: a field is out of range; the message names field, value and remedy.
    """

    num_blocks: int
    block_size: int = 16
    token_budget: int = 512
    max_batch: int = 32
    max_sessions: int = 64
    max_model_len: int = 8192
    dtype: str = "float32"
    host_blocks: int = 0
    host_memory: str = "numpy"
    cache_dir: Path | None = None
    compile_threads: int = 2

    def __post_init__(self) -> None:
        for field in ("num_blocks", "block_size", "token_budget", "max_batch", "max_sessions", "max_model_len"):
            value = getattr(self, field)
            _require(field, value, isinstance(value, int) and value >= 1, "give a whole number of at least 1")
        power = self.block_size & (self.block_size - 1) == 0
        _require("block_size", self.block_size, power, "give a power of two, for example 16")
        enough = self.num_blocks * self.block_size >= min(self.token_budget, self.max_model_len)
        fix = f"the pool must hold one full step: raise num_blocks or lower token_budget ({self.token_budget})"
        _require("num_blocks", self.num_blocks, enough, fix)
        fix = f"each sequence in a step needs a token: lower max_batch or raise token_budget ({self.token_budget})"
        _require("max_batch", self.max_batch, self.max_batch <= self.token_budget, fix)
        _require("dtype", self.dtype, self.dtype in DTYPES, f"give one of {', '.join(DTYPES)}")
        counts = isinstance(self.host_blocks, int) and self.host_blocks >= 0
        _require("host_blocks", self.host_blocks, counts, "give a whole number, 0 for no host pool")
        known = self.host_memory in HOST_MEMORIES
        _require("host_memory", self.host_memory, known, f"give one of {', '.join(HOST_MEMORIES)}")
        _require("compile_threads", self.compile_threads, self.compile_threads >= 1, "give at least 1")

    @property
    def max_blocks_per_sequence(self) -> int:
        """Width of a block table."""
        return -(-self.max_model_len // self.block_size)


def _require(field: str, value: object, good: bool, remedy: str) -> None:
    if not good:
        raise InvalidArgument(f"{field} is {value!r}: {remedy}")
