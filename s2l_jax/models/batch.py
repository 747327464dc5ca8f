"""The ragged batch of one engine step, as device arrays."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RaggedBatch:
    """Which tokens of which sequences a step runs; token rows of all sequences lie behind each other.

    The first `num_decodes` sequences have exactly one token each, the others are chunks of any length.

    Attributes:
      slots: where the KV of each token goes, `page * page_size + offset`; outside the pool for padding.
      block_tables: pages of each sequence in position order; entries past its end must name pages of the pool.
      cu_q_lens: tokens of sequence `s` are rows `cu_q_lens[s] .. cu_q_lens[s + 1]`.
      kv_lens: tokens of each sequence so far, the new ones included.
      num_decodes: how many of the first sequences have exactly one token.
      num_seqs: how many entries are sequences; later ones are padding.
    """

    slots: Int[Array, "tokens"]
    block_tables: Int[Array, "seqs blocks"]
    cu_q_lens: Int[Array, "seqs_plus_1"]
    kv_lens: Int[Array, "seqs"]
    num_decodes: Int[Array, ""]
    num_seqs: Int[Array, ""]
