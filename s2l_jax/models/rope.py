"""Rotary position embedding, half-split, with the scalings that the Llama family uses."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.config import ModelConfig, RopeScaling


def rope_tables(
    config: ModelConfig, positions: Int[Array, "tokens"]
) -> tuple[Float[Array, "tokens half"], Float[Array, "tokens half"]]:
    """Cosine and sine for each position and frequency, float32, shared by all layers."""
    frequencies, factor = scaled_frequencies(config)
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(frequencies)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def apply_rope(
    x: Float[Array, "tokens heads head_dim"], cos: Float[Array, "tokens half"], sin: Float[Array, "tokens half"]
) -> Float[Array, "tokens heads head_dim"]:
    """Rotates each head; element `i` pairs with `i + head_dim / 2`."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def scaled_frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """Angular frequencies, float32 `[head_dim / 2]`, and the factor on cosine and sine.

    Raises:
      InvalidArgument: the config names a scaling that is not known.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies.astype(np.float32), 1.0
    if scaling.kind == "linear":
        return (frequencies / scaling.factor).astype(np.float32), 1.0
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling).astype(np.float32), 1.0
    if scaling.kind == "yarn":
        factor = scaling.attention_factor
        if factor is None:
            factor = 1.0 if scaling.factor <= 1 else 0.1 * math.log(scaling.factor) + 1.0
        return _yarn(frequencies, scaling, config).astype(np.float32), factor
    raise InvalidArgument(f"model {config.name!r} scales RoPE by {scaling.kind!r}; known are linear, llama3 and yarn")


def _llama3(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Long wavelengths are stretched by the factor, short ones stay, those between are blended."""
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


def _yarn(frequencies: np.ndarray, scaling: RopeScaling, config: ModelConfig) -> np.ndarray:
    """Like llama3, but the blend is linear in the index of the frequency (arXiv 2309.00071, section 3.2)."""

    def index_of(turns: float) -> float:
        wavelength = scaling.original_max_position / (turns * 2 * math.pi)
        return config.head_dim * math.log(wavelength) / (2 * math.log(config.rope_theta))

    low = max(math.floor(index_of(scaling.beta_fast)), 0)
    high = min(math.ceil(index_of(scaling.beta_slow)), config.head_dim - 1)
    stretched = np.clip((np.arange(len(frequencies)) - low) / max(high - low, 1e-3), 0.0, 1.0)
    return frequencies * ((1.0 - stretched) + stretched / scaling.factor)
