"""From logits to tokens, on the device: pure functions, one row per sampled token.

The order is penalties, constraint, temperature, min-p, top-k, top-p, draw; each works on what the one before it left. A
draw depends on nothing but the row's logits, parameters, mask, seed and position, so it is the same whatever else is in
the batch.

Filters need no sort, which is slow on every platform for 50 to 150 thousand columns. They keep the tokens within
some distance of the best one, and the distance comes from a bisection over the bits of a float, exact after 31 steps;
tokens exactly as likely as the last one kept are kept as well.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from s2l_jax.core.params import MAX_LOGPROBS
from s2l_jax.core.plan import MASK_WORD_BITS

_INFINITY_BITS = 0x7F800000
_HISTORY_TILE_TOKENS = 512
_DRAW_GROUP_COLUMNS = 256
_NEVER = -1e30  # finite, since a row whose logits are not is an error; no logit is near it

type Logits = Float[Array, "rows vocab"]


class SampleRows(NamedTuple):
    """Parameters of each row, see `s2l_jax.core.params.SamplingParams`; padding rows are greedy.

    Attributes:
      temperature: 0 is greedy.
      top_k: tokens to keep; 0 is off.
      top_p: probability to keep; 1 is off.
      min_p: least probability relative to the best token; 0 is off.
      seed: high and low word of the seed.
      position: position of the sampled token; also the length of the history.
      logprobs: whether log probabilities are wanted.
      repetition: repetition penalty.
      presence: presence penalty.
      frequency: frequency penalty.
      prompt_tokens: how many tokens of the history are prompt.
      constrained: whether the row's mask counts.
    """

    temperature: Float[Array, "rows"]
    top_k: Int[Array, "rows"]
    top_p: Float[Array, "rows"]
    min_p: Float[Array, "rows"]
    seed: UInt[Array, "rows 2"]
    position: Int[Array, "rows"]
    logprobs: Bool[Array, "rows"]
    repetition: Float[Array, "rows"]
    presence: Float[Array, "rows"]
    frequency: Float[Array, "rows"]
    prompt_tokens: Int[Array, "rows"]
    constrained: Bool[Array, "rows"]


class Sampled(NamedTuple):
    """Sampled tokens.

    Attributes:
      token: the token, or -1 where the logits were not finite.
      logprob: its log probability before temperature, penalties and filters; only where wanted.
      top_token: the most likely tokens, most likely first; only where wanted.
      top_logprob: their log probabilities.
    """

    token: Int[Array, "rows"]
    logprob: Float[Array, "rows"]
    top_token: Int[Array, "rows top"]
    top_logprob: Float[Array, "rows top"]


def greedy(logits: Logits) -> Int[Array, "rows"]:
    """The most likely token of each row, the first of equals, or -1 where the logits are not finite."""
    best, vocab = jnp.max(logits, axis=-1, keepdims=True), logits.shape[-1]
    # Two plain reductions run several times faster on a CPU than argmax, which XLA does not vectorise.
    token = jnp.min(jnp.where(logits == best, jnp.arange(vocab, dtype=jnp.int32), vocab), axis=-1)
    return jnp.where(jnp.isfinite(logits.sum(axis=-1)), token, -1)


def sample(
    logits: Logits,
    rows: SampleRows,
    masks: Int[Array, "rows words"],
    history: Int[Array, "rows tokens"] | None = None,
) -> Sampled:
    """Samples one token a row.

    Args:
      logits: scores, float32.
      rows: parameters.
      masks: tokens that rows with a constraint may take, see `s2l_jax.core.plan.Sample`.
      history: tokens so far; entries from `rows.position` on are padding. Without it penalties are ignored.
    """
    penalised = logits if history is None else penalise(logits, rows, history)
    possible = constrain(penalised, rows, masks)
    likely = greedy(possible)
    distance = jnp.max(possible, axis=-1, keepdims=True) - possible
    distance = distance / jnp.where(rows.temperature > 0.0, rows.temperature, 1.0)[:, None]
    token = jnp.where((rows.temperature > 0.0) & (likely >= 0), draw(weigh(distance, rows), rows), likely)
    return Sampled(token, *_logprobs(logits, token, rows.logprobs))


def penalise(logits: Logits, rows: SampleRows, history: Int[Array, "rows tokens"]) -> Logits:
    """Applies the repetition penalty to tokens of prompt and output, presence and frequency to those of the output."""
    seen, produced = _tally(history, rows, logits.shape[-1])
    repetition = rows.repetition[:, None]
    repeated = jnp.where(logits > 0.0, logits / repetition, logits * repetition)
    logits = jnp.where(seen > 0, repeated, logits)
    logits = logits - rows.frequency[:, None] * produced.astype(logits.dtype)
    return logits - jnp.where(produced > 0, rows.presence[:, None], 0.0)


def constrain(logits: Logits, rows: SampleRows, masks: Int[Array, "rows words"]) -> Logits:
    """Leaves rows with a constraint the tokens of their masks; no work, if there is no such row."""
    num_rows, vocab = logits.shape

    def mask() -> Array:
        bits = masks[:, :, None] >> jnp.arange(MASK_WORD_BITS, dtype=jnp.int32) & 1
        allowed = bits.reshape(num_rows, -1)[:, :vocab] > 0
        return jnp.where(allowed | ~rows.constrained[:, None], logits, _NEVER)

    return lax.cond(rows.constrained.any(), mask, lambda: logits)


def weigh(distance: Float[Array, "rows vocab"], rows: SampleRows) -> Float[Array, "rows vocab"]:
    """Relative probabilities of the tokens that min-p, top-k and top-p leave, zero for the others.

    Args:
      distance: how far each logit, divided by the temperature, is below the best of its row.
      rows: parameters.
    """
    bits = lax.bitcast_convert_type(distance, jnp.int32)  # not negative, so their order is that of the distances
    kept = distance <= -jnp.log(rows.min_p)[:, None]
    ones = jnp.where(kept, 1.0, 0.0)
    kept &= bits <= _radius(bits, ones, rows.top_k.astype(jnp.float32), rows.top_k > 0)
    weights = jnp.where(kept, jnp.exp(-distance), 0.0)
    wanted = rows.top_p * weights.sum(axis=-1)
    return jnp.where(bits <= _radius(bits, weights, wanted, rows.top_p < 1.0), weights, 0.0)


def draw(weights: Float[Array, "rows vocab"], rows: SampleRows) -> Int[Array, "rows"]:
    """Draws a token of each row with probability proportional to its weight.

    Two uniform numbers a row, made from seed and position, choose a group of columns by the groups' sums and then a
    column of the group: one pass over the weights, where noise for each column would take ten times as long.
    """

    def uniform(seed: UInt[Array, "2"], position: Int[Array, ""]) -> Float[Array, "2"]:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), position)
        return jax.random.uniform(key, (2,))

    num_rows, vocab = weights.shape
    padded = jnp.pad(weights, ((0, 0), (0, -vocab % _DRAW_GROUP_COLUMNS)))
    groups = padded.reshape(num_rows, -1, _DRAW_GROUP_COLUMNS)
    random = jax.vmap(uniform)(rows.seed, rows.position)
    group = _pick(groups.sum(axis=-1), random[:, 0])
    column = _pick(jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0], random[:, 1])
    return group * _DRAW_GROUP_COLUMNS + column


def _pick(weights: Float[Array, "rows columns"], random: Float[Array, "rows"]) -> Int[Array, "rows"]:
    """Column in which `random` in [0, 1) falls if the row's weights are laid end to end; never one without weight."""
    column = jnp.arange(weights.shape[-1], dtype=jnp.int32)
    # A running sum as one small product: cumsum is a dozen kernels, and two seconds of compilation.
    before = jnp.where(column[:, None] <= column, 1.0, 0.0)
    reached = jnp.matmul(weights, before, precision=lax.Precision.HIGHEST)
    last = jnp.where(weights > 0.0, column, 0).max(axis=-1)
    # Rounding can leave the sums not quite ascending, and the last one below the target.
    past = (reached > (random * reached[:, -1])[:, None]) & (weights > 0.0)
    return jnp.where(past, column, last[:, None]).min(axis=-1)


