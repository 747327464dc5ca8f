"""An engine without a model: deterministic, instant, and unforgiving about wrong plans.

`FakeEngine` obeys the engine contract of `s2l_jax.core.plan`. Instead of keys and values it writes one 64-bit number
per token into a page pool. As in a real model, the number of a position depends on the token, its position and on
*everything read back through the block table* for the positions before it, and the next token depends on the digest
kept in the session's slot. A wrong block table, a stale or shared page that was overwritten, or a stale slot therefore
changes the output, which `reference_output` computes without pages, slots or chunks.
"""

import threading
from collections.abc import Callable, Collection, Sequence

import numpy as np

from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, Sample, SampledToken, StepPlan, StepResult

_MASK = (1 << 64) - 1
_WEIGHT = 0x9E3779B97F4A7C15
_POISON = 0xDEADBEEFDEADBEEF
_GREEDY = SamplingParams()


class BadPlan(AssertionError):
    """The scheduler broke the plan contract."""


def _mix(value: int) -> int:
    """Scrambles 64 bits (the finaliser of splitmix64)."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _entry(token: int, position: int, digest: int) -> int:
    """The number a position leaves in the pool, given the digest of all positions before it."""
    return _mix(digest ^ _mix((token + 1) * 0x1000003 + position))


def _weight(position: int) -> int:
    """An odd multiplier per position, so that swapped pages change the digest."""
    return (2 * position + 1) * _WEIGHT & _MASK


def _next_token(hidden: int, sample: Sample, alphabet: Sequence[int]) -> SampledToken:
    params = sample.params
    value = hidden
    if not params.is_greedy:
        value = _mix(value ^ _mix(sample.seed * 31 + sample.position))
    if params.has_penalties:
        if sample.history is None or len(sample.history) != sample.position:
            raise BadPlan(f"{sample.session_id}: penalties need the history of all {sample.position} tokens")
        value = _mix(value ^ _mix(hash((tuple(sample.history.tolist()), sample.prompt_tokens))))
    token = int(alphabet[_mix(value + 1) % len(alphabet)])
    if params.logprobs is None:
        return SampledToken(token)
    top = tuple((int(alphabet[(token + i) % len(alphabet)]), -0.5 * (i + 1)) for i in range(params.logprobs))
    return SampledToken(token, -0.5, top)


def reference_output(
    prompt_tokens: Sequence[int],
    n: int,
    *,
    alphabet: Sequence[int] = range(256),
    params: SamplingParams = _GREEDY,
    seed: int = 0,
    stop_token_ids: Collection[int] = (),
) -> list[int]:
    """What a fresh `FakeEngine` outputs for a prompt: `n` tokens, or fewer if one of `stop_token_ids` (kept) comes."""
    tokens = [int(token) for token in prompt_tokens]
    if not tokens:
        raise ValueError("the prompt is empty")
    output: list[int] = []
    digest, position = 0, 0
    while len(output) < n:
        for token in tokens[position:]:
            digest = (digest + _weight(position) * _entry(token, position, digest)) & _MASK
            position += 1
        history = np.asarray(tokens, np.int32) if params.has_penalties else None
        sample = Sample("reference", 0, params, seed, position, history, len(prompt_tokens))  # type: ignore[arg-type]
        token = _next_token(digest, sample, alphabet).token_id
        output.append(token)
        tokens.append(token)
        if token in stop_token_ids:
            break
    return output


class FakeEngine:
    """Engine whose next token is a hash of all tokens, read back through the block table.

    Args:
      num_blocks: pages in the pool.
      block_size: token slots per page.
      max_sessions: slots for the last hidden state.
      vocab_size: token ids must be below this.
      alphabet: token ids that may be sampled; all of the vocabulary by default.
      token_budget: plans with more tokens are refused.
      max_batch: plans with more chunks or more samples are refused.
      hook: called first in each `execute`, to wait, to record, or to raise.
    """

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_sessions: int = 8,
        *,
        vocab_size: int = 256,
        alphabet: Sequence[int] | None = None,
        token_budget: int | None = None,
        max_batch: int | None = None,
        hook: Callable[[StepPlan], None] | None = None,
    ) -> None:
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.alphabet: Sequence[int] = range(vocab_size) if alphabet is None else alphabet
        self.token_budget = token_budget
        self.max_batch = max_batch
        self.hook = hook
        self.pages = np.full((num_blocks, block_size), _POISON, np.uint64)
        self.hidden = [_POISON] * max_sessions
        self.steps = 0
        self.tokens = 0
        self.closed = False
        self._owner: int | None = None

    def warmup(self, progress: Callable[[int, int, str], None] | None = None) -> None:
        if progress is not None:
            progress(1, 1, "nothing to compile")

    def execute(self, plan: StepPlan) -> StepResult:
        self._check_owner()
        if self.hook is not None:
            self.hook(plan)
        self.check_plan(plan)
        for chunk in plan.chunks:
            self._run(chunk)
        self.steps += 1
        self.tokens += plan.tokens
        tokens = tuple(_next_token(self.hidden[sample.slot], sample, self.alphabet) for sample in plan.samples)
        return StepResult(plan, tokens)

    def close(self) -> None:
        self.closed = True

    def reference_output(
        self, prompt_tokens: Sequence[int], n: int, *, params: SamplingParams = _GREEDY, seed: int = 0
    ) -> list[int]:
        """What a fresh engine of this alphabet outputs; stops at none but the parameters' own stop tokens."""
        stop = params.stop_token_ids
        return reference_output(prompt_tokens, n, alphabet=self.alphabet, params=params, seed=seed, stop_token_ids=stop)

    def check_plan(self, plan: StepPlan) -> None:
        """Raises `BadPlan` if the plan breaks its contract."""
        _require(bool(plan.chunks or plan.samples), "the plan is empty")
        if self.token_budget is not None:
            _require(plan.tokens <= self.token_budget, f"{plan.tokens} tokens, budget {self.token_budget}")
        if self.max_batch is not None:
            batch = max(len(plan.chunks), len(plan.samples))
            _require(batch <= self.max_batch, f"{batch} rows, max_batch {self.max_batch}")
        kinds: tuple[tuple[str, Sequence[Chunk] | Sequence[Sample]], ...] = (
            ("chunk", plan.chunks),
            ("sample", plan.samples),
        )
        for name, rows in kinds:
            _require(len({row.session_id for row in rows}) == len(rows), f"a session has two {name}s")
            _require(len({row.slot for row in rows}) == len(rows), f"a slot has two {name}s")
            _require(all(0 <= row.slot < len(self.hidden) for row in rows), f"a {name}'s slot is out of range")
        written: dict[int, str] = {}
        for chunk in plan.chunks:
            self._check_chunk(chunk)
            for block in chunk.block_table[chunk.start // self.block_size :].tolist():
                other = written.setdefault(block, chunk.session_id)
                _require(other == chunk.session_id, f"block {block} is written by {other} and {chunk.session_id}")
        for chunk in plan.chunks:
            for block in chunk.block_table[: chunk.start // self.block_size].tolist():
                other = written.get(block, chunk.session_id)
                _require(other == chunk.session_id, f"block {block} of {chunk.session_id} is written by {other}")

    def _check_chunk(self, chunk: Chunk) -> None:
        who = chunk.session_id
        table = chunk.block_table
        _require(chunk.tokens.dtype == np.int32 and table.dtype == np.int32, f"{who}: tokens and table must be int32")
        _require(chunk.start >= 0 and len(chunk.tokens) >= 1, f"{who}: chunk {chunk.start}+{len(chunk.tokens)}")
        want = -(-chunk.end // self.block_size)
        _require(len(table) == want, f"{who}: {len(table)} blocks for {chunk.end} tokens, expected {want}")
        _require(len(set(table.tolist())) == want, f"{who}: a block is twice in the table {table}")
        _require(table.min() >= 0 and table.max() < len(self.pages), f"{who}: block out of range in {table}")
        good = chunk.tokens.min() >= 0 and chunk.tokens.max() < self.vocab_size
        _require(bool(good), f"{who}: token id out of range")

    def _run(self, chunk: Chunk) -> None:
        positions = np.arange(chunk.start, dtype=np.uint64)
        weights = (np.uint64(2) * positions + np.uint64(1)) * np.uint64(_WEIGHT)
        digest = int((self.pages[chunk.block_table].reshape(-1)[: chunk.start] * weights).sum(dtype=np.uint64))
        for position, token in enumerate(chunk.tokens.tolist(), chunk.start):
            entry = _entry(token, position, digest)
            self.pages[chunk.block_table[position // self.block_size], position % self.block_size] = entry
            digest = (digest + _weight(position) * entry) & _MASK
        self.hidden[chunk.slot] = digest

    def _check_owner(self) -> None:
        me = threading.get_ident()
        if self._owner is None:
            self._owner = me
        _require(self._owner == me, "execute was called by two threads")


def _require(good: bool, message: str) -> None:
    if not good:
        raise BadPlan(message)
