"""The JAX engine: one device or several that act as one, one copy of the weights, one page pool.

Ownership. The pages and the session buffers are donated to every step, so an older handle to them is dead: exactly one
thread, the owner, may touch them. The first thread that submits a step becomes the owner and stays it. `warmup` may run
on any thread before that; `close` runs on the owner, or on any thread once the owner has ended or if there never was
one. A call from another thread raises instead of corrupting memory. Pages on the host have a protocol of their own, see
`s2l_jax.engine.host_pool`.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from s2l_jax.core.errors import FailedPrecondition, InternalError, InvalidArgument, S2LError
from s2l_jax.core.plan import Chunk, HostCopy, Sample, StepPlan, StepResult
from s2l_jax.core.records import fields_of
from s2l_jax.engine.buckets import COPIED_PAGES, Buckets, ForwardShape, SampleShape, copy_runs, layers_per_call
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.device_code import Contents, DeviceCode, Model
from s2l_jax.engine.device_state import DeviceState
from s2l_jax.engine.errors import KVLost
from s2l_jax.engine.executable_store import ExecutableStore, code_fingerprint, environment_fingerprint
from s2l_jax.engine.executables import compile_all
from s2l_jax.engine.host_numpy import NumpyMemory
from s2l_jax.engine.host_pinned import PinnedMemory
from s2l_jax.engine.host_pool import CopyTimes, DeviceCopies, HostMemory, HostPool, Saved
from s2l_jax.engine.lowering import Lowering
from s2l_jax.engine.packing import pack_chunks, pack_nothing
from s2l_jax.engine.placement import Placement
from s2l_jax.engine.protocol import MAX_OUTSTANDING, Progress
from s2l_jax.engine.sample_packing import group_samples, pack_history, pack_masks, pack_samples
from s2l_jax.engine.step import Step, are_ready, members
from s2l_jax.models.config import ModelConfig
from s2l_jax.transport.protocol import Pages


class JaxEngine:
    """Executes step plans on the devices that hold the model's weights."""

    def __init__(self, model: Model, model_config: ModelConfig, config: EngineConfig) -> None:
        """Allocates the page pool.

        Args:
          model: an `nnx.Module` such as `s2l_jax.models.llama.Llama`, its weights on the device to use, or split
            over several (`s2l_jax.models.sharding`).
          model_config: its shape.
          config: sizes; `dtype` must be that of the model.

        Raises:
          InvalidArgument: the model cannot read sequences as long as `config.max_model_len`, or its layers are not of
            one kind.
        """
        if config.max_model_len > model_config.max_position:
            raise InvalidArgument(
                f"max_model_len is {config.max_model_len}, but {model_config.name} reads {model_config.max_position} "
                "tokens: lower max_model_len"
            )
        self.config = config
        self._model_config = model_config
        self._buckets = Buckets(config)
        placement = Placement.of(jax.tree.leaves(nnx.state(model))[0])
        code = DeviceCode(model, layers_per_call(model_config.num_layers), placement.mesh)
        self._state = DeviceState(code, placement, model_config, config)
        self._memory = self._host_memory()
        self._host = HostPool(self._memory, config.host_blocks)
        self._steps: deque[Step] = deque()
        self._last_ready_s = 0.0
        self._owner: threading.Thread | None = None

    @property
    def page_shape(self) -> tuple[int, ...]:
        """Of a page outside the pool: `[layers, kv_heads, block_size, kv_dim]`."""
        layers = [pages for group in self._state.pages for pages in group]
        return len(layers), *layers[0].shape[1:]

    def warmup(self, progress: Progress | None = None) -> None:
        """Loads or compiles every executable; see `Engine.warmup`."""
        self._state.executables = compile_all(
            self._lowering().all(),
            store=self._store(),
            threads=self.config.compile_threads,
            progress=progress or (lambda done, total, name: None),
        )
        self._rehearse()

    def submit(self, plan: StepPlan) -> None:
        """Hands copies, chunks and samples of a step to the device, in this order; see `Engine.submit`."""
        self._check_owner()
        if not self._state.executables:
            raise FailedPrecondition("the engine has no executables: call warmup() first, and nothing after close()")
        try:
            if len(self._steps) == MAX_OUTSTANDING:
                raise FailedPrecondition(f"{MAX_OUTSTANDING} steps are outstanding: collect one before the next")
            self._steps.append(self._start(plan))
        except Exception as error:
            raise self._drop(f"step {plan.step_id} failed", error, plan) from error

    def collect(self) -> StepResult:
        """Waits for the tokens of the oldest step, and for its saves to land; see `Engine.collect`."""
        self._check_owner()
        if not self._steps:
            raise FailedPrecondition("no step is outstanding: submit one before collect()")
        step = self._steps[0]
        try:
            result = step.result(self._last_ready_s)
        except Exception as error:
            raise self._drop(f"step {step.plan.step_id} failed", error, step.plan) from error
        self._steps.popleft()
        self._last_ready_s = step.ready_s
        if step.copies is not None:
            self._host.landed(step.plan.saves, step.copies)
        return result

    def is_ready(self) -> bool:
        """See `Engine.is_ready`."""
        self._check_owner()
        return bool(self._steps) and self._steps[0].is_ready()

    def execute(self, plan: StepPlan) -> StepResult:
        """See `Engine.execute`."""
        self._check_owner()
        if self._steps:
            error = FailedPrecondition("execute() runs a step by itself, but others are outstanding: collect them")
            raise self._drop(f"step {plan.step_id} failed", error, plan)
        self.submit(plan)
        return self.collect()

    def gather(self, blocks: Sequence[int]) -> Contents:
        """See `PageAccess.gather`."""
        self._check_owner()
        self._check_inside(blocks)
        return self._state.gather(blocks)

    def place(self, pages: Pages) -> Contents:
        """See `PageAccess.place`. Engines split over different numbers of devices see contents of the same shape."""
        if self._memory.split_contents and len(pages) == 1:  # they come from elsewhere
            pages = tuple(pages[0][at : at + 1] for at in range(len(pages[0])))
        return jax.block_until_ready(self._state.placement.put_contents(pages))

    def scatter(self, blocks: Sequence[int], pages: Contents) -> None:
        """See `PageAccess.scatter`."""
        self._check_owner()
        try:
            self._check_inside(blocks)
            self._state.scatter(blocks, pages)
        except Exception as error:
            raise self._drop("pages could not be brought in", error) from error

    def close(self) -> None:
        """Drops outstanding steps, both pools and the executables; see `Engine.close`."""
        if self._owner is not None and self._owner.is_alive():
            self._check_owner()
        self._state.settle()
        self._host.close()
        self._steps.clear()
        self._state.executables = {}
        self._state.delete()

    def _rehearse(self) -> None:
        """Runs every executable once, with nothing to do."""
        for forward in self._buckets.forward_shapes():
            self._state.rehearse(forward, pack_nothing(forward, self.config))
        for sample in self._buckets.sample_shapes():
            self._state.sample(sample, *self._pack(sample, ()))
        for pages in COPIED_PAGES:
            self._state.scatter([0] * pages, self._state.gather([0] * pages))
        self._state.settle()

    def _start(self, plan: StepPlan) -> Step:
        """Starts a step; all that can be wrong with a plan is found before anything is started."""
        self._check_copies(plan)
        groups = tuple(group_samples(plan.samples, self._buckets))
        sample_inputs = [self._pack(group.shape, members(plan, group)) for group in groups]
        forward_input = self._forward_input(plan.chunks) if plan.chunks else None
        markers: list[Array] = []
        copies, staging_s = self._start_host_copies(plan, markers)
        rest_start_s = time.perf_counter()
        for run in copy_runs(len(plan.copies)):
            sources, targets = zip(*plan.copies[run], strict=True)
            markers.append(self._state.scatter(targets, self._state.gather(sources)))
        if forward_input is not None:
            markers.append(self._state.forward(*forward_input))
        sampled = [
            self._state.sample(group.shape, *arrays) for group, arrays in zip(groups, sample_inputs, strict=True)
        ]
        return Step(plan, groups, sampled, markers, copies, staging_s, rest_start_s)

    def _start_host_copies(self, plan: StepPlan, markers: list[Array]) -> tuple[Future[CopyTimes] | None, float]:
        """Starts saves and loads; returns when they will be done, and seconds spent on handing over the loads."""
        if not plan.saves and not plan.loads:
            return None, 0.0
        predecessors = [array for step in self._steps if not are_ready(step.outputs) for array in step.outputs]
        start_s = time.perf_counter()
        saved = [
            Saved(_slots(plan.saves[run]), self._state.gather(_blocks(plan.saves[run])))
            for run in copy_runs(len(plan.saves))
        ]
        from_s = time.perf_counter()
        loaded = None
        for run in copy_runs(len(plan.loads)):
            contents = self._host.load(_slots(plan.loads[run]))
            loaded = self._state.scatter(_blocks(plan.loads[run]), contents)
        loaded_s = time.perf_counter()
        if loaded is not None:
            markers.append(loaded)
        copies = DeviceCopies(saved, loaded, start_s, loaded_s, predecessors)
        return self._host.save(plan.saves, copies), loaded_s - from_s if plan.loads else 0.0

    def _check_copies(self, plan: StepPlan) -> None:
        self._host.check(plan.saves, plan.loads)
        targets = [*_blocks(plan.loads), *(copy.target for copy in plan.copies)]
        if len(set(targets)) != len(targets):
            raise InternalError(f"step {plan.step_id} copies two pages to one block")
        blocks = [*targets, *_blocks(plan.saves), *(copy.source for copy in plan.copies)]
        self._check_inside(blocks)

    def _check_inside(self, blocks: Sequence[int]) -> None:
        if blocks and not 0 <= min(blocks) <= max(blocks) < self.config.num_blocks:
            raise InternalError(
                f"a block of {min(blocks)}..{max(blocks)} is outside the pool of {self.config.num_blocks}"
            )

    def _forward_input(self, chunks: Sequence[Chunk]) -> tuple[ForwardShape, np.ndarray]:
        tokens = sum(len(content) for _, _, _, content, _ in fields_of(chunks))
        if tokens > self.config.token_budget:
            raise InternalError(f"a step of {tokens} tokens exceeds the token budget of {self.config.token_budget}")
        shape = self._buckets.forward(tokens)
        return shape, pack_chunks(chunks, shape, self.config)

    def _pack(
        self, shape: SampleShape, samples: Sequence[Sample]
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        rows = pack_samples(samples, shape, self.config)
        masks = pack_masks(samples, shape, self._state.mask_words)
        return rows, masks, pack_history(samples, shape) if shape.history else None

    def _check_owner(self) -> None:
        thread = threading.current_thread()
        if self._owner is None:
            self._owner = thread
        if self._owner is not thread:
            raise FailedPrecondition(
                f"thread {thread.name!r} called an engine owned by thread {self._owner.name!r}: "
                "only the thread that submitted the first step may call it"
            )

    def _drop(self, what: str, error: Exception, *plans: StepPlan) -> Exception:
        """Drops all outstanding steps and `plans`, since `what` happened with `error`; returns what to raise."""
        dropped = [*(step.plan for step in self._steps), *plans]
        self._steps.clear()
        has_kv = self._state.settle()
        for each in dropped:
            self._host.forget(each.saves)
        if has_kv and isinstance(error, S2LError):
            return error
        reason = f"{what} on {self._state.placement}: {type(error).__name__}: {error}"
        return InternalError(reason) if has_kv else KVLost(f"{reason}; the KV of all sessions is lost")

    def _host_memory(self) -> HostMemory:
        slots, placement = self.config.host_blocks, self._state.placement
        if self.config.host_memory == "pinned_host":
            return PinnedMemory(slots, placement.contents("pinned_host"), placement.contents())
        return NumpyMemory(slots, self.page_shape, self.config.dtype, placement.contents())

    def _lowering(self) -> Lowering:
        return Lowering(self._state, self._buckets, split_contents=self._memory.split_contents)

    def _store(self) -> ExecutableStore | None:
        if self.config.cache_dir is None:
            return None
        sizes = replace(self.config, cache_dir=None, compile_threads=1, host_blocks=0)
        code = self._state.code
        devices = self._state.placement.devices
        shapes = [(leaf.shape, str(leaf.dtype)) for leaf in (*code.ends, *code.groups[0])]
        return ExecutableStore(
            self.config.cache_dir,
            code=code_fingerprint([sizes, self._model_config, shapes, len(devices)]),
            environment=environment_fingerprint(devices),
            devices=devices,
        )


def _blocks(copies: Sequence[HostCopy]) -> list[int]:
    return [copy.block for copy in copies]


def _slots(copies: Sequence[HostCopy]) -> list[int]:
    return [copy.slot for copy in copies]
