"""An engine without a model: deterministic, instant, and unforgiving about wrong plans.

`FakeEngine` obeys the engine contract of `s2l_jax.core.plan`. Instead of keys and values it writes one 64-bit number
per token into a page pool. As in a real model, the number of a position depends on the token, its position and on
*everything read back through the block table* for the positions before it, and the next token depends on the digest
kept in the session's slot. A wrong block table, a stale or shared page that was overwritten, or a stale slot therefore
changes the output, which `reference_output` computes without pages, slots or chunks.

A step reads and writes when it is submitted, in the order of the plan's parts, as if the device ran it at once; only
its tokens wait for `collect`. Whoever says what the sessions' contexts are (`submit(plan, contexts)`) has every number
that a chunk or a sample reads compared with what it should be, and with the tenant it should belong to.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import LAST_SAMPLED, Chunk, HostCopy, Sample, SampledToken, StepPlan, StepResult
from tests.fake_model import (
    GREEDY,
    MASK,
    digest_of,
    entries_of,
    entry_of,
    next_token,
    reference_output,
    weight,
    weights,
)
from tests.plan_check import BadPlan, PlanCheck, require

__all__ = ["BadPlan", "Context", "FakeEngine", "reference_output"]

_POISON = 0xDEADBEEFDEADBEEF
_NOBODY = -1
_MAX_OUTSTANDING = 2


class Context(NamedTuple):
    """What a session's KV must hold when a plan is made for it.

    Attributes:
      tenant: whose KV it may use.
      tokens: prompt, and output as far as it was committed.
    """

    tenant: str
    tokens: Sequence[int]


class _HostPage(NamedTuple):
    epoch: int
    page: np.ndarray
    owners: np.ndarray


class FakeEngine:
    """Engine whose next token is a hash of all tokens, read back through the block table.

    Args:
      num_blocks: pages in the pool.
      block_size: token slots per page.
      max_sessions: slots for the last hidden state.
      host_blocks: pages in the host pool.
      vocab_size: token ids must be below this.
      alphabet: token ids that may be sampled; all of the vocabulary by default.
      token_budget: plans with more tokens are refused.
      max_batch: plans with more chunks or more samples are refused.
      hook: called first in each `submit`, to wait, to record, or to raise.
      collect_hook: called first in each `collect` with the plan to be collected, likewise.
    """

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_sessions: int = 8,
        *,
        host_blocks: int = 0,
        vocab_size: int = 256,
        alphabet: Sequence[int] | None = None,
        token_budget: int | None = None,
        max_batch: int | None = None,
        hook: Callable[[StepPlan], None] | None = None,
        collect_hook: Callable[[StepPlan], None] | None = None,
    ) -> None:
        self.block_size = block_size
        self.alphabet: Sequence[int] = range(vocab_size) if alphabet is None else alphabet
        self.hook = hook
        self.collect_hook = collect_hook
        self.check_plan = PlanCheck(
            num_blocks,
            block_size,
            max_sessions,
            host_blocks,
            vocab_size=vocab_size,
            token_budget=token_budget,
            max_batch=max_batch,
        )
        self.pages = np.full((num_blocks, block_size), _POISON, np.uint64)
        self.owners = np.full((num_blocks, block_size), _NOBODY, np.int32)
        self.host: dict[int, _HostPage] = {}
        self.hidden = [_POISON] * max_sessions
        self.last_sampled: list[tuple[SessionId, int, int] | None] = [None] * max_sessions
        self.steps = 0
        self.tokens = 0
        self.closed = False
        self._outstanding: deque[StepResult] = deque()
        self._tenants: dict[str, int] = {}
        self._owner: int | None = None

    def warmup(self, progress: Callable[[int, int, str], None] | None = None) -> None:
        if progress is not None:
            progress(1, 1, "nothing to compile")

    def submit(self, plan: StepPlan, contexts: Mapping[SessionId, Context] | None = None) -> None:
        """Runs a step; `contexts` of all its sessions make it compare what it reads with what it should read."""
        self._check_owner()
        try:
            if self.hook is not None:
                self.hook(plan)
            require(len(self._outstanding) < _MAX_OUTSTANDING, f"{len(self._outstanding)} steps are outstanding")
            self.check_plan(plan)
            self._move_pages(plan)
            for chunk in plan.chunks:
                self._run(chunk, None if contexts is None else contexts[chunk.session_id])
            tokens = tuple(
                self._sample(sample, None if contexts is None else contexts[sample.session_id])
                for sample in plan.samples
            )
        except BaseException:
            self.drop()
            raise
        self.steps += 1
        self.tokens += plan.tokens
        self._outstanding.append(StepResult(plan, tokens))

    def collect(self) -> StepResult:
        self._check_owner()
        require(bool(self._outstanding), "nothing is outstanding")
        if self.collect_hook is not None:
            try:
                self.collect_hook(self._outstanding[0].plan)
            except BaseException:
                self.drop()
                raise
        return self._outstanding.popleft()

    def is_ready(self) -> bool:
        self._check_owner()
        return bool(self._outstanding)

    def execute(self, plan: StepPlan) -> StepResult:
        require(not self._outstanding, "execute with a step outstanding")
        self.submit(plan)
        return self.collect()

    def gather(self, blocks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        self._check_owner()
        require(all(0 <= block < len(self.pages) for block in blocks), f"blocks {blocks} are outside the pool")
        return self.pages[list(blocks)].copy(), self.owners[list(blocks)].copy()

    def place(self, pages: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return pages

    def scatter(self, blocks: Sequence[int], pages: tuple[np.ndarray, np.ndarray]) -> None:
        self._check_owner()
        require(len(set(blocks)) == len(blocks), f"blocks {blocks} are not all different")
        self.pages[list(blocks)], self.owners[list(blocks)] = pages

    def close(self) -> None:
        self.closed = True

    def drop(self) -> None:
        """Forgets the outstanding steps; all that they wrote is garbage from now on."""
        while self._outstanding:
            plan = self._outstanding.popleft().plan
            for copy in plan.saves:
                self.host[copy.slot] = _HostPage(copy.epoch, *self._garbage())
            self.poison([*(copy.block for copy in plan.loads), *(copy.target for copy in plan.copies)])
            for chunk in plan.chunks:
                rows, columns = self._places(chunk, chunk.start, chunk.end)
                self.pages[rows, columns] = _POISON
                self.owners[rows, columns] = _NOBODY
                self._wipe_slot(chunk.slot)
            for sample in plan.samples:
                self._wipe_slot(sample.slot)

    def lose_kv(self) -> None:
        """Drops everything and leaves nothing of value on the device; the host pool stays."""
        self.drop()
        self.poison(range(len(self.pages)))
        for slot in range(len(self.hidden)):
            self._wipe_slot(slot)

    def poison(self, blocks: Iterable[int]) -> None:
        """Fills pages with garbage."""
        rows = list(blocks)
        self.pages[rows], self.owners[rows] = self._garbage()

    def poison_host(self, slots: Iterable[int]) -> None:
        """Fills pages of the host pool with garbage; their epochs stay."""
        for slot in slots:
            if slot in self.host:
                self.host[slot] = _HostPage(self.host[slot].epoch, *self._garbage())

    def reference_output(
        self, prompt_tokens: Sequence[int], n: int, *, params: SamplingParams = GREEDY, seed: int = 0
    ) -> list[int]:
        """What a fresh engine of this alphabet outputs; stops at none but the parameters' own stop tokens."""
        stop = params.stop_token_ids
        return reference_output(prompt_tokens, n, alphabet=self.alphabet, params=params, seed=seed, stop_token_ids=stop)

    def check_kv(self, who: str, block_table: np.ndarray, count: int, context: Context) -> None:
        """Raises `BadPlan` unless the pages of a table hold the KV of the first `count` tokens of a context."""
        require(count <= len(context.tokens), f"{who}: KV of {count} tokens, the context has {len(context.tokens)}")
        blocks = block_table[: -(-count // self.block_size)]
        right = entries_of(context.tokens[:count])
        wrong = self.pages[blocks].reshape(-1)[:count] != right
        if wrong.any():
            position = int(wrong.argmax())
            block = blocks[position // self.block_size]
            raise BadPlan(f"{who}: block {block} does not hold the KV of position {position}")
        strange = self.owners[blocks].reshape(-1)[:count] != self._tenant(context.tenant)
        require(not strange.any(), f"{who}: holds KV of another tenant")

    def _move_pages(self, plan: StepPlan) -> None:
        for copy in plan.saves:
            before = self.host.get(copy.slot)
            rises = before is None or before.epoch < copy.epoch
            require(rises, f"host slot {copy.slot}: epoch {copy.epoch} after {before and before.epoch}")
            self.host[copy.slot] = _HostPage(copy.epoch, self.pages[copy.block].copy(), self.owners[copy.block].copy())
        for copy in plan.loads:
            _, self.pages[copy.block], self.owners[copy.block] = self._host_page(copy)
        for source, target in plan.copies:
            self.pages[target], self.owners[target] = self.pages[source], self.owners[source]

    def _host_page(self, copy: HostCopy) -> _HostPage:
        found = self.host.get(copy.slot)
        good = found is not None and found.epoch == copy.epoch
        require(good, f"host slot {copy.slot}: epoch {copy.epoch} wanted, {found and found.epoch} found")
        assert found is not None
        return found

    def _run(self, chunk: Chunk, context: Context | None) -> None:
        tokens = chunk.tokens.tolist()
        if tokens[-1] == LAST_SAMPLED:
            tokens[-1] = self._take_last(chunk)
        if context is not None:
            self.check_kv(chunk.session_id, chunk.block_table, chunk.start, context)
            right = list(context.tokens[chunk.start : chunk.end])
            known = tokens[: len(right)] if chunk.tokens[-1] == LAST_SAMPLED else tokens
            require(known == right, f"{chunk.session_id}: tokens {tokens} from {chunk.start}, expected {right}")
        rows, columns = self._places(chunk, 0, chunk.start)
        digest = int((self.pages[rows, columns] * weights(chunk.start)).sum(dtype=np.uint64))
        entries = []
        for position, token in enumerate(tokens, chunk.start):
            entry = entry_of(token, position, digest)
            entries.append(entry)
            digest = (digest + weight(position) * entry) & MASK
        rows, columns = self._places(chunk, chunk.start, chunk.end)
        self.pages[rows, columns] = np.asarray(entries, np.uint64)
        self.owners[rows, columns] = _NOBODY if context is None else self._tenant(context.tenant)
        self.hidden[chunk.slot] = digest

    def _take_last(self, chunk: Chunk) -> int:
        found = self.last_sampled[chunk.slot]
        wanted = chunk.session_id, chunk.end - 1
        require(
            found is not None and found[:2] == wanted, f"{wanted} in slot {chunk.slot}: last sampled there was {found}"
        )
        assert found is not None
        return found[2]

    def _sample(self, sample: Sample, context: Context | None) -> SampledToken:
        who, slot = sample.session_id, sample.slot
        if context is not None:
            tokens = list(context.tokens)
            last = self.last_sampled[slot]
            if len(tokens) == sample.position - 1 and last is not None and last[:2] == (who, len(tokens)):
                tokens.append(last[2])
            require(len(tokens) == sample.position, f"{who}: sample at {sample.position}, expected {len(tokens)}")
            good = self.hidden[slot] == digest_of(tokens)
            require(good, f"{who}: slot {slot} does not hold the hidden state of its {len(tokens)} tokens")
        token = next_token(self.hidden[slot], sample, self.alphabet)
        self.last_sampled[slot] = (who, sample.position, token.token_id)
        return token

    def _places(self, chunk: Chunk, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(start, end)
        return chunk.block_table[positions // self.block_size], positions % self.block_size

    def _tenant(self, name: str) -> int:
        return self._tenants.setdefault(name, len(self._tenants))

    def _garbage(self) -> tuple[np.ndarray, np.ndarray]:
        return np.full(self.block_size, _POISON, np.uint64), np.full(self.block_size, _NOBODY, np.int32)

    def _wipe_slot(self, slot: int) -> None:
        self.hidden[slot] = _POISON
        self.last_sampled[slot] = None

    def _check_owner(self) -> None:
        me = threading.get_ident()
        if self._owner is None:
            self._owner = me
        require(self._owner == me, "the engine was called by two threads")
