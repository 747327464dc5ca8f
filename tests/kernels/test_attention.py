"""Paged attention against a dense one that is too simple to be wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas import attention


@dataclasses.dataclass(frozen=True)
class Case:
    """A ragged batch: `q_lens[i]` new tokens of `kv_lens[i]`; the first `num_decodes` sequences decode."""

    q_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    num_decodes: int = 0
    page_size: int = 16
    q_heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    padding_tokens: int = 0
    padding_seqs: int = 0
    sliding_window: int | None = None
    soft_cap: float | None = None


SCALE = 0.2
CASES = {
    "one_token": Case((1,), (1,)),
    "one_token_decode": Case((1,), (1,), num_decodes=1),
    "prefill_from_nothing": Case((37,), (37,)),
    "page_boundary": Case((16, 32, 1), (16, 64, 33)),
    "tiles_and_blocks": Case((300, 129, 128), (300, 700, 1153)),
    "decode_only": Case((1,) * 5, (1, 16, 17, 300, 513), num_decodes=5),
    "decode_two_groups": Case((1,) * 11, tuple(range(20, 620, 55)), num_decodes=11, padding_tokens=5, padding_seqs=2),
    "mixed_with_padding": Case(
        (1, 1, 40, 1, 7), (256, 31, 40, 1, 600), num_decodes=2, padding_tokens=14, padding_seqs=3
    ),
    "empty_slot": Case((3, 0, 5), (3, 0, 21), padding_tokens=8),
    "multi_head": Case((1, 20), (50, 40), num_decodes=1, q_heads=4, kv_heads=4),
    "multi_query": Case((1, 20), (50, 40), num_decodes=1, q_heads=4, kv_heads=1),
    "smollm2_heads": Case((1, 33), (70, 33), num_decodes=1, q_heads=9, kv_heads=3, head_dim=64),
    "head_dim_96": Case((1, 9), (12, 9), num_decodes=1, head_dim=96),
    "sliding_window": Case((1, 1, 200, 30), (900, 3, 800, 30), num_decodes=2, sliding_window=100),
    "sliding_window_of_one": Case((1, 5), (20, 9), num_decodes=1, sliding_window=1),
    "soft_cap": Case((1, 50), (90, 70), num_decodes=1, soft_cap=5.0),
    "page_64": Case((1, 100), (200, 130), num_decodes=1, page_size=64),
    "page_256": Case((1, 100), (700, 513), num_decodes=1, page_size=256),
    "no_sequences": Case((), (), padding_tokens=4, padding_seqs=2),
}


def dense_attention(q, k, v, *, scale, sliding_window, soft_cap):
    """Attention of the last `len(q)` of `len(k)` tokens, float64, one query and head at a time."""
    out = np.zeros(q.shape)
    for row, (queries, position) in enumerate(zip(q, range(len(k) - len(q), len(k)), strict=True)):
        first = 0 if sliding_window is None else max(0, position - sliding_window + 1)
        for head, query in enumerate(queries):
            kv_head = head // (q.shape[1] // k.shape[1])
            scores = k[first : position + 1, kv_head] @ query * scale
            if soft_cap is not None:
                scores = soft_cap * np.tanh(scores / soft_cap)
            weights = np.exp(scores - scores.max())
            out[row, head] = weights / weights.sum() @ v[first : position + 1, kv_head]
    return out


def run_paged(case: Case, dtype, implementation=None, seed=0):
    """Runs `case` through `write_kv` and `paged_attention`; returns the result and the dense one."""
    rng = np.random.default_rng(seed)

    def random(*shape):
        return np.asarray(np.asarray(rng.standard_normal(shape), dtype), np.float64)

    seqs, tokens = len(case.kv_lens) + case.padding_seqs, sum(case.q_lens) + case.padding_tokens
    page_counts = [-(-kv_len // case.page_size) for kv_len in case.kv_lens]
    num_pages = sum(page_counts) + 3
    order = rng.permutation(num_pages)
    tables = np.full((seqs, max([1, *page_counts]) + 1), order[-1], np.int32)
    q = random(tokens, case.q_heads, case.head_dim)
    kv = random(2, sum(case.kv_lens) + 1, case.kv_heads, case.head_dim)
    slots = np.full(kv.shape[1], num_pages * case.page_size, np.int32)
    cu_q_lens, kv_lens, expected, start = np.zeros(seqs + 1, np.int32), np.zeros(seqs, np.int32), [], 0
    for seq, (q_len, kv_len) in enumerate(zip(case.q_lens, case.kv_lens, strict=True)):
        pages, order = order[: page_counts[seq]], order[page_counts[seq] :]
        tables[seq, : len(pages)] = pages
        rows, columns, positions = (
            slice(cu_q_lens[seq], cu_q_lens[seq] + q_len),
            slice(start, start + kv_len),
            np.arange(kv_len),
        )
        slots[columns] = pages[positions // case.page_size] * case.page_size + positions % case.page_size
        cu_q_lens[seq + 1 :], kv_lens[seq], start = rows.stop, kv_len, columns.stop
        expected.append(
            dense_attention(
                q[rows], *kv[:, columns], scale=SCALE, sliding_window=case.sliding_window, soft_cap=case.soft_cap
            )
        )

    @jax.jit
    def paged(q, kv, pool, tables, slots, cu_q_lens, kv_lens, num_decodes, num_seqs):
        return attention.paged_attention(
            q,
            attention.write_kv(pool, *kv, slots),
            tables,
            cu_q_lens,
            kv_lens,
            num_decodes=num_decodes,
            num_seqs=num_seqs,
            scale=SCALE,
            sliding_window=case.sliding_window,
            soft_cap=case.soft_cap,
            implementation=implementation,
        )

    pool = random(*attention.kv_pages_shape(num_pages, case.page_size, case.kv_heads, case.head_dim)).astype(dtype)
    counts = case.num_decodes, len(case.q_lens)
    out = paged(q.astype(dtype), kv.astype(dtype), pool, tables, slots, cu_q_lens, kv_lens, *counts)
    return np.asarray(out, np.float64), np.concatenate([*expected, np.zeros((0, *q.shape[1:]))])


@pytest.mark.parametrize("name", CASES)
def test_float32_equals_dense(name):
    out, expected = run_paged(CASES[name], jnp.float32)
    np.testing.assert_allclose(out[: len(expected)], expected, atol=2e-5, rtol=2e-5)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("name", ["mixed_with_padding", "tiles_and_blocks", "sliding_window", "soft_cap"])
def test_bfloat16_is_close_to_dense(name):
    out, expected = run_paged(CASES[name], jnp.bfloat16)
    np.testing.assert_allclose(out[: len(expected)], expected, atol=2e-2, rtol=2e-2)


def test_unknown_implementation_is_named():
    with pytest.raises(ValueError, match=r"no attention implementation 'cuda'; there are .*xla"):
        run_paged(CASES["one_token"], jnp.float32, implementation="cuda")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": np.zeros((4, 5, 8), np.float32)}, "5 query heads do not divide by 2"),
        ({"q": np.zeros((4, 4, 16), np.float32)}, "rows of 16, but head_dim 16 needs 32"),
        ({"kv_lens": np.zeros(2, np.int32)}, "for 2 sequences"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    arguments = {
        "q": np.zeros((4, 4, 8), np.float32),
        "kv_pages": np.zeros((3, 2, 16, 16), np.float32),
        "block_tables": np.zeros((1, 2), np.int32),
        "cu_q_lens": np.zeros(2, np.int32),
        "kv_lens": np.zeros(1, np.int32),
    }
    with pytest.raises(ValueError, match=message):
        attention.paged_attention(**(arguments | change), num_decodes=0, num_seqs=1, scale=1.0)
