"""What a client sees: events of a session, its result, and what it can ask the server about itself."""

from dataclasses import dataclass, field

from serving.client.prompt import PromptPieces


@dataclass(frozen=True, slots=True)
class Accepted:
    """Answers one event.

    Attributes:
      session_id: the session's id, chosen by the server if the client gave none.
      seq: number of the event that is answered.
      context_tokens: length of the context after it.
      kept_tokens: longest common prefix with the context before it.
      invalidated_tokens: computed tokens that it threw away.
    """

    session_id: str
    seq: int
    context_tokens: int
    kept_tokens: int
    invalidated_tokens: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the context is computed."""

    computed_tokens: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """One or more output tokens.

    Attributes:
      ids: the tokens; several if the reader was slower than the server.
      text: text that became certain with them; may be empty, a character is never split.
      logprobs: one for each of `ids` if asked for, else empty.
      top: for each of `ids`, `(token id, logprob)` of the most likely tokens, if asked for.
    """

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a session, with what it cost.

    Attributes:
      finish_reason: `stop`, `length` or `cancelled`.
      prompt_tokens: length of the context.
      output_tokens: tokens sampled.
      computed_tokens: prompt tokens ever computed, recomputation included.
      reused_tokens: prompt tokens taken from KV that existed already.
      invalidated_tokens: computed tokens that updates threw away.
      restored_tokens: tokens whose KV came back from the host, or was still cached, after the session had lost it.
      recomputed_tokens: tokens computed again after the session had lost their KV.
      preemptions: how often the session lost KV blocks.
      ttft_open_s: open to first token on the server's clock.
      ttft_final_s: the event that completed the context to the first token, on the server's clock.
    """

    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    computed_tokens: int
    reused_tokens: int
    invalidated_tokens: int
    restored_tokens: int
    recomputed_tokens: int
    preemptions: int
    ttft_open_s: float
    ttft_final_s: float


Event = Accepted | Progress | Token | Done


@dataclass(frozen=True, slots=True)
class Result:
    """A finished session.

    Attributes:
      session_id: the session's id.
      text: the output.
      token_ids: the output's tokens.
      logprobs: one for each of `token_ids` if asked for, else empty.
      done: the server's account.
      ttft_open_s: open sent to first token received, on this machine's clock; None if there was no token.
      ttft_final_s: last context sent to first token received, likewise.
      token_times_s: when each token was received, in seconds since open was sent.
      wall_s: open sent to end of stream.
    """

    session_id: str
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    done: Done
    ttft_open_s: float | None
    ttft_final_s: float | None
    token_times_s: tuple[float, ...]
    wall_s: float

    @property
    def finish_reason(self) -> str:
        """`stop`, `length` or `cancelled`."""
        return self.done.finish_reason

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first, None with fewer than two."""
        if len(self.token_times_s) < 2:
            return None
        return (self.token_times_s[-1] - self.token_times_s[0]) / (len(self.token_times_s) - 1)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server serves.

    Attributes:
      name: the model's name.
      max_model_len: tokens of prompt and output together.
      vocab_size: token ids are below it.
      bos_token_id: begin of sequence, None if the model has none.
      eos_token_ids: tokens that end the output.
      default_max_tokens: output tokens of a session that names no limit.
      prompt: how to ask this model about a context.
      server_version: version of the server.
      policy: its scheduling policy.
    """

    name: str
    max_model_len: int
    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    default_max_tokens: int
    prompt: PromptPieces
    server_version: str
    policy: str


@dataclass(frozen=True, slots=True)
class HostStats:
    """The server's pool of copies in host memory, in blocks; all 0 if it has none.

    Attributes:
      total: size of the pool.
      free: those that hold nothing.
      backups: those that hold what is on the device as well, or is needed by no session now.
      swapped: those that hold the last copy of something that a session needs.
    """

    total: int = 0
    free: int = 0
    backups: int = 0
    swapped: int = 0


@dataclass(frozen=True, slots=True)
class ServerStats:
    """A snapshot of the server.

    Attributes:
      sessions: open sessions by state.
      free_blocks: KV blocks that nobody holds.
      held_blocks: KV blocks that sessions hold.
      total_blocks: size of the pool.
      steps: engine steps since the start.
      preemptions: evictions since the start by kind: swap, recompute, drop; tail counts those that left a prefix. Also
        blocks copied because of them: saved_blocks and backup_blocks to the host, loaded_blocks from it, copied_blocks
        within the device.
      cached_blocks: of `free_blocks`, those with content that can be used again.
      host: the host pool.
    """

    sessions: dict[str, int]
    free_blocks: int
    held_blocks: int
    total_blocks: int
    steps: int
    preemptions: dict[str, int] = field(default_factory=dict)
    cached_blocks: int = 0
    host: HostStats = field(default_factory=HostStats)
