"""Fits the costs of padded work to measured seconds."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from cost_profiles.padding import PaddedCosts, Padding
from cost_profiles.work import Work
from s2l_jax.core.errors import InvalidArgument

_REST = ("chunk_kv_s", "chunk_pair_s", "decode_kv_s", "decode_context_s", "sample_s", "sample_row_s")


def fit_padded(works: Sequence[Work], seconds: Sequence[float], padding: Padding) -> PaddedCosts:
    """The costs with the least sum of squared relative errors; no term is negative, and larger buckets cost no less.

    A bucket without a point lies between its neighbours.

    Args:
      works: what was measured.
      seconds: what it took, each above 0.
      padding: of the engine.

    Raises:
      InvalidArgument: nothing that was measured runs through the model.
    """
    padded = [padding.padded(work) for work in works]
    buckets = sorted({one.tokens for one in padded if one.tokens})
    if not buckets:
        raise InvalidArgument("there is no step among the points, so there is nothing to fit the costs of steps to")
    # A bucket costs what the one below it costs, and something more.
    steps_up = np.array([[one.tokens >= bucket for bucket in buckets] for one in padded], np.float64)
    rest = np.array(
        [
            (
                one.chunk_kv_tokens,
                one.chunk_pairs,
                one.decode_kv_tokens,
                one.decode_context_tokens,
                one.sampled_rows > 0,
                one.sampled_rows,
            )
            for one in padded
        ],
        np.float64,
    )
    rows = np.column_stack([steps_up, rest]) / np.array(seconds)[:, None]
    scale = np.maximum(rows.max(axis=0), np.finfo(np.float64).tiny)
    terms = nnls(rows / scale, np.ones(len(rows)))[0] / scale
    dense_s = np.interp(padding.token_buckets, buckets, np.cumsum(terms[: len(buckets)]))
    return PaddedCosts(
        padding, tuple(dense_s.tolist()), **dict(zip(_REST, terms[len(buckets) :].tolist(), strict=True))
    )
