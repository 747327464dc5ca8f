"""Sizes of models, and the work and memory that follow from them."""

from dataclasses import dataclass

from s2l_jax.core.errors import InvalidArgument

_BF16_BYTES = 2


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder with grouped-query attention, a gated feed-forward layer, and an output matrix of its own.

    Attributes:
      name: in commands and names of profiles.
      title: for people.
      layers: how many.
      hidden: width of the residual stream.
      heads: of queries.
      kv_heads: of keys and values.
      head_dim: width of a head.
      ffn: width of the feed-forward layer.
      vocab: tokens of the vocabulary.
      max_model_len: tokens of prompt and output together, at most.
      source: of these figures.
    """

    name: str
    title: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_model_len: int
    source: str

    @property
    def layer_matrix_parameters(self) -> int:
        """Weights that each token is multiplied with, in all layers."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def parameters(self) -> int:
        """All weights: those of the layers and their norms, embedding and output matrix, the last norm."""
        return self.layer_matrix_parameters + (2 * self.layers + 1) * self.hidden + 2 * self.vocab * self.hidden

    def weight_bytes(self, int8: bool = False) -> int:
        """What the weights take: in bfloat16, or the layers' matrices in 8 bits and the others in bfloat16."""
        bytes_in_bf16 = _BF16_BYTES * self.parameters
        return bytes_in_bf16 - self.layer_matrix_parameters if int8 else bytes_in_bf16

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token in bfloat16, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * _BF16_BYTES

    @property
    def token_flops(self) -> int:
        """Work of the layers' matrices for one token. Prefill needs the output matrix for the last position only."""
        return 2 * self.layer_matrix_parameters

    @property
    def output_flops(self) -> int:
        """Work of the output matrix for one token that is sampled."""
        return 2 * self.vocab * self.hidden

    @property
    def attended_flops(self) -> int:
        """Work for each pair of a token and one that it attends to: the score and the weighted sum, in all layers."""
        return 4 * self.heads * self.head_dim * self.layers

    @property
    def reduced_token_bytes(self) -> int:
        """What tensor parallelism adds up between chips for one token in bfloat16: twice a layer."""
        return 2 * self.layers * self.hidden * _BF16_BYTES


MODELS = {
    model.name: model
    for model in (
        ModelShape(
            name="llama3.1-8b",
            title="Llama-3.1-8B",
            layers=32,
            hidden=4096,
            heads=32,
            kv_heads=8,
            head_dim=128,
            ffn=14336,
            vocab=128256,
            max_model_len=131072,
            source="config.json of meta-llama/Llama-3.1-8B",
        ),
        ModelShape(
            name="llama3.1-70b",
            title="Llama-3.1-70B",
            layers=80,
            hidden=8192,
            heads=64,
            kv_heads=8,
            head_dim=128,
            ffn=28672,
            vocab=128256,
            max_model_len=131072,
            source="config.json of meta-llama/Llama-3.1-70B",
        ),
    )
}


def find_model(name: str) -> ModelShape:
    """The model of this name.

    Raises:
      InvalidArgument: it is not known.
    """
    if name not in MODELS:
        raise InvalidArgument(f"there is no model {name!r}; known are {', '.join(MODELS)}")
    return MODELS[name]
