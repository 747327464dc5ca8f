"""Front door of attention over paged KV: checks shapes, chooses the implementation, applies scales of quantized KV.

A ragged batch is flat: the query tokens of all sequences lie behind each other. The first `num_decodes` sequences have
exactly one query token each; the others are prefill chunks of any length. All new keys and values are written
(`write_kv`) before attention reads them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from kernels_pallas.implementations import choose
from kernels_pallas.pages import check_scales, gather_pages, kv_pages_shape, scatter_pages, write_kv


def paged_attention(
    q: Float[Array, "tokens q_heads head_dim"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    block_tables: Int[Array, "seqs blocks"],
    cu_q_lens: Int[Array, "seqs_plus_1"],
    kv_lens: Int[Array, "seqs"],
    *,
    num_decodes: Int[Array, ""] | int,
    num_seqs: Int[Array, ""] | int,
    scale: float,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    kv_scales: Float[Array, "2 kv_heads"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "tokens q_heads head_dim"]:
    """Causal attention of ragged query tokens to their sequences' pages.

    Args:
      q: query heads of all new tokens, rotated already. Query head `h` reads KV head `h // (q_heads // kv_heads)`.
      kv_pages: one layer's pages, shaped as `kv_pages_shape` says; the new tokens are in them.
      block_tables: pages of each sequence in position order; entries past a sequence's end carry no meaning, but must
        name pages of the pool.
      cu_q_lens: query tokens of sequence `s` are rows `cu_q_lens[s] .. cu_q_lens[s + 1]` of `q`; rows from
        `cu_q_lens[num_seqs]` on are padding.
      kv_lens: tokens of each sequence, the new ones included; the query tokens are its last ones.
      num_decodes: sequences with exactly one query token that come first.
      num_seqs: sequences in the batch; later entries of the other arguments are padding.
      scale: factor of the scores, usually `head_dim ** -0.5`.
      sliding_window: tokens a position may look back, itself included; None is unlimited.
      soft_cap: scores become `soft_cap * tanh(scores / soft_cap)`; None is off.
      kv_scales: of int8 and float8 pages, as `write_kv` has them.
      implementation: a name from `implementations.MODULES`, or None for the best one on this device; if that one cannot
        do it, "xla" does, and one line of the log says why.

    Returns:
      Attention output like `q`; padding rows are zero or other finite numbers.

    Raises:
      ValueError: shapes do not fit each other, scales are missing or too many, there is no such implementation, or the
        one that was named cannot do this.
    """
    _check_shapes(q, kv_pages, block_tables, cu_q_lens, kv_lens)
    check_scales(kv_pages, kv_scales)
    attend = choose(implementation, q, kv_pages, block_tables, sliding_window=sliding_window, soft_cap=soft_cap)
    # A head's scale is a factor of all its scores, and of all it puts out: no kernel needs to know of it.
    out = attend(
        q if kv_scales is None else _scaled(q, kv_scales[0]),
        kv_pages,
        block_tables,
        cu_q_lens,
        kv_lens,
        num_decodes=num_decodes,
        num_seqs=num_seqs,
        scale=scale,
        sliding_window=sliding_window,
        soft_cap=soft_cap,
    )
    return out if kv_scales is None else _scaled(out, kv_scales[1])


def _scaled(
    heads: Float[Array, "tokens q_heads head_dim"], scales: Float[Array, "kv_heads"]
) -> Float[Array, "tokens q_heads head_dim"]:
    """Each query head times the scale of its KV head."""
    factors = jnp.repeat(scales.astype(jnp.float32), heads.shape[1] // scales.shape[0])
    return (heads.astype(jnp.float32) * factors[None, :, None]).astype(heads.dtype)


def _check_shapes(q: Array, kv_pages: Array, block_tables: Array, cu_q_lens: Array, kv_lens: Array) -> None:
    """Raises ValueError with expected and actual shapes."""
    if q.ndim != 3 or kv_pages.ndim != 4:
        raise ValueError(
            f"q is {q.shape} and kv_pages {kv_pages.shape}, but must be [tokens, q_heads, head_dim] and "
            "[pages, kv_heads, page_size, 2 * head_dim]"
        )
    _, num_q_heads, head_dim = q.shape
    _, num_kv_heads, _, kv_dim = kv_pages.shape
    if kv_dim != 2 * head_dim:
        raise ValueError(f"kv_pages has rows of {kv_dim}, but head_dim {head_dim} needs {2 * head_dim}")
    if num_q_heads % num_kv_heads:
        raise ValueError(f"{num_q_heads} query heads do not divide by {num_kv_heads} KV heads")
    seqs = kv_lens.shape[0]
    if block_tables.ndim != 2 or block_tables.shape[0] != seqs or cu_q_lens.shape != (seqs + 1,):
        raise ValueError(
            f"for {seqs} sequences block_tables must be [{seqs}, blocks] and cu_q_lens [{seqs + 1}], "
            f"got {block_tables.shape} and {cu_q_lens.shape}"
        )


__all__ = ["gather_pages", "kv_pages_shape", "paged_attention", "scatter_pages", "write_kv"]
