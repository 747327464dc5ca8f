"""Paged KV memory of one layer: its layout, and how new keys and values get into it.

The layout is `[pages, kv_heads, page_size, 2 * head_dim]`: a page is one contiguous piece, so it moves in one copy;
within it each head's tokens are the rows of a matrix, which is what the matrix unit wants; keys fill the first half of
a row and values the second, so that heads of 64 still fill the 128 lanes of a TPU register. Sharding over `kv_heads`
keeps keys and values of a head together.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def kv_pages_shape(num_pages: int, page_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, int, int, int]:
    """Shape of one layer's pages: `[pages, kv_heads, page_size, 2 * head_dim]`, keys before values in a row."""
    return num_pages, num_kv_heads, page_size, 2 * head_dim


def write_kv(
    kv_pages: Float[Array, "pages kv_heads page_size kv_dim"],
    k: Float[Array, "tokens kv_heads head_dim"],
    v: Float[Array, "tokens kv_heads head_dim"],
    slots: Int[Array, "tokens"],
) -> Float[Array, "pages kv_heads page_size kv_dim"]:
    """Writes the keys and values of new tokens into their slots; in place if the caller's jit donates `kv_pages`.

    Args:
      kv_pages: one layer's pages.
      k: keys, rotated already.
      v: values.
      slots: where each token goes, `page * page_size + offset`. A slot outside the pool marks a padding token: it is
        dropped. No slot may occur twice.

    Returns:
      The pages with the tokens written.
    """
    num_pages, _, page_size, _ = kv_pages.shape
    rows = jnp.concatenate([k, v], axis=-1).astype(kv_pages.dtype)
    if rows.shape[0] == 1:
        return _write_row(kv_pages, rows[0], slots[0])
    inside = (slots >= 0) & (slots < num_pages * page_size)
    pages = jnp.where(inside, slots // page_size, num_pages)
    return kv_pages.at[pages, :, slots % page_size].set(rows, mode="drop", unique_indices=True)


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
    kv_pages: Float[Array, "pages kv_heads page_size kv_dim"], pages: Int[Array, "wanted"]
) -> Float[Array, "wanted kv_heads page_size kv_dim"]:
    """Copies whole pages out of the pool, in the order asked for. Indices outside the pool give page 0 or the last."""
    return jnp.take(kv_pages, pages, axis=0, mode="clip")


def scatter_pages(
    kv_pages: Float[Array, "pages kv_heads page_size kv_dim"],
    pages: Int[Array, "given"],
    contents: Float[Array, "given kv_heads page_size kv_dim"],
) -> Float[Array, "pages kv_heads page_size kv_dim"]:
    """Copies whole pages into the pool, in place if it is donated. Indices outside the pool are dropped."""
    num_pages = kv_pages.shape[0]
    inside = (pages >= 0) & (pages < num_pages)
    return kv_pages.at[jnp.where(inside, pages, num_pages)].set(contents.astype(kv_pages.dtype), mode="drop")
