"""What a server is started with: parsed once, validated here, handed down."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from s2l_jax.core.config import PREEMPTION_MODES
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.orchestrator.config import Role
from serving.slices import Slice
from serving.world.config import WorldConfig

DEFAULT_MODEL = "smollm2-135m"
_ROLES: dict[str, Role] = {"prefill": "prefill", "generate": "generate", "both": "both"}
_ADDRESS = re.compile(r"[^\s,]+:\d{1,5}")
DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("int8",)
KV_TRANSPORTS = ("auto", "grpc", "jax")


def default_cache_dir() -> Path:
    """Where compiled executables are kept: `s2l/xla` under the user's cache directory."""
    return _cache_home() / "s2l" / "xla"


def default_profile_dir() -> Path:
    """Where measurements of this machine are kept: `s2l/profiles` under the user's cache directory."""
    return _cache_home() / "s2l" / "profiles"


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """A model and the limits it is served under. None leaves a choice to model or machine.

    Attributes:
      model: a name that `s2l models list` shows, a Hugging Face directory, a checkpoint, or a GGUF file.
      dtype: `float32` or `bfloat16`; None takes what the machine computes fast.
      quantization: `int8` quantises weights as they are loaded; None takes them as they are.
      slices: devices of the engine, or with commas of several that each do all, as `serving.slices.Slice` reads them;
        None takes the default device.
      prefill_slices: likewise, of engines that only compute contexts; given together with `generate_slices`.
      generate_slices: likewise, of engines that only generate.
      role: what this process's only engine does, if others are engines in other processes.
      peers: `HOST:PORT` of these, with commas between; None with a role waits for an orchestrator instead of being one.
      send_ahead: KV leaves for the engine that will generate while the context is still being computed.
      world: the processes that this one's only engine consists of; None is this one alone.
      kv_transport: how KV gets to engines in other processes: `grpc`, `jax` (see `serving.remote.choice`), or `auto`.
      max_model_len: tokens of prompt and output together; None takes the model's own limit.
      kv_blocks: KV blocks in each engine's pool; None takes a share of the memory.
      block_size: tokens a block holds.
      token_budget: tokens that one step may run through the model.
      max_batch: sessions that one step may serve.
      max_sessions: sessions open at once in each engine.
      policy: who goes first when not all can.
      host_kv_gib: GiB of host memory for KV that the pool has no room for; None takes a share of the memory, 0 none.
      preemption: what becomes of KV that a session loses: `recompute` throws it away, `swap` copies it to the host as
        long as there is room, `auto` does what costs less.
      default_max_tokens: output tokens of a session that names no limit.
      idle_timeout_s: a session without an event for this long is ended.
      step_timeout_s: an engine that has ended no step for this long is given up; see `OrchestratorConfig`.
      cache_dir: where compiled executables are kept; None keeps none.
      profile_dir: where measurements of this machine are kept; None measures at each start.

    Raises:
      InvalidArgument: a value is out of range; the message says which option to change.
    """

    model: str = DEFAULT_MODEL
    dtype: str | None = None
    quantization: str | None = None
    slices: str | None = None
    prefill_slices: str | None = None
    generate_slices: str | None = None
    role: str | None = None
    peers: str | None = None
    world: WorldConfig | None = None
    send_ahead: bool = True
    kv_transport: str = "auto"
    max_model_len: int | None = None
    kv_blocks: int | None = None
    block_size: int = 16
    token_budget: int = 512
    max_batch: int = 32
    max_sessions: int = 64
    policy: str = "s2l"
    host_kv_gib: float | None = None
    preemption: str = "auto"
    default_max_tokens: int = 256
    idle_timeout_s: float = 60.0
    step_timeout_s: float = 120.0
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    profile_dir: Path | None = field(default_factory=default_profile_dir)

    def __post_init__(self) -> None:
        for name in ("max_model_len", "kv_blocks", "block_size", "token_budget", "max_batch", "max_sessions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{_option(name)} is {value}, but must be at least 1")
        if self.block_size & (self.block_size - 1):
            raise InvalidArgument(f"--block-size is {self.block_size}, but must be a power of two, for example 16")
        if self.token_budget < self.max_batch:
            raise InvalidArgument(
                f"--token-budget ({self.token_budget}) is below --max-batch ({self.max_batch}), so a full batch could "
                "not decode: raise the first or lower the second"
            )
        if self.kv_blocks is not None and self.max_model_len is not None:
            self._check_pool(self.kv_blocks, self.max_model_len)
        if self.host_kv_gib is not None and not 0 <= self.host_kv_gib < float("inf"):
            raise InvalidArgument(f"--host-kv-gib is {self.host_kv_gib}, but must be 0 (none) or more")
        if not 0 < self.step_timeout_s < float("inf"):
            raise InvalidArgument(f"--step-timeout-s is {self.step_timeout_s}, but must be above 0")
        if self.preemption not in PREEMPTION_MODES:
            raise InvalidArgument(
                f"--preemption is {self.preemption!r}, but must be one of {', '.join(PREEMPTION_MODES)}"
            )
        if self.kv_transport not in KV_TRANSPORTS:
            raise InvalidArgument(
                f"--kv-transport is {self.kv_transport!r}, but must be one of {', '.join(KV_TRANSPORTS)}"
            )
        self._check_slices()
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InvalidArgument(f"--dtype is {self.dtype!r}, but must be one of {', '.join(DTYPES)}")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise InvalidArgument(
                f"--quantization is {self.quantization!r}, but must be one of {', '.join(QUANTIZATIONS)}"
            )

    @property
    def engine_slices(self) -> tuple[tuple[Role, Slice | None], ...]:
        """Role and slice of each engine; None is the default device."""
        if self.prefill_slices is None or self.generate_slices is None:
            return tuple(
                (_ROLES[self.role or "both"], each)
                for each in ((None,) if self.slices is None else Slice.parse_all(self.slices))
            )
        prefill = Slice.parse_all(self.prefill_slices, "--prefill-slices")
        generate = Slice.parse_all(self.generate_slices, "--generate-slices")
        return (*(("prefill", each) for each in prefill), *(("generate", each) for each in generate))

    @property
    def peer_addresses(self) -> tuple[str, ...]:
        """`HOST:PORT` of each peer."""
        return () if self.peers is None else tuple(self.peers.split(","))

    def _check_slices(self) -> None:
        if self.role is not None and self.role not in _ROLES:
            raise InvalidArgument(f"--role is {self.role!r}, but must be one of {', '.join(_ROLES)}")
        if self.role is None and self.peers is not None:
            raise InvalidArgument("--peers needs --role: what this process's own engine does")
        if self.role is not None and self.prefill_slices is not None:
            raise InvalidArgument("--role is for one engine: leave it out beside --prefill-slices")
        for address in self.peer_addresses:
            if not _ADDRESS.fullmatch(address):
                raise InvalidArgument(f"--peers has {address!r}, but must look like HOST:PORT,HOST:PORT")
        if self.role is not None and len(self.engine_slices) > 1:
            raise InvalidArgument("--role is for one engine: give one slice")
        if (self.prefill_slices is None) != (self.generate_slices is None):
            raise InvalidArgument("--prefill-slices and --generate-slices go together: give both, or --slices alone")
        if self.slices is not None and self.prefill_slices is not None:
            raise InvalidArgument("--slices is for engines that do all: leave it out beside --prefill-slices")
        _ = self.engine_slices
        if self.world is not None:
            self._check_world(self.world)

    def _check_world(self, world: WorldConfig) -> None:
        if self.prefill_slices is not None or self.slices is None or len(self.engine_slices) > 1:
            raise InvalidArgument("--world-size is of one engine: give --slices with all of its devices, one slice")
        if self.kv_transport == "jax":
            raise InvalidArgument("--kv-transport jax is for engines of one process each: leave it out")
        if self.peers is not None and world.rank > 0:
            raise InvalidArgument("--peers are rank 0's: leave them out on the others")

    def _check_pool(self, kv_blocks: int, max_model_len: int) -> None:
        pool_tokens = kv_blocks * self.block_size
        if pool_tokens < max_model_len:
            need = -(-max_model_len // self.block_size)
            raise InvalidArgument(
                f"--kv-blocks {kv_blocks} of --block-size {self.block_size} hold {pool_tokens} tokens, fewer than "
                f"--max-model-len {max_model_len}: give --kv-blocks {need} or more, or lower --max-model-len"
            )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
