"""What the generators of both workloads are asked for."""

import math
from dataclasses import dataclass, field

from s2l_jax.core.errors import InvalidArgument
from workloads.generate.arrivals import ArrivalProcess


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """How many queries of what size.

    Attributes:
      sessions: queries.
      qps: arrivals per second.
      arrivals: how they arrive.
      seed: of everything random.
      token_scale: multiplies the published token counts, so that they fit smaller models and machines.
      time_scale: multiplies the published times between chunks.
      max_prompt_tokens: longer prompts are cut to this; what Llama-3.1's context holds, with room for an answer.
      max_tokens: output tokens asked for.
      corpus: documents there are.
      popularity: exponent of Zipf's law; 0 makes all documents equally popular.
    """

    sessions: int = 200
    qps: float = 1.0
    arrivals: ArrivalProcess = field(default_factory=ArrivalProcess)
    seed: int = 0
    token_scale: float = 1.0
    time_scale: float = 1.0
    max_prompt_tokens: int = 130_000
    max_tokens: int = 1
    corpus: int = 5000
    popularity: float = 0.9

    def __post_init__(self) -> None:
        for name in ("sessions", "qps", "token_scale", "time_scale", "max_tokens"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be above 0")
        if not 0.0 <= self.popularity < math.inf:
            raise InvalidArgument(f"popularity is {self.popularity!r}, but must be 0 or more")

    def require(self, name: str, least: int, why: str) -> None:
        """Refuses a field that is too small.

        Raises:
          InvalidArgument: it is below `least`.
        """
        if getattr(self, name) < least:
            raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be at least {least}: {why}")
