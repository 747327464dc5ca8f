"""Configuration of the scheduler."""

from dataclasses import dataclass

from s2l_jax.core.errors import InvalidArgument

PREEMPTION_MODES = ("auto", "recompute", "swap")
ROLES = ("both", "prefill")


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of one engine, as the scheduler sees them.

    Attributes:
      num_blocks: blocks in the device pool.
      block_size: tokens a block holds.
      token_budget: tokens that one step may run through the model.
      max_batch: sessions that one step may serve.
      max_sessions: sessions that may be open at once; each has a row in the per-session device buffers.
      max_model_len: tokens of prompt and output together.
      policy: name in `s2l_jax.core.policy.POLICIES`.
      host_blocks: slots of the host pool; 0 is without one.
      preemption: what becomes of blocks that a session loses: `recompute` throws them away, `swap` copies them to the
        host as long as it has room, `auto` does what costs less.
      role: `prefill` hands a session over once it has its first token, and another engine generates the rest; `both`
        goes on with it. An engine that only generates is one of `both` that sessions are handed to.
      decode_gap_s: while somebody decodes, a step is not predicted to take longer than this, so that the gap between
        two tokens is bounded; a prompt gets `min_chunk_tokens` all the same, so that it gets on.
      partial_step_s: a step that serves only streams whose context is incomplete is not predicted to take longer than
        this, so that a session which becomes complete does not wait long for it; or than six times what an empty step
        takes, if that is longer, so that most of it is work.
      min_chunk_tokens: see above.
      eos_token_ids: tokens that end the output of sessions without `ignore_eos`.
      seed: where seeds of sessions that bring none are drawn from.

    Raises:
      InvalidArgument: values that cannot work together; the message says which and what to change.
    """

    num_blocks: int
    block_size: int = 16
    token_budget: int = 256
    max_batch: int = 32
    max_sessions: int = 256
    max_model_len: int = 8192
    policy: str = "s2l"
    host_blocks: int = 0
    preemption: str = "auto"
    role: str = "both"
    decode_gap_s: float = 0.4
    partial_step_s: float = 0.05
    min_chunk_tokens: int = 16
    eos_token_ids: frozenset[int] = frozenset()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "token_budget", "max_batch", "max_sessions", "max_model_len"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.host_blocks < 0:
            raise InvalidArgument(f"host_blocks is {self.host_blocks}, but must be 0 (no host pool) or more")
        if self.preemption not in PREEMPTION_MODES:
            raise InvalidArgument(
                f"preemption is {self.preemption!r}, but must be one of {', '.join(PREEMPTION_MODES)}"
            )
        if self.role not in ROLES:
            raise InvalidArgument(f"role is {self.role!r}, but must be one of {', '.join(ROLES)}")
        for name in ("decode_gap_s", "partial_step_s"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"{name} is {getattr(self, name)}, but must be above 0 seconds")
        if self.min_chunk_tokens < 1:
            raise InvalidArgument(f"min_chunk_tokens is {self.min_chunk_tokens}, but must be at least 1")
        if self.token_budget < self.max_batch:
            raise InvalidArgument(
                f"token_budget ({self.token_budget}) is below max_batch ({self.max_batch}), so a full batch could not "
                "decode: raise the first or lower the second"
            )
        pool_tokens = self.num_blocks * self.block_size
        if pool_tokens < self.max_model_len:
            raise InvalidArgument(
                f"{self.num_blocks} blocks of {self.block_size} tokens hold {pool_tokens} tokens, fewer than "
                f"max_model_len ({self.max_model_len}): give more blocks or lower max_model_len"
            )

    def check_length(self, context_tokens: int, max_tokens: int, *, final: bool) -> None:
        """Checks that a session's context, which may be its final one, and its output are not too long.

        Raises:
          InvalidArgument: they are, or a final context is empty.
        """
        if context_tokens + max_tokens > self.max_model_len:
            raise InvalidArgument(
                f"context of {context_tokens} tokens and max_tokens {max_tokens} exceed the limit of "
                f"{self.max_model_len} tokens: send less context or ask for fewer tokens"
            )
        if final and context_tokens == 0:
            raise InvalidArgument("the context is complete but empty: there is nothing to generate from")
