"""What is simulated: a profile's hardware, and how the server on it is run."""

from dataclasses import dataclass, replace

from cost_profiles.profile import Profile
from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.scheduler import Scheduler
from workloads.replay.simulation import Server

DEFAULT_POLICY = "s2l"
DEFAULT_TOKEN_BUDGET = 2048
DEFAULT_KV_SHARE = 0.8
DEFAULT_MAX_BATCH = 256


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """How a simulated server is run.

    Attributes:
      policy: name in `s2l_jax.core.policy.POLICIES`.
      preemption: as `SchedulerConfig`.
      kv_share: share of the device memory that the weights leave which is KV.
      kv_blocks: blocks of the device pool; None derives them from `kv_share`.
      host_bytes: host memory for KV, 0 for none; None is what the profile's hardware has for it.
      token_budget: tokens of a step.
      max_batch: sessions of a step.
      max_model_len: tokens of prompt and output together; None is the profile's.
    """

    policy: str = DEFAULT_POLICY
    preemption: str = "auto"
    kv_share: float = DEFAULT_KV_SHARE
    kv_blocks: int | None = None
    host_bytes: int | None = None
    token_budget: int = DEFAULT_TOKEN_BUDGET
    max_batch: int = DEFAULT_MAX_BATCH
    max_model_len: int | None = None


def scheduler_config(config: SimulationConfig, profile: Profile, sessions: int) -> SchedulerConfig:
    """The scheduler's limits on this hardware.

    Args:
      config: how the server is run.
      profile: of the hardware.
      sessions: how many may be open at once; a simulated server turns nobody away.

    Raises:
      InvalidArgument: the values do not go together, or the memory is too small.
    """
    memory = profile.memory
    num_blocks = memory.pool_blocks(config.kv_share) if config.kv_blocks is None else config.kv_blocks
    longest = min(config.max_model_len or profile.max_model_len, num_blocks * memory.block_tokens)
    return SchedulerConfig(
        num_blocks=num_blocks,
        block_size=memory.block_tokens,
        token_budget=config.token_budget,
        max_batch=min(config.max_batch, config.token_budget),
        max_sessions=sessions,
        max_model_len=longest,
        policy=config.policy,
        host_blocks=memory.host_blocks(config.host_bytes),
        preemption=config.preemption,
    )


def make_server(config: SimulationConfig, profile: Profile, sessions: int, generate: Profile | None = None) -> Server:
    """A fresh server for `simulate`.

    Args:
      config: how the server is run.
      profile: of the hardware.
      sessions: how many may be open at once.
      generate: of a second engine, which generates; the first one then only prefills.

    Raises:
      InvalidArgument: as `scheduler_config`; also if the two cannot exchange KV.
    """
    limits = scheduler_config(config, profile, sessions)
    if generate is None:
        scheduler = Scheduler(limits, profile.costs)
        return Server(
            scheduler,
            profile.costs,
            latency_s=profile.latency_s,
            step_s=profile.step_s,
            exposed_copies=profile.exposed_copies,
        )
    if (generate.model, generate.memory.block_tokens) != (profile.model, profile.memory.block_tokens):
        raise InvalidArgument(
            f"{profile.name} has {profile.model} in blocks of {profile.memory.block_tokens} tokens and {generate.name} "
            f"{generate.model} in blocks of {generate.memory.block_tokens}: they cannot hand sessions over"
        )
    second = scheduler_config(config, generate, sessions)
    longest = min(limits.max_model_len, second.max_model_len)
    return Server(
        Scheduler(replace(limits, role="prefill", max_model_len=longest), profile.costs),
        profile.costs,
        Scheduler(replace(second, max_model_len=longest), generate.costs),
        generate.costs,
        latency_s=profile.latency_s,
        step_s=profile.step_s,
        generate_step_s=generate.step_s,
        exposed_copies=profile.exposed_copies,
        generate_exposed_copies=generate.exposed_copies,
    )
