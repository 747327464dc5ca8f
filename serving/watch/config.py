"""How a server is watched."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What a server tells of itself.

    Attributes:
      vllm_metrics: export metrics under vLLM's names as well.
    """

    vllm_metrics: bool = False
