"""One cell of a sweep: a load on some hardware, run in one way."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from s2l_jax.core.config import PREEMPTION_MODES
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.policy import POLICIES
from workloads.replay.schedule import MODES, Mode
from workloads.replay.simulation_config import (
    DEFAULT_KV_SHARE,
    DEFAULT_MAX_BATCH,
    DEFAULT_POLICY,
    DEFAULT_TOKEN_BUDGET,
)

GENERATED = ("crawler", "anns")


@dataclass(frozen=True, slots=True)
class Cell:
    """A load and how it is served. Every field but `grid` takes part in what comes out.

    Attributes:
      grid: name of the grid that the cell belongs to.
      profile: name or file of the hardware's profile.
      generate: the profile of a second engine, which generates; empty if one engine does both.
      workload: `crawler` or `anns`, made up, or the path of a trace.
      sessions: of all replicas together; a trace has as many at most.
      qps: arrivals per second, of all replicas together.
      delay: multiplies the retrieval's times.
      token_scale: multiplies the published token counts.
      max_tokens: output tokens of a session.
      mode: `stream` or `wait`.
      policy: scheduling policy.
      preemption: as `SchedulerConfig`.
      kv_share: share of the device memory that the weights leave which is KV.
      host_gib: GiB of host memory for KV; None is what the hardware has for it.
      token_budget: tokens of a step.
      max_batch: sessions of a step.
      replicas: servers that share the load evenly, each with the whole model.
      seed: of everything random.

    Raises:
      InvalidArgument: a value is not possible; the message says what is.
    """

    grid: str = "sweep"
    profile: str = "h200-tp2-llama3.1-8b"
    generate: str = ""
    workload: str = "crawler"
    sessions: int = 1000
    qps: float = 1.0
    delay: float = 1.0
    token_scale: float = 1.0
    max_tokens: int = 1
    mode: Mode = "stream"
    policy: str = DEFAULT_POLICY
    preemption: str = "auto"
    kv_share: float = DEFAULT_KV_SHARE
    host_gib: float | None = None
    token_budget: int = DEFAULT_TOKEN_BUDGET
    max_batch: int = DEFAULT_MAX_BATCH
    replicas: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("mode", MODES), ("policy", POLICIES), ("preemption", PREEMPTION_MODES)):
            if getattr(self, name) not in known:
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(known)}")
        for name in ("sessions", "max_tokens", "token_budget", "max_batch", "replicas"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InvalidArgument(f"{name} is {value!r}, but must be a whole number, 1 or more")
        for name in ("qps", "delay", "token_scale", "kv_share"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise InvalidArgument(f"{name} is {value!r}, but must be a number above 0")
        if self.sessions < self.replicas:
            raise InvalidArgument(f"{self.sessions} sessions for {self.replicas} replicas: each needs one at least")

    @property
    def key(self) -> str:
        """Names what comes out: equal for cells that differ in their grid alone."""
        described = {name: value for name, value in asdict(self).items() if name != "grid"}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `Cell(**object)` reads it."""
        return asdict(self)


FIELDS = tuple(field.name for field in fields(Cell))
