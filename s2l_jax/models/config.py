"""Shape and numerics of a Llama-family model."""

from dataclasses import dataclass, replace

from s2l_jax.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Scaling of rotary frequencies.

    Attributes:
      kind: `linear` | `llama3` | `yarn`; the loader refuses others.
      factor: how much longer than the original context the model reads.
      low_freq_factor: llama3 only.
      high_freq_factor: llama3 only.
      original_max_position: context length before scaling, in tokens.
      attention_factor: yarn only; multiplies cos and sin.
      beta_fast: yarn only.
      beta_slow: yarn only.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Static description of a model: hashable, so jitted functions may close over it.

    Attributes:
      name: what users call it.
      vocab_size: rows of the embedding.
      hidden_size: width of the residual stream.
      intermediate_size: width of the gated MLP.
      num_layers: decoder layers.
      num_q_heads: query heads.
      num_kv_heads: key and value heads; divides num_q_heads.
      head_dim: width of one head.
      max_position: longest context in tokens.
      rope_theta: rotary base.
      rope_scaling: how rotary frequencies are scaled, if they are.
      rms_norm_eps: epsilon of all norms.
      tie_word_embeddings: the output projection is the embedding.
      qkv_bias: q, k, v projections have biases (Qwen2).
      output_bias: the attention output projection has a bias.
      mlp_bias: MLP projections have biases.
      qk_norm: q and k heads are RMS-normalised (Qwen3).
      sliding_window: tokens a position may look back, itself included; None is unlimited.
      bos_token_id: begin of sequence, None if the model has none.
      eos_token_ids: tokens that end generation.
    """

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: frozenset[int] = frozenset()

    def part(self, parts: int) -> "ModelConfig":
        """What one device of `parts` has of a tensor-parallel model.

        Raises:
          InvalidArgument: heads or feed-forward network do not divide by `parts`.
        """
        split = ("num_q_heads", "num_kv_heads", "intermediate_size")
        for field in split:
            if getattr(self, field) % parts:
                raise InvalidArgument(
                    f"{field} of model {self.name!r} is {getattr(self, field)}, not a multiple of {parts} devices"
                )
        return replace(self, **{field: getattr(self, field) // parts for field in split})
