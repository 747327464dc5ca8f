"""The JAX engine: one device, one copy of the weights, one page pool.

Ownership. The pages and the session buffer are donated to every forward step, so an older handle to them is dead:
exactly one thread, the owner, may touch them. The first thread that calls `execute` becomes the owner and stays it.
`warmup` may run on any thread before that; `close` runs on the owner, or on any thread once the owner has ended or if
there never was one. A call from another thread raises instead of corrupting memory.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled, Lowered
from jaxtyping import Array

from s2l_jax.core.errors import FailedPrecondition, InternalError, InvalidArgument, S2LError
from s2l_jax.core.plan import Chunk, Sample, SampledToken, StepPlan, StepResult
from s2l_jax.engine.buckets import FORWARD_PARTS, Buckets, ForwardShape, SampleShape, layers_per_call
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.device_code import DeviceCode, Model, Pages
from s2l_jax.engine.errors import KVLost
from s2l_jax.engine.executable_store import ExecutableStore, code_fingerprint, environment_fingerprint
from s2l_jax.engine.executables import Lower, compile_all
from s2l_jax.engine.packing import pack_chunks, packed_size
from s2l_jax.engine.protocol import Progress
from s2l_jax.engine.sample_packing import (
    ROW_WORDS,
    SampleGroup,
    group_samples,
    pack_history,
    pack_samples,
    unpack_sampled,
)
from s2l_jax.models.config import ModelConfig
from s2l_jax.models.llama import init_kv_pages


class JaxEngine:
    """Executes step plans on the device that holds the model's weights."""

    def __init__(self, model: Model, model_config: ModelConfig, config: EngineConfig) -> None:
        """Allocates the page pool.

        Args:
          model: an `nnx.Module` such as `s2l_jax.models.llama.Llama`, its weights on the device to use.
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
        self._code = DeviceCode(model, layers_per_call(model_config.num_layers))
        (self._device,) = self._code.ends[0].devices()
        self._executables: dict[str, Compiled] = {}
        self._owner: threading.Thread | None = None
        self._pages: list[Pages]
        self._last_hidden: Array
        self._allocate()

    def warmup(self, progress: Progress | None = None) -> None:
        """Loads or compiles every executable; see `Engine.warmup`."""
        compiler_options: dict[str, object] = {}
        self._executables = compile_all(
            self._lowers(),
            store=self._store(compiler_options),
            compiler_options=compiler_options,
            threads=self.config.compile_threads,
            progress=progress or (lambda done, total, name: None),
        )

    def execute(self, plan: StepPlan) -> StepResult:
        """Runs the chunks of a step, then its samples, and waits for the tokens; see `Engine.execute`."""
        self._check_owner()
        groups = tuple(group_samples(plan.samples, self._buckets))
        sample_inputs = [self._sample_inputs(plan, group) for group in groups]
        forward_input = self._forward_input(plan.chunks) if plan.chunks else None
        try:
            if forward_input is not None:
                self._forward(*forward_input)
            fetched = self._sample(groups, sample_inputs)
        except Exception as error:
            raise self._after_failure(plan, error) from error
        tokens = [_NO_TOKEN] * len(plan.samples)
        for group, packed in zip(groups, fetched, strict=True):
            for index, token in zip(group.indices, unpack_sampled(packed, _members(plan, group)), strict=True):
                tokens[index] = token
        return StepResult(plan, tuple(tokens))

    def close(self) -> None:
        """Drops the page pool and the executables; see `Engine.close`."""
        if self._owner is not None and self._owner.is_alive():
            self._check_owner()
        self._executables = {}
        for buffer in jax.tree.leaves((self._pages, self._last_hidden)):
            buffer.delete()

    def _forward_input(self, chunks: Sequence[Chunk]) -> tuple[ForwardShape, np.ndarray]:
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        if tokens > self.config.token_budget:
            raise InternalError(f"a step of {tokens} tokens exceeds the token budget of {self.config.token_budget}")
        shape = self._buckets.forward(tokens)
        return shape, pack_chunks(chunks, shape, self.config)

    def _sample_inputs(self, plan: StepPlan, group: SampleGroup) -> tuple[np.ndarray, ...]:
        samples = _members(plan, group)
        rows = pack_samples(samples, group.shape, self.config)
        return (rows, pack_history(samples, group.shape)) if group.shape.history else (rows,)

    def _forward(self, shape: ForwardShape, packed: np.ndarray) -> None:
        """Starts the forward step; nothing here waits for the device."""
        embed, layers, finish = (self._executable(shape.name(part)) for part in FORWARD_PARTS)
        on_device = jax.device_put(packed, self._device)
        x, rope = embed(self._code.ends, on_device)
        for index, group in enumerate(self._code.groups):
            x, self._pages[index] = layers(group, self._pages[index], x, rope, on_device)
        self._last_hidden = finish(self._code.ends, self._last_hidden, x, on_device)

    def _sample(self, groups: Sequence[SampleGroup], inputs: Sequence[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
        """Starts all groups, then waits once; with none, waits for the forward, so that its failure belongs to it."""
        started = [
            self._executable(group.shape.name)(self._code.ends, self._last_hidden, *arrays)
            for group, arrays in zip(groups, inputs, strict=True)
        ]
        if not started:
            self._last_hidden.block_until_ready()
        return jax.device_get(started)

    def _executable(self, name: str) -> Compiled:
        if name not in self._executables:
            raise FailedPrecondition(f"executable {name} does not exist: call warmup() before execute()")
        return self._executables[name]

    def _check_owner(self) -> None:
        thread = threading.current_thread()
        if self._owner is None:
            self._owner = thread
        if self._owner is not thread:
            raise FailedPrecondition(
                f"thread {thread.name!r} called an engine owned by thread {self._owner.name!r}: "
                "only the thread that executed the first step may call it"
            )

    def _after_failure(self, plan: StepPlan, error: Exception) -> Exception:
        """What to raise for a failed step; replaces the pool if the failure took it."""
        if isinstance(error, S2LError):
            return error
        reason = f"step {plan.step_id} failed on {self._device}: {type(error).__name__}: {error}"
        try:
            jax.block_until_ready((self._pages, self._last_hidden))
        except RuntimeError:
            self._allocate()
            return KVLost(f"{reason}; the KV of all sessions is lost")
        return InternalError(reason)

    def _allocate(self) -> None:
        config, model = self.config, self._model_config
        with jax.default_device(self._device):
            pages = init_kv_pages(model, config.num_blocks, config.block_size, config.dtype)
            self._last_hidden = jnp.zeros((config.max_sessions, model.hidden_size), config.dtype)
        count = self._code.layers_per_group
        self._pages = [pages[first : first + count] for first in range(0, len(pages), count)]

    def _lowers(self) -> dict[str, Lower]:
        """How to trace each executable, in the order in which traffic usually needs them."""
        lowers: dict[str, Lower] = {}
        for forward in self._buckets.forward_shapes():
            for part in FORWARD_PARTS:
                lowers[forward.name(part)] = partial(self._lower_forward, forward, part)
        for sample in self._buckets.sample_shapes():
            lowers[sample.name] = partial(self._lower_sample, sample)
        return lowers

    def _lower_forward(self, shape: ForwardShape, part: str) -> Lowered:
        code = self._code
        ends, group, pages, last_hidden = self._abstract((code.ends, code.groups[0], self._pages[0], self._last_hidden))
        packed = self._abstract(jax.ShapeDtypeStruct((packed_size(shape),), jnp.int32))
        embed = jax.jit(code.embed(shape), keep_unused=True)
        if part == "embed":
            return embed.lower(ends, packed)
        x, rope = self._abstract(jax.eval_shape(embed, ends, packed))
        if part == "layers":
            layers = jax.jit(code.layers(shape), donate_argnums=(1, 2), keep_unused=True)
            return layers.lower(group, pages, x, rope, packed)
        finish = jax.jit(code.finish(shape), donate_argnums=1, keep_unused=True)
        return finish.lower(ends, last_hidden, x, packed)

    def _lower_sample(self, shape: SampleShape) -> Lowered:
        inputs = [jax.ShapeDtypeStruct((shape.rows, ROW_WORDS), jnp.int32)]
        if shape.history:
            inputs.append(jax.ShapeDtypeStruct((shape.rows, shape.history), jnp.int32))
        arguments = self._abstract((self._code.ends, self._last_hidden, *inputs))
        return jax.jit(self._code.sample(shape), keep_unused=True).lower(*arguments)

    def _abstract(self, tree: Any) -> Any:
        """Shapes of arrays, placed on the device."""
        place = jax.sharding.SingleDeviceSharding(self._device)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    def _store(self, compiler_options: Mapping[str, object]) -> ExecutableStore | None:
        if self.config.cache_dir is None:
            return None
        sizes = replace(self.config, cache_dir=None, compile_threads=1)
        shapes = [(leaf.shape, str(leaf.dtype)) for leaf in (*self._code.ends, *self._code.groups[0])]
        return ExecutableStore(
            self.config.cache_dir,
            code=code_fingerprint([sizes, self._model_config, shapes]),
            environment=environment_fingerprint(self._device, compiler_options),
        )


_NO_TOKEN = SampledToken(-1)


def _members(plan: StepPlan, group: SampleGroup) -> list[Sample]:
    return [plan.samples[index] for index in group.indices]
