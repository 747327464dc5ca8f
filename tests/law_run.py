"""One run of a scheduler on a device, move by move, with everything checked that must hold after each.

`Run` is what the law machine drives at random, and what a regression test drives by hand: the same moves, in an order
that once went wrong.

Two steps may be planned and not committed. A step is planned, handed over (`submit`), landed (`collect`) and settled
(`commit`), and anything may happen in between.
"""

from collections import Counter, deque
from collections.abc import Sequence

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import NO_WORK, CostModel, PhysicalCosts
from s2l_jax.core.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import LAST_SAMPLED, StepPlan, StepResult
from s2l_jax.core.scheduler import Scheduler
from tests.law_world import Device, Reference, Step, Stream

_SLACK_STEPS = 8
_COMPLETE_FIRST = ("s2l", "fcfs", "lcas")


class Run:
    """Drives a scheduler and a device.

    Args:
      config: of the scheduler; the device must not be smaller.
      device: executes.
      reference: says what should come out.
      costs: of the scheduler.
      tally: counts what has happened.

    Attributes:
      moves: what was done, as lines of a regression test.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        device: Device,
        reference: Reference,
        *,
        costs: CostModel | None = None,
        tally: Counter[str] | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.reference = reference
        self.costs = costs or PhysicalCosts()
        self.scheduler = Scheduler(config, self.costs)
        self.tally: Counter[str] = Counter() if tally is None else tally
        self.now_s = 0.0
        self.streams: dict[SessionId, Stream] = {}
        self.done: list[Stream] = []
        self.planned: Step | None = None
        self.flying: deque[Step] = deque()
        self.landed: deque[tuple[Step, StepResult]] = deque()
        self.moves: list[str] = [f"config = {config}", f"costs = {self.costs}"]

    def check(self) -> None:
        """Raises whatever is wrong."""
        self.scheduler.check_integrity()
        if self.planned is None:
            self.device.inspect(self.scheduler, {key: stream.kv for key, stream in self.streams.items()})

    # Events

    def open(
        self,
        name: str,
        tokens: Sequence[int],
        params: SamplingParams | None = None,
        *,
        final: bool = False,
        tenant: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> None:
        """Opens a session, or is refused for a good reason."""
        session_id, params = SessionId(name), params or SamplingParams(max_tokens=4, ignore_eos=True)
        options = f"final={final}, tenant={tenant!r}, priority={priority}, deadline_s={deadline_s}"
        self.moves.append(f"run.open({name!r}, {tokens}, {params}, {options})  # at {self.now_s} s")
        stream = Stream(session_id, tenant, params, list(tokens), final)
        try:
            self.scheduler.open(
                session_id,
                tokens,
                params,
                self.now_s,
                final=final,
                tenant=tenant,
                priority=priority,
                deadline_s=deadline_s,
            )
        except ResourceExhausted:
            assert len(self.streams) == self.config.max_sessions
            return
        except InvalidArgument:
            assert self._is_refusable(stream.context, params, final)
            return
        self.streams[session_id] = stream
        self._note_work(stream)
        self.check()

    def change(self, name: str, context: Sequence[int], *, keep: int = 0, final: bool = False) -> None:
        """Replaces a context, sending what follows its first `keep` tokens; or is refused for a good reason."""
        self.moves.append(f"run.change({name!r}, {context}, keep={keep}, final={final})  # at {self.now_s} s")
        stream = self.streams[SessionId(name)]
        assert list(context[:keep]) == stream.context[:keep]
        try:
            ack = self.scheduler.update(stream.id, list(context[keep:]), self.now_s, keep=keep, final=final)
        except FailedPrecondition:
            assert stream.is_final
            return
        except InvalidArgument:
            assert self._is_refusable(context, stream.params, final)
            return
        pairs = zip(stream.context, context, strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(stream.context), len(context)))
        assert ack.kept_tokens == common
        assert ack.seq == stream.seq + 1 and ack.context_tokens == len(context)
        stream.versions.append(stream.context)
        stream.seq, stream.context, stream.is_final = ack.seq, list(context), final
        self._note_work(stream)
        self.check()

    def append(self, name: str, tokens: Sequence[int], *, final: bool = False) -> None:
        """Adds to a context."""
        context = self.streams[SessionId(name)].context
        self.change(name, [*context, *tokens], keep=len(context), final=final)

    def finish(self, name: str) -> None:
        """Completes a context; an empty one gets a token first."""
        self.append(name, [] if self.streams[SessionId(name)].context else [1], final=True)

    def cancel(self, name: str) -> None:
        """Ends a session."""
        self.moves.append(f"run.cancel({name!r})")
        stats = self.scheduler.cancel(SessionId(name))
        self._count_session(stats)
        del self.streams[SessionId(name)]
        self.check()

    # Steps

    @property
    def uncommitted(self) -> int:
        """Steps planned and not committed."""
        return (self.planned is not None) + len(self.flying) + len(self.landed)

    def plan(self) -> bool:
        """Plans a step; False if there is nothing to do."""
        self.moves.append("run.plan()")
        assert self.planned is None and self.uncommitted < 2
        plan = self.scheduler.plan(self.now_s)
        self.scheduler.check_integrity()
        if plan is None:
            waiting = [stream.id for stream in self.streams.values() if stream.is_final]
            assert self.uncommitted or not waiting, f"nothing is planned, but {waiting} are complete"
            return False
        rows = {chunk.session_id for chunk in plan.chunks} | {sample.session_id for sample in plan.samples}
        streams = {key: self.streams[key] for key in rows}
        contexts = {key: stream.kv for key, stream in streams.items()}
        self.planned = Step(plan, contexts, streams)
        self._check_duration(plan, streams)
        self._count_plan(plan)
        for stream in self.streams.values():
            if stream.is_waiting and stream.id not in {sample.session_id for sample in plan.samples}:
                stream.steps_left -= 1
                assert stream.steps_left >= 0, f"{stream.id} is starved of its first token"
        return True

    def hand_over(self) -> None:
        """Starts the step planned last."""
        self.moves.append("run.hand_over()")
        assert self.planned is not None
        step, self.planned = self.planned, None
        self.device.submit(step.plan, step.contexts)
        self.flying.append(step)
        self.check()

    def land(self) -> None:
        """Waits for the oldest step."""
        self.moves.append("run.land()")
        result = self.device.collect()
        self.landed.append((self.flying.popleft(), result))

    def settle(self) -> None:
        """Commits the oldest step."""
        self.moves.append("run.settle()")
        step, result = self.landed.popleft()
        assert result.plan is step.plan
        self.now_s += self.costs.step(step.plan.shape)
        outputs = self.scheduler.commit(result, self.now_s)
        alive = [sample.session_id for sample in step.plan.samples if self._is_alive(step, sample.session_id)]
        assert [output.session_id for output in outputs] == alive
        self.tally["overruns"] += sum(s.finish_reason is not None for s in self._samplers(step))
        for output in outputs:
            stream = self.streams[output.session_id]
            stream.output.append(output.token.token_id)
            if output.finish_reason and output.stats:
                stream.finish_reason = output.finish_reason
                self.tally[f"ended by {output.finish_reason}"] += 1
                self._count_session(output.stats)
                self.done.append(self.streams.pop(output.session_id))
        self.check()

    def advance(self) -> bool:
        """Does what an engine's owner does next, with one step under way while the next is planned."""
        if self.landed:
            self.settle()
        elif self.planned is not None:
            self.hand_over()
        elif self.uncommitted < 2 and self.plan():
            pass
        elif self.flying:
            self.land()
        else:
            return False
        return True

    def fail(self) -> None:
        """The oldest step fails, and with it the one behind it."""
        self.moves.append("run.fail()")
        while self.landed:
            self.settle()
        steps = [*self.flying, *([self.planned] if self.planned else [])]
        self.device.drop()
        self.flying.clear()
        self.planned = None
        if not steps:
            return
        alive = {key for step in steps for key in step.streams if self._is_alive(step, key)}
        failed = self.scheduler.fail(steps[0].plan)
        # A session that only waits for its pages is in the step as well, though no row names it.
        brings_pages = any(step.plan.loads or step.plan.copies for step in steps)
        assert alive <= set(failed) if brings_pages else alive == set(failed)
        for session_id in failed:
            del self.streams[session_id]
        self.tally["failed steps"] += len(steps)
        self._expect_again()
        self.check()

    def lose_kv(self) -> None:
        """All KV on the device is lost; the sessions stay, but for those in steps that were under way."""
        self.moves.append("run.lose_kv()")
        self.fail()
        self.device.lose_kv()
        self.scheduler.forget_kv()
        self.tally["losses of KV"] += 1
        self._expect_again()
        self.check()

    # The end

    def drain(self, *, idle: Sequence[str] = ()) -> None:
        """Completes all sessions but the idle ones and checks the output of all; the run is over then."""
        self.moves.append(f"run.drain(idle={list(idle)})")
        for stream in list(self.streams.values()):
            if stream.id not in idle and not stream.is_final:
                self.finish(stream.id)
        # Each complete session gets on by at least a token a step once those before it have ended, and whatever is
        # left after that has work for as many steps as it has tokens. A step takes four moves.
        steps = sum(stream.work for stream in self.streams.values()) + self.config.num_blocks + _SLACK_STEPS
        for _ in range(4 * steps):
            if not self.advance():
                break
        else:
            raise AssertionError(f"still at work after {steps} steps, with {[*self.streams]} left")
        assert set(self.streams) <= set(idle), f"{set(self.streams) - set(idle)} did not end"
        for session_id in list(self.streams):
            self.cancel(session_id)
        self._check_outputs()
        self._check_empty()
        self.tally["runs to the end"] += 1

    def _check_outputs(self) -> None:
        for stream in self.done:
            right = self.reference(stream.context, stream.params)
            stops = set(stream.params.stop_token_ids)
            stops |= set() if stream.params.ignore_eos else self.config.eos_token_ids
            end = next((i for i, token in enumerate(right) if token in stops or token < 0), None)
            assert stream.output == (right if end is None else right[: end + 1]), f"{stream.id} is wrong"
            reason = "length" if end is None else "error" if right[end] < 0 else "stop"
            assert stream.finish_reason == reason

    def _check_empty(self) -> None:
        self.scheduler.check_integrity()
        stats = self.scheduler.stats()
        assert stats.free_blocks + stats.cached_blocks == stats.total_blocks == self.config.num_blocks
        assert not stats.held_blocks and not any(stats.sessions.values())
        host = stats.host
        assert host.free + host.backups + host.swapped == host.total == self.config.host_blocks
        assert not self.scheduler.has_work
        for kind in ("swap", "recompute", "drop", "tail"):
            self.tally[f"preemptions: {kind}"] += getattr(stats.preemptions, kind)
        self.tally["backup blocks"] += stats.preemptions.backup_blocks

    # Bounds

    def _note_work(self, stream: Stream) -> None:
        """Sets the bound for the first token of a session that has just become complete, and moves those of others.

        The first in rank gets on by a token in each step at least, keeps its blocks, and ends or has nothing to do. So
        a session waits for no more steps than all sessions together have tokens; twice that, since a step may do
        nothing but bring pages back. An event adds the tokens of its session, which may also push aside the first, so
        that it has to compute its context again. Where incomplete sessions rank behind, they do not count.
        """
        if not stream.is_final and self.config.policy in _COMPLETE_FIRST:
            return
        for other in self.streams.values():
            other.steps_left += stream.work + 2 * self.config.max_model_len
        if stream.is_final:
            counted = [s for s in self.streams.values() if s.is_final or self.config.policy not in _COMPLETE_FIRST]
            stream.steps_left = sum(other.work for other in counted) + _SLACK_STEPS

    def _expect_again(self) -> None:
        """What was lost has to be computed again, by everybody."""
        work = sum(stream.work for stream in self.streams.values())
        for stream in self.streams.values():
            stream.steps_left += work

    def _check_duration(self, plan: StepPlan, streams: dict[SessionId, Stream]) -> None:
        """The step is as much work as its shape says, and takes no longer than the default policy allows."""
        long = [chunk for chunk in plan.chunks if len(chunk.tokens) > 1]
        single = [chunk for chunk in plan.chunks if len(chunk.tokens) == 1]
        shape, tokens = plan.shape, sum(len(chunk.tokens) for chunk in long)
        assert (shape.prefill_tokens, shape.decodes) == (tokens, len(single))
        assert shape.attended_tokens == sum((chunk.end**2 - chunk.start**2) / 2 for chunk in long)
        assert 0 <= shape.decode_context_tokens - sum(chunk.start for chunk in single) <= len(single)
        decodes = sum(chunk.start >= streams[chunk.session_id].decode_start for chunk in single)
        prompts = tokens + len(single) - decodes
        if self.config.policy != "s2l" or prompts <= self.config.min_chunk_tokens:
            return
        # The scheduler does not know yet which prompts will have one token only, and what they attend to.
        predicted_s = 0.99 * self.costs.step(shape._replace(prefill_tokens=prompts, decodes=decodes))
        if decodes:
            assert predicted_s <= self.config.decode_gap_s, "who decodes waits too long"
        if not any(stream.is_final for stream in streams.values()):
            limit_s = max(self.config.partial_step_s, 6 * self.costs.step(NO_WORK))
            assert predicted_s <= limit_s, "a step for incomplete sessions takes too long"

    # Details

    def _is_refusable(self, context: Sequence[int], params: SamplingParams, final: bool) -> bool:
        return len(context) + params.max_tokens > self.config.max_model_len or (final and not context)

    def _is_alive(self, step: Step, session_id: SessionId) -> bool:
        return self.streams.get(session_id) is step.streams[session_id]

    def _samplers(self, step: Step) -> list[Stream]:
        return [step.streams[sample.session_id] for sample in step.plan.samples]

    def _count_plan(self, plan: StepPlan) -> None:
        self.tally["steps"] += 1
        self.tally["steps planned under another"] += self.uncommitted == 2
        self.tally["steps of copies only"] += not (plan.chunks or plan.samples)
        self.tally["tokens the host did not know"] += sum(int(c.tokens[-1]) == LAST_SAMPLED for c in plan.chunks)
        for name in ("saves", "loads", "copies"):
            self.tally[f"pages: {name}"] += len(getattr(plan, name))

    def _count_session(self, stats: object) -> None:
        for name in ("reused_tokens", "restored_tokens", "recomputed_tokens", "invalidated_tokens"):
            self.tally[f"sessions with {name}"] += getattr(stats, name) > 0
