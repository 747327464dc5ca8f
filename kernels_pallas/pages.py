"""Paged KV memory: its layout in one layer, how new keys and values get into it, and how whole pages are copied.

The layout is `[pages, kv_heads, page_size, 2 * head_dim]`: a page is one contiguous piece, so it moves in one copy;
within it each head's tokens are the rows of a matrix, which is what the matrix unit wants; keys fill the first half of
a row and values the second, so that heads of 64 still fill the 128 lanes of a TPU register. Sharding over `kv_heads`
keeps keys and values of a head together.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

from kernels_pallas.implementations import best

type Layers = tuple[Array, ...]


def kv_pages_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, int, int, int]:
    """Shape of one layer's pages: `[pages, kv_heads, page_size, 2 * head_dim]`, keys before values in a row."""
    return num_pages, num_kv_heads, page_size, 2 * head_dim


def write_kv(
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    k: Float[Array, "tokens kv_heads head_dim"],
    v: Float[Array, "tokens kv_heads head_dim"],
    slots: Int[Array, "tokens"],
    kv_scales: Float[Array, "2 kv_heads"] | None = None,
    *,
    max_seqs: int | None = None,
) -> Num[Array, "pages kv_heads page_size kv_dim"]:
    """Writes the keys and values of new tokens into their slots; in place if the caller's jit donates `kv_pages`.

    Args:
      kv_pages: one layer's pages.
      k: keys, rotated already.
      v: values.
      slots: where each token goes, `page * page_size + offset`. A slot outside the pool marks a padding token: it is
        dropped. No slot may occur twice. Tokens of a sequence are in order, and no page belongs to two sequences.
      kv_scales: of int8 and float8 pages, and only of these: scales of keys, then of values. A stored number times the
        scale of its head is what it stands for. What lies outside of the format's range becomes its nearest number.

      max_seqs: sequences that the tokens belong to, at most; None is as many as tokens.

    Returns:
      The pages with the tokens written.

    Raises:
      ValueError: scales are missing, too many, or of another shape.
    """
    check_scales(kv_pages, kv_scales)
    if kv_scales is not None:
        k, v = (_quantized(x, scales, kv_pages.dtype) for x, scales in zip((k, v), kv_scales, strict=True))
    num_pages, _, page_size, _ = kv_pages.shape
    rows = jnp.concatenate([k, v], axis=-1).astype(kv_pages.dtype)
    if best() == "mosaic_tpu":
        from kernels_pallas.tpu.write import can_write, write_rows

        if can_write(kv_pages):
            return write_rows(kv_pages, rows, slots, max_seqs or len(rows))
    if rows.shape[0] == 1:
        return _write_row(kv_pages, rows[0], slots[0])
    inside = (slots >= 0) & (slots < num_pages * page_size)
    pages = jnp.where(inside, slots // page_size, num_pages)
    return kv_pages.at[pages, :, slots % page_size].set(rows, mode="drop", unique_indices=True)


def check_scales(kv_pages: Num[Array, "pages kv_heads page_size kv_dim"], kv_scales: Array | None) -> None:
    """Raises ValueError unless there are scales where the pages need them, and nowhere else."""
    is_quantized = kv_pages.dtype.itemsize == 1
    expected = (2, kv_pages.shape[1])
    if is_quantized != (kv_scales is not None):
        what = f"needs scales {list(expected)}" if is_quantized else "takes no scales"
        raise ValueError(f"KV of {kv_pages.dtype} {what}")
    if kv_scales is not None and kv_scales.shape != expected:
        raise ValueError(f"scales of KV are {list(kv_scales.shape)}, but must be {list(expected)}")


def _quantized(
    x: Float[Array, "tokens kv_heads head_dim"], scales: Float[Array, "kv_heads"], dtype: jnp.dtype
) -> Num[Array, "tokens kv_heads head_dim"]:
    """As stored."""
    values = x.astype(jnp.float32) / scales.astype(jnp.float32)[None, :, None]
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return jnp.clip(jnp.round(values), limits.min, limits.max).astype(dtype)
    largest = float(jnp.finfo(dtype).max)
    return jnp.clip(values, -largest, largest).astype(dtype)


def _write_row(
    kv_pages: Float[Array, "pages kv_heads page_size kv_dim"],
    row: Float[Array, "kv_heads kv_dim"],
    slot: Int[Array, ""],
) -> Float[Array, "pages kv_heads page_size kv_dim"]:
    """Writes one token: a slice update instead of a scatter, which is a loop on CPU."""
    num_pages, num_kv_heads, page_size, kv_dim = kv_pages.shape
    inside = (slot >= 0) & (slot < num_pages * page_size)
    safe = jnp.where(inside, slot, 0)
    start = (safe // page_size, 0, safe % page_size, 0)
    old = lax.dynamic_slice(kv_pages, start, (1, num_kv_heads, 1, kv_dim))
    written = lax.dynamic_update_slice(kv_pages, jnp.where(inside, row[None, :, None, :], old), start)
    # Without the barrier XLA may repeat the update inside a later gather, and copies all pages to keep the old ones.
    return lax.optimization_barrier(written)


def gather_pages(
    kv_pages: Sequence[Float[Array, "pages kv_heads page_size kv_dim"]], pages: Int[Array, "wanted"]
) -> Float[Array, "wanted layers kv_heads page_size kv_dim"]:
    """Copies whole pages out of the pools of several layers, each page's layers side by side.

    Args:
      kv_pages: one array a layer.
      pages: which, in any order; all must lie inside the pool.
    """
    return lax.platform_dependent(tuple(kv_pages), pages, cpu=gather_by_slices, default=gather_at_once)


def scatter_pages(
    kv_pages: Sequence[Float[Array, "pages kv_heads page_size kv_dim"]],
    pages: Int[Array, "given"],
    contents: Float[Array, "given layers kv_heads page_size kv_dim"],
) -> Layers:
    """Copies whole pages into the pools of several layers, in place if the caller's jit donates these.

    Args:
      kv_pages: one array a layer.
      pages: where each goes; all must lie inside the pool, and none may occur twice.
      contents: as `gather_pages` gives them.
    """
    return lax.platform_dependent(tuple(kv_pages), pages, contents, cpu=scatter_by_slices, default=scatter_at_once)


def gather_at_once(kv_pages: Layers, pages: Int[Array, "wanted"]) -> Array:
    """`gather_pages` as one operation a layer."""
    return jnp.stack([jnp.take(layer, pages, axis=0) for layer in kv_pages], axis=1)


def scatter_at_once(kv_pages: Layers, pages: Int[Array, "given"], contents: Array) -> Layers:
    """`scatter_pages` as one operation a layer."""
    return tuple(layer.at[pages].set(contents[:, i], unique_indices=True) for i, layer in enumerate(kv_pages))


def gather_by_slices(kv_pages: Layers, pages: Int[Array, "wanted"]) -> Array:
    """`gather_pages` page by page: slices are copied several times faster than XLA gathers and joins on a CPU."""
    page_shape = kv_pages[0].shape[1:]

    def copy(index: Array, contents: Array) -> Array:
        for number, layer in enumerate(kv_pages):
            page = lax.dynamic_slice(layer, (pages[index], 0, 0, 0), (1, *page_shape))
            contents = lax.dynamic_update_slice(contents, page[None], (index, number, 0, 0, 0))
        return contents

    empty = jnp.zeros((pages.shape[0], len(kv_pages), *page_shape), kv_pages[0].dtype)
    return lax.fori_loop(0, pages.shape[0], copy, empty)


def scatter_by_slices(kv_pages: Layers, pages: Int[Array, "given"], contents: Array) -> Layers:
    """`scatter_pages` page by page, for a CPU as well."""
    page_shape = kv_pages[0].shape[1:]

    def copy(index: Array, layers: Layers) -> Layers:
        written = []
        for number, layer in enumerate(layers):
            page = lax.dynamic_slice(contents, (index, number, 0, 0, 0), (1, 1, *page_shape))
            written.append(lax.dynamic_update_slice(layer, page[0], (pages[index], 0, 0, 0)))
        return tuple(written)

    return lax.fori_loop(0, pages.shape[0], copy, kv_pages)
