"""How each executable is traced, from shapes alone."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jax.stages import Lowered

from s2l_jax.engine.buckets import (
    COPIED_PAGES,
    FORWARD_PARTS,
    Buckets,
    ForwardShape,
    SampleShape,
    Variant,
    gather_name,
    scatter_name,
)
from s2l_jax.engine.device_state import DeviceState
from s2l_jax.engine.executables import Lower
from s2l_jax.engine.packing import packed_size
from s2l_jax.engine.sample_packing import ROW_WORDS


class Lowering:
    """Traces the executables of one engine.

    Args:
      state: what they will be called with.
      buckets: their shapes.
      split_contents: pages outside the pool come one by one instead of together.
    """

    def __init__(self, state: DeviceState, buckets: Buckets, *, split_contents: bool) -> None:
        self._code = state.code
        self._buckets = buckets
        self._mask_words = state.mask_words
        self._split = split_contents
        self._whole, self._contents = state.placement.whole, state.placement.contents()
        self._ends = self._abstract(state.code.ends)
        self._group = self._abstract(state.code.groups[0])
        self._pages = self._abstract(state.pages)
        self._last_hidden = self._abstract(state.last_hidden)
        self._last_tokens = self._abstract(state.last_tokens)

    def all(self) -> dict[str, Lower]:
        """How to trace each executable, in the order in which traffic usually needs them."""
        lowers: dict[str, Lower] = {}
        for forward in self._buckets.forward_shapes():
            for part in FORWARD_PARTS:
                lowers[forward.name(part)] = partial(self._forward, forward, part)
        for sample in self._buckets.sample_shapes():
            lowers[sample.name] = partial(self._sample, sample)
        for pages in COPIED_PAGES:
            lowers[gather_name(pages)] = partial(self._gather, pages)
            lowers[scatter_name(pages)] = partial(self._scatter, pages)
        return lowers

    def _forward(self, shape: ForwardShape, part: str) -> Lowered:
        packed = self._int32(packed_size(shape))
        embed = jax.jit(self._code.embed(shape), keep_unused=True)
        if part == "embed":
            return embed.lower(self._ends, self._last_tokens, packed)
        x, rope = self._abstract(jax.eval_shape(embed, self._ends, self._last_tokens, packed), self._whole)
        if part == "layers":
            layers = jax.jit(self._code.layers(shape), donate_argnums=(1, 2), keep_unused=True)
            return layers.lower(self._group, self._pages[0], x, rope, packed)
        finish = jax.jit(self._code.finish(shape), donate_argnums=1, keep_unused=True)
        return finish.lower(self._ends, self._last_hidden, x, packed)

    def _sample(self, shape: SampleShape) -> Lowered:
        inputs = [self._int32(shape.rows, ROW_WORDS)]
        if shape.variant is not Variant.GREEDY:
            inputs.append(self._int32(shape.rows, self._mask_words))
        if shape.history:
            inputs.append(self._int32(shape.rows, shape.history))
        sample = jax.jit(self._code.sample(shape), donate_argnums=2, keep_unused=True)
        return sample.lower(self._ends, self._last_hidden, self._last_tokens, *inputs)

    def _gather(self, pages: int) -> Lowered:
        gather = jax.jit(self._code.gather(split=self._split), keep_unused=True)
        return gather.lower(self._pages, self._int32(pages))

    def _scatter(self, pages: int) -> Lowered:
        blocks = self._int32(pages)
        contents = jax.eval_shape(self._code.gather(split=self._split), self._pages, blocks)
        contents = self._abstract(contents, self._contents)
        scatter = jax.jit(self._code.scatter(), donate_argnums=0, keep_unused=True)
        return scatter.lower(self._pages, blocks, contents)

    def _int32(self, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=self._whole)

    def _abstract(self, tree: Any, sharding: Sharding | None = None) -> Any:
        """Shapes of arrays, placed where they are, or where `sharding` says."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree)
