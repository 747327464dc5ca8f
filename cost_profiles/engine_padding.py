"""How the engine pads as it is now. Importing this imports the accelerator library."""

from cost_profiles.padding import Padding
from kernels_pallas import reference
from s2l_jax.engine.buckets import token_buckets
from s2l_jax.engine.config import EngineConfig


def padding_of(config: EngineConfig) -> Padding:
    """The padding of an engine that attends with `kernels_pallas.reference`."""
    return Padding(
        token_buckets=token_buckets(config.token_budget),
        max_batch=config.max_batch,
        tile_tokens=reference.QUERY_TILE_TOKENS,
        chunk_block_tokens=reference.PREFILL_LAST_BLOCK_TOKENS,
        group_rows=reference.DECODE_GROUP_ROWS,
        group_block_rows=reference.DECODE_BLOCK_ROWS,
        least_block_tokens=reference.DECODE_BLOCK_TOKENS_MIN,
        most_block_tokens=reference.DECODE_BLOCK_TOKENS_MAX,
    )
