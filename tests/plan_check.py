"""What `StepPlan` promises, checked plan by plan. Engines rely on it without looking."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from s2l_jax.core.plan import LAST_SAMPLED, Chunk, HostCopy, Sample, StepPlan


class BadPlan(AssertionError):
    """The scheduler broke the plan contract."""


def require(good: bool, message: str) -> None:
    if not good:
        raise BadPlan(message)


class PlanCheck:
    """Checks plans against the sizes of one engine. Knows nothing of what the pages hold."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_sessions: int,
        host_blocks: int,
        *,
        vocab_size: int,
        token_budget: int | None = None,
        max_batch: int | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_sessions = max_sessions
        self.host_blocks = host_blocks
        self.vocab_size = vocab_size
        self.token_budget = token_budget
        self.max_batch = max_batch

    def __call__(self, plan: StepPlan) -> None:
        """Raises `BadPlan` if the plan breaks its contract."""
        parts = plan.chunks, plan.samples, plan.saves, plan.loads, plan.copies
        require(any(parts), "the plan is empty")
        if self.token_budget is not None:
            require(plan.tokens <= self.token_budget, f"{plan.tokens} tokens, budget {self.token_budget}")
        if self.max_batch is not None:
            batch = max(len(plan.chunks), len(plan.samples))
            require(batch <= self.max_batch, f"{batch} rows, max_batch {self.max_batch}")
        self._check_rows("chunk", plan.chunks)
        self._check_rows("sample", plan.samples)
        for chunk in plan.chunks:
            self._check_chunk(chunk)
        lengths = [len(chunk.tokens) > 1 for chunk in plan.chunks]
        require(lengths == sorted(lengths), "a chunk of one token comes after a longer one")
        self._check_page_copies(plan)
        self._check_shared_pages(plan.chunks)

    def _check_rows(self, name: str, rows: Sequence[Chunk] | Sequence[Sample]) -> None:
        _require_distinct(f"session of a {name}", (row.session_id for row in rows))
        _require_distinct(f"slot of a {name}", (row.slot for row in rows))
        require(all(0 <= row.slot < self.max_sessions for row in rows), f"a {name}'s slot is out of range")

    def _check_chunk(self, chunk: Chunk) -> None:
        who, table, tokens = chunk.session_id, chunk.block_table, chunk.tokens
        require(tokens.dtype == np.int32 and table.dtype == np.int32, f"{who}: tokens and table must be int32")
        require(chunk.start >= 0 and len(tokens) >= 1, f"{who}: chunk {chunk.start}+{len(tokens)}")
        want = -(-chunk.end // self.block_size)
        require(len(table) >= want, f"{who}: {len(table)} blocks for {chunk.end} tokens, expected {want}")
        blocks, ids = table.tolist(), tokens.tolist()
        require(len(set(blocks)) == len(blocks), f"{who}: a block is twice in the table")
        require(min(blocks) >= 0 and max(blocks) < self.num_blocks, f"{who}: a block is out of range")
        known = ids[:-1] if ids[-1] == LAST_SAMPLED else ids
        strange = [token for token in known if not 0 <= token < self.vocab_size]
        require(not strange, f"{who}: tokens {strange} are out of range of {self.vocab_size}")

    def _check_page_copies(self, plan: StepPlan) -> None:
        host_copies = (*plan.saves, *plan.loads)
        device = [copy.block for copy in host_copies] + [block for copy in plan.copies for block in copy]
        require(all(0 <= block < self.num_blocks for block in device), "a copy's block is out of range")
        in_pool = all(0 <= copy.slot < self.host_blocks for copy in host_copies)
        require(in_pool, f"a host slot is out of range of {self.host_blocks}")
        targets = [*_blocks(plan.loads), *(copy.target for copy in plan.copies)]
        _require_distinct("target on the device", targets)
        _require_distinct("slot saved to", _slots(plan.saves))
        written = {copy.source for copy in plan.copies}.intersection(targets)
        require(not written, f"copies read {written}, which loads or copies of this plan write")
        saved = set(_slots(plan.loads)).intersection(_slots(plan.saves))
        require(not saved, f"loads read host slots {saved}, which this plan saves to")

    def _check_shared_pages(self, chunks: Iterable[Chunk]) -> None:
        """No page that one chunk writes is read or written by another chunk."""
        size = self.block_size
        writer: dict[int, str] = {}
        for chunk in chunks:
            for block in chunk.block_table[chunk.start // size : -(-chunk.end // size)].tolist():
                other = writer.setdefault(block, chunk.session_id)
                require(other == chunk.session_id, f"block {block} is written by {other} and {chunk.session_id}")
        for chunk in chunks:
            for block in chunk.block_table[: -(-chunk.start // size)].tolist():
                other = writer.get(block, chunk.session_id)
                require(other == chunk.session_id, f"block {block} of {chunk.session_id} is written by {other}")


def _require_distinct(what: str, values: Iterable[object]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    require(not twice, f"{what}: {twice} twice in one plan")


def _blocks(copies: Iterable[HostCopy]) -> list[int]:
    return [copy.block for copy in copies]


def _slots(copies: Iterable[HostCopy]) -> list[int]:
    return [copy.slot for copy in copies]