def _radius(
    bits: Int[Array, "rows vocab"],
    weights: Float[Array, "rows vocab"],
    wanted: Float[Array, "rows"],
    active: Bool[Array, "rows"],
) -> Int[Array, "rows 1"]:
    """Least distance, as bits, within which the weights reach what is wanted; infinity for inactive rows.

    No step is spent if no row is active.
    """

    def halve(_: Int[Array, ""], bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = jnp.where(bits <= middle, weights, 0.0).sum(axis=-1, keepdims=True) >= wanted[:, None]
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low = jnp.zeros((bits.shape[0], 1), jnp.int32)
    steps = jnp.where(active.any(), _INFINITY_BITS.bit_length(), 0)
    _, high = lax.fori_loop(0, steps, halve, (low, jnp.full_like(low, _INFINITY_BITS)))
    return jnp.where(active[:, None], high, _INFINITY_BITS)


def _tally(
    history: Int[Array, "rows tokens"], rows: SampleRows, vocab: int
) -> tuple[Int[Array, "rows vocab"], Int[Array, "rows vocab"]]:
    """How often each token occurs in the whole history, and in its output part; as long as the longest history."""
    num_rows, width = history.shape
    tile = min(_HISTORY_TILE_TOKENS, width)
    row = jnp.arange(num_rows)[:, None]

    def add(index: Int[Array, ""], counts: tuple[Array, Array]) -> tuple[Array, Array]:
        seen, produced = counts
        # The last tile is moved back to fit; what it shares with the one before is masked.
        start = jnp.minimum(index * tile, width - tile)
        position = start + jnp.arange(tile)
        live = (position >= index * tile) & (position < rows.position[:, None])
        token = jnp.where(live, lax.dynamic_slice_in_dim(history, start, tile, axis=1), vocab)
        seen = seen.at[row, token].add(1, mode="drop")
        is_output = position >= rows.prompt_tokens[:, None]
        return seen, produced.at[row, jnp.where(is_output, token, vocab)].add(1, mode="drop")

    zeros = jnp.zeros((num_rows, vocab), jnp.int32)
    return lax.fori_loop(0, (rows.position.max() + tile - 1) // tile, add, (zeros, zeros))


def _logprobs(
    logits: Logits, token: Int[Array, "rows"], wanted: Bool[Array, "rows"]
) -> tuple[Float[Array, "rows"], Int[Array, "rows top"], Float[Array, "rows top"]]:
    """Log probabilities of the token and of the most likely ones; zeros, without work, if no row wants them."""
    num_rows, vocab = logits.shape
    top = min(MAX_LOGPROBS, vocab)

    def compute() -> tuple[Array, Array, Array]:
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        best, index = lax.top_k(logits, top)
        return _at(logits, token) - normaliser, index.astype(jnp.int32), best - normaliser[:, None]

    def skip() -> tuple[Array, Array, Array]:
        return jnp.zeros(num_rows), jnp.zeros((num_rows, top), jnp.int32), jnp.zeros((num_rows, top))

    return lax.cond(wanted.any(), compute, skip)


def _at(logits: Logits, token: Int[Array, "rows"]) -> Float[Array, "rows"]:
    return jnp.take_along_axis(logits, token[:, None], axis=-1, mode="clip")[:, 0]
