"""The law as a hypothesis state machine, for any engine.

Whatever the interleaving of events, steps, preemptions, swaps, cache hits, failures and cancellations, each session's
output equals what a fresh engine gives for the final context at once, and after every move all pools add up. A subclass
brings the device and the reference; `tests.law_run.Run` makes the moves and checks them.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from s2l_jax.core.config import PREEMPTION_MODES, SchedulerConfig
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.policy import POLICIES
from tests.law_run import Run
from tests.law_world import Device, Stream

MAX_MODEL_LEN = 48
MAX_TOKENS = (1, 2, 3, 5, 10)
STOPS = frozenset(range(0, 256, 4))
EOS = frozenset(range(1, 256, 8))
# Pieces are prefixes of a few fixed texts, so that contexts share prefixes of any length and pools fill up quickly.
TEXTS = np.random.default_rng(0).integers(0, 4, (4, 40)).tolist()
LENGTHS = [0, 1, 3, 4, 7, 8, 12, 13, 16, 21, 27, 32, 38, 40, 40]
TOKENS = st.builds(lambda text, length: text[:length], st.sampled_from(TEXTS), st.sampled_from(LENGTHS))
COSTS = {
    "as they are": PhysicalCosts(),
    "swap is cheap": PhysicalCosts(swap_out_s=0, swap_out_block_s=1e-6, swap_in_s=0, swap_in_block_s=1e-6),
    "swap is dear": PhysicalCosts(swap_out_s=1.0, swap_out_block_s=1.0, swap_in_s=1.0, swap_in_block_s=1.0),
    "swap and recompute are equal": PhysicalCosts(
        attended_s=0, swap_out_s=0, swap_out_block_s=2.4e-3, swap_in_s=0, swap_in_block_s=2.4e-3
    ),
}
# What must have happened in a run that is worth its name.
KINDS = (
    "steps planned under another",
    "tokens the host did not know",
    "overruns",
    "failed steps",
    "losses of KV",
    "ended by length",
    "ended by stop",
    "pages: saves",
    "pages: loads",
    "pages: copies",
    "backup blocks",
    "preemptions: swap",
    "preemptions: recompute",
    "preemptions: drop",
    "preemptions: tail",
    "sessions with reused_tokens",
    "sessions with restored_tokens",
    "sessions with recomputed_tokens",
    "sessions with invalidated_tokens",
)
_ENOUGH_EXAMPLES = 500


def law_settings(config: pytest.Config) -> settings:
    """Settings of a run: as many interleavings as `--law-examples` says."""
    return settings(
        max_examples=config.getoption("--law-examples"),
        stateful_step_count=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def report(tally: Counter[str], examples: int) -> None:
    """Prints what has happened, and fails if something that matters has not."""
    print(*(f"{count:8} {kind}" for kind, count in sorted(tally.items())), sep="\n")
    missing = [kind for kind in KINDS if not tally[kind]]
    assert not missing or examples < _ENOUGH_EXAMPLES, f"the law was not tried on {missing}"


def kinds_of_params(*kinds: dict[str, object]) -> tuple[SamplingParams, ...]:
    """Parameters of these kinds, each with every `max_tokens`."""
    return tuple(SamplingParams(max_tokens=n, **kind) for kind in kinds for n in MAX_TOKENS)  # type: ignore[arg-type]


class LawMachine(RuleBasedStateMachine):
    """Drives scheduler and engine at random."""

    block_size: ClassVar[int] = 4
    max_blocks: ClassVar[int] = 40
    max_host_blocks: ClassVar[int] = 32
    max_batch: ClassVar[int] = 4
    max_sessions: ClassVar[int] = 6
    max_token_budget: ClassVar[int] = 16
    params: ClassVar[tuple[SamplingParams, ...]] = kinds_of_params(
        {"ignore_eos": True}, {}, {"ignore_eos": True, "stop_token_ids": STOPS}
    )
    pool_sizes: ClassVar[tuple[int, ...]] = (12, 12, 12, 14, 24, max_blocks)
    tenants: ClassVar[tuple[str, ...]] = ("", "", "other")
    policies: ClassVar[tuple[str, ...]] = tuple(sorted(POLICIES))
    preemptions: ClassVar[tuple[str, ...]] = (*PREEMPTION_MODES, "auto", "swap")
    host_blocks: ClassVar[tuple[int, ...]] = (0, 2, 6, 6, max_host_blocks, max_host_blocks)
    tally: ClassVar[Counter[str]]

    def device(self) -> Device:
        """The device for one run; what it holds may be of the run before."""
        raise NotImplementedError

    def reference(self, context: Sequence[int], params: SamplingParams) -> list[int]:
        """Output for a context given at once, regardless of stop tokens or not."""
        raise NotImplementedError

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        config = SchedulerConfig(
            num_blocks=data.draw(st.sampled_from(self.pool_sizes), "blocks"),
            host_blocks=data.draw(st.sampled_from(self.host_blocks), "host blocks"),
            block_size=self.block_size,
            token_budget=data.draw(st.integers(self.max_batch, self.max_token_budget), "token budget"),
            max_batch=self.max_batch,
            max_sessions=self.max_sessions,
            max_model_len=MAX_MODEL_LEN,
            policy=data.draw(st.sampled_from(self.policies), "policy"),
            preemption=data.draw(st.sampled_from(self.preemptions), "preemption"),
            decode_gap_s=data.draw(st.sampled_from([1e-3, 0.03, 10.0]), "decode gap"),
            partial_step_s=data.draw(st.sampled_from([1e-3, 0.03, 10.0]), "partial step"),
            min_chunk_tokens=data.draw(st.sampled_from([1, 16]), "smallest chunk"),
            eos_token_ids=EOS,
        )
        costs = COSTS[data.draw(st.sampled_from(sorted(COSTS)), "costs")]
        self.run = Run(config, self.device(), self.reference, costs=costs, tally=self.tally)
        for _ in range(data.draw(st.integers(0, self.max_sessions), "streams at the start")):
            self.arrive(data, data.draw(TOKENS), False)

    # Events

    @rule(data=st.data(), tokens=TOKENS, final=st.booleans())
    def arrive(self, data: st.DataObject, tokens: list[int], final: bool) -> None:
        names = [f"s{i}" for i in range(self.max_sessions + 1) if f"s{i}" not in self.run.streams]
        self.run.open(
            data.draw(st.sampled_from(names), "name"),
            tokens,
            data.draw(st.sampled_from(self.params), "params"),
            final=final,
            tenant=data.draw(st.sampled_from(self.tenants), "tenant"),
            priority=data.draw(st.sampled_from([0, 0, 1]), "priority"),
            deadline_s=data.draw(st.sampled_from([None, self.run.now_s + 0.1]), "deadline"),
        )

    @precondition(lambda self: self.run.streams)
    @rule(data=st.data(), tokens=TOKENS, final=st.booleans())
    def append(self, data: st.DataObject, tokens: list[int], final: bool) -> None:
        stream = self._pick(data)
        room = MAX_MODEL_LEN - stream.params.max_tokens - len(stream.context)
        self.run.append(stream.id, tokens[:room] if room > 0 else tokens, final=final)

    @precondition(lambda self: self.run.streams)
    @rule(data=st.data(), tokens=TOKENS, final=st.booleans(), resend=st.booleans())
    def update(self, data: st.DataObject, tokens: list[int], final: bool, resend: bool) -> None:
        stream = self._pick(data)
        keep = data.draw(st.integers(0, len(stream.context)), "keep")
        self.run.change(stream.id, stream.context[:keep] + tokens, final=final, keep=0 if resend else keep)

    @precondition(lambda self: any(stream.context for stream in self.run.streams.values()))
    @rule(data=st.data(), final=st.booleans())
    def replace_one(self, data: st.DataObject, final: bool) -> None:
        names = sorted(key for key, stream in self.run.streams.items() if stream.context)
        stream = self.run.streams[data.draw(st.sampled_from(names), "session")]
        context = list(stream.context)
        context[data.draw(st.integers(0, len(context) - 1), "position")] += 4
        self.run.change(stream.id, context, final=final)

    @precondition(lambda self: any(stream.versions for stream in self.run.streams.values()))
    @rule(data=st.data(), final=st.booleans())
    def go_back(self, data: st.DataObject, final: bool) -> None:
        names = sorted(key for key, stream in self.run.streams.items() if stream.versions)
        stream = self.run.streams[data.draw(st.sampled_from(names), "session")]
        self.run.change(stream.id, data.draw(st.sampled_from(stream.versions), "version"), final=final)

    @precondition(lambda self: self.run.streams)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.run.finish(self._pick(data).id)

    @precondition(lambda self: self.run.streams)
    @rule(data=st.data())
    def repeat_or_skip(self, data: st.DataObject) -> None:
        stream = self._pick(data)
        seq = data.draw(st.integers(1, stream.seq), "seq")
        ack = self.run.scheduler.append(stream.id, [1, 2, 3], self.run.now_s, seq=seq)
        assert ack.duplicate and ack.seq == seq
        with pytest.raises(InvalidArgument):
            self.run.scheduler.append(stream.id, [1], self.run.now_s, seq=stream.seq + 2)

    @precondition(lambda self: self.run.streams)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.run.cancel(self._pick(data).id)

    # Steps: events may come at any time between planning and committing.

    @precondition(lambda self: self.run.planned is None and self.run.uncommitted < 2)
    @rule()
    def plan(self) -> None:
        self.run.plan()

    @precondition(lambda self: self.run.planned is not None)
    @rule()
    def hand_over(self) -> None:
        self.run.hand_over()

    @precondition(lambda self: self.run.flying)
    @rule()
    def land(self) -> None:
        self.run.land()

    @precondition(lambda self: self.run.landed)
    @rule()
    def settle(self) -> None:
        self.run.settle()

    @rule(count=st.integers(1, 40), pause_s=st.sampled_from([0.0, 0.0, 0.3, 20.0]))
    def work(self, count: int, pause_s: float) -> None:
        self.run.now_s += pause_s
        while count and self.run.advance():
            count -= 1

    @precondition(lambda self: self.run.uncommitted == 2 and not self.run.landed)
    @rule(kind=st.sampled_from(["fail", "lose_kv"]))
    def break_down(self, kind: str) -> None:
        getattr(self.run, kind)()

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        if sys.exc_info()[0] is not None:
            note("\n".join(self.run.moves))
        else:
            # Half of the streams stay idle: they must not keep the others from finishing.
            idle = [key for index, key in enumerate(self.run.streams) if index % 2]
            self.run.drain(idle=[key for key in idle if not self.run.streams[key].is_final])

    def _pick(self, data: st.DataObject) -> Stream:
        return self.run.streams[data.draw(st.sampled_from(sorted(self.run.streams)), "session")]
