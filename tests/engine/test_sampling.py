"""Device sampling against plain numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import MAX_LOGPROBS, SamplingParams
from s2l_jax.core.plan import Sample
from s2l_jax.engine import sampling
from s2l_jax.engine.buckets import SampleShape, Variant
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.sample_packing import (
    ROW_WORDS,
    pack_history,
    pack_masks,
    pack_sampled,
    pack_samples,
    unpack_rows,
    unpack_sampled,
)
from tests.engine.plain_sampling import log_softmax, penalised, probabilities

VOCAB = 300
HISTORY = 40
CONFIG = EngineConfig(
    num_blocks=16, block_size=4, token_budget=32, max_batch=32, max_sessions=64, max_model_len=HISTORY
)
FILTERS = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": VOCAB},
    {"top_k": 10 * VOCAB},
    {"top_p": 0.01},
    {"top_p": 0.6},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"temperature": 1.7, "top_k": 30, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 0.5, "top_k": 5, "top_p": 0.9},
    {"temperature": 1e-3, "top_p": 0.9},
    {"temperature": 0.0, "top_k": 5},
]


def make_params(**changed: float) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, **changed})


def make_samples(all_params: list[SamplingParams], histories: np.ndarray | None = None, **changed: int) -> list[Sample]:
    return [
        Sample(
            session_id=SessionId(str(row)),
            slot=SlotId(row),
            params=params,
            seed=changed.get("seed", 1000 + row),
            position=HISTORY if histories is not None else changed.get("position", 5),
            history=None if histories is None else histories[row],
            prompt_tokens=changed.get("prompt_tokens", 3),
        )
        for row, params in enumerate(all_params)
    ]


def run(logits: np.ndarray, samples: list[Sample], rows: int = 32) -> sampling.Sampled:
    """Through packing, as the engine does it; rows from len(samples) on are padding."""
    has_history = samples[0].history is not None
    shape = SampleShape(rows, Variant.PENALTIES if has_history else Variant.FULL, HISTORY if has_history else 0)
    padded = np.zeros((rows, logits.shape[1]), np.float32)
    padded[: len(samples)] = logits
    history = pack_history(samples, shape) if has_history else None
    words = -(-logits.shape[1] // 32)
    masks = pack_masks(samples, shape, words)
    if masks is None:
        masks = np.zeros((rows, words), np.int32)
    return _sample(padded, pack_samples(samples, shape, CONFIG), masks, history)


@jax.jit
def _sample(logits: jax.Array, packed: jax.Array, masks: jax.Array, history: jax.Array | None) -> sampling.Sampled:
    return sampling.sample(logits, unpack_rows(packed)[1], masks, history)


def mask_of(tokens: list[int]) -> np.ndarray:
    """The mask that lets these tokens come, no longer than it takes."""
    bits = np.zeros(max(tokens) // 32 * 32 + 32, np.uint8)
    bits[tokens] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


@jax.jit
def _weigh(logits: jax.Array, packed: jax.Array) -> jax.Array:
    rows = unpack_rows(packed)[1]
    return sampling.weigh((logits.max(-1, keepdims=True) - logits) / rows.temperature[:, None], rows)


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(0.0, 2.5, (32, VOCAB)).astype(np.float32)


@pytest.mark.parametrize("changed", [f for f in FILTERS if f.get("temperature") != 0.0], ids=str)
def test_filters_leave_what_plain_numpy_leaves(logits: np.ndarray, changed: dict[str, float]) -> None:
    params = make_params(**changed)
    shape = SampleShape(32, Variant.FULL, 0)
    weights = np.asarray(_weigh(logits, pack_samples(make_samples([params] * 32), shape, CONFIG)), np.float64)
    got = weights / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(got, [probabilities(row, params) for row in logits], atol=2e-6)


def test_rows_are_filtered_by_their_own_parameters(logits: np.ndarray) -> None:
    every = [make_params(**changed) for changed in FILTERS]
    together = run(logits[: len(every)], make_samples(every)).token[: len(every)]
    alone = [run(logits[i : i + 1], [sample], rows=1).token[0] for i, sample in enumerate(make_samples(every))]
    np.testing.assert_array_equal(together, alone)


def test_tokens_as_likely_as_the_last_one_kept_are_kept() -> None:
    flat = np.zeros((1, VOCAB), np.float32)
    shape = SampleShape(1, Variant.FULL, 0)
    weights = _weigh(flat, pack_samples(make_samples([make_params(top_k=3)]), shape, CONFIG))
    assert np.count_nonzero(weights) == VOCAB


@pytest.mark.parametrize("changed", [{}, {"top_p": 0.7}, {"top_k": 4, "temperature": 2.0}], ids=str)
def test_draws_follow_the_distribution(changed: dict[str, float]) -> None:
    logits, draws = np.random.default_rng(2).normal(0.0, 2.0, 20).astype(np.float32), 20_000
    params = make_params(**changed)
    weights = jnp.tile(jnp.asarray(probabilities(logits, params), jnp.float32), (draws, 1))
    seeds = np.stack([np.arange(draws) % 7, np.arange(draws)], axis=-1).astype(np.uint32)
    packed = np.zeros((draws, ROW_WORDS), np.int32)
    rows = unpack_rows(packed)[1]._replace(seed=jnp.asarray(seeds), position=jnp.arange(draws) % 11)
    counts = np.bincount(np.asarray(jax.jit(sampling.draw)(weights, rows)), minlength=20)
    expected = probabilities(logits, params) * draws
    assert not counts[expected == 0].any()
    live = expected > 0
    chi_squared = ((counts - expected)[live] ** 2 / expected[live]).sum()
    assert chi_squared < 50  # 19 degrees of freedom: one in ten thousand by chance, and the seeds are fixed


def test_a_draw_never_takes_a_token_without_weight() -> None:
    weights = np.zeros((1000, 600), np.float32)
    weights[:, [37, 300, 511]] = [1e-30, 1.0, 1e-7]
    rows = unpack_rows(np.zeros((1000, ROW_WORDS), np.int32))[1]
    seeds = jnp.stack([jnp.zeros(1000, jnp.uint32), jnp.arange(1000, dtype=jnp.uint32)], axis=-1)
    drawn = jax.jit(sampling.draw)(weights, rows._replace(seed=seeds))
    assert set(np.asarray(drawn).tolist()) <= {37, 300, 511}


def test_a_draw_does_not_depend_on_the_batch(logits: np.ndarray) -> None:
    samples = make_samples([make_params(temperature=1.5)] * 32)
    together = np.asarray(run(logits, samples).token)
    shuffled = np.random.default_rng(3).permutation(32)
    np.testing.assert_array_equal(run(logits[shuffled], [samples[i] for i in shuffled]).token, together[shuffled])
    for row in (0, 13, 31):
        assert run(logits[row : row + 1], samples[row : row + 1], rows=2).token[0] == together[row]


@pytest.mark.parametrize("changed", [{"seed": 8}, {"seed": 7 + (1 << 32)}, {"position": 6}], ids=str)
def test_seed_and_position_change_the_draw(changed: dict[str, int]) -> None:
    flat = np.zeros((32, VOCAB), np.float32)
    same = {"seed": 7, "position": 5}
    base = np.asarray(run(flat, make_samples([make_params()] * 32, **same)).token)
    assert len(set(base.tolist())) == 1
    assert run(flat, make_samples([make_params()] * 32, **{**same, **changed})).token[0] != base[0]


def test_greedy_rows_of_a_mixed_batch_take_the_best_token(logits: np.ndarray) -> None:
    mixed = [make_params(temperature=1.0 if row % 2 else 0.0) for row in range(32)]
    tokens = np.asarray(run(logits, make_samples(mixed)).token)
    best = logits.argmax(axis=-1)
    np.testing.assert_array_equal(tokens[::2], best[::2])
    assert (tokens[1::2] != best[1::2]).any()
    np.testing.assert_array_equal(jax.jit(sampling.greedy)(logits), best)


def test_the_first_of_equally_good_tokens_is_taken() -> None:
    logits = np.zeros((2, VOCAB), np.float32)
    logits[0, [9, 200]] = 3.0
    np.testing.assert_array_equal(sampling.greedy(logits), [9, 0])


@pytest.mark.parametrize(
    "changed",
    [
        {"repetition_penalty": 1.8},
        {"repetition_penalty": 0.5},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"frequency_penalty": -0.7, "presence_penalty": -1.0, "repetition_penalty": 1.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("tile", [7, 512])
def test_penalties(logits: np.ndarray, changed: dict[str, float], tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_HISTORY_TILE_TOKENS", tile)
    params, prompt_tokens = make_params(**changed), 25
    histories = np.random.default_rng(4).integers(0, 30, (32, HISTORY)).astype(np.int32)
    samples = make_samples([params] * 32, histories, prompt_tokens=prompt_tokens)
    shape = SampleShape(32, Variant.PENALTIES, HISTORY)
    rows = unpack_rows(pack_samples(samples, shape, CONFIG))[1]
    got = jax.jit(partial(sampling.penalise))(logits, rows, pack_history(samples, shape))
    expected = [penalised(row, params, h, prompt_tokens) for row, h in zip(logits, histories, strict=True)]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_history_past_the_position_does_not_count(logits: np.ndarray) -> None:
    params = make_params(temperature=0.0, presence_penalty=2.0, repetition_penalty=5.0)
    history = np.full(HISTORY, logits[0].argmax(), np.int32)
    short = Sample(SessionId("a"), SlotId(0), params, 0, 0, history[:0], 0)
    assert run(logits[:1], [short]).token[0] == logits[0].argmax()
    full = Sample(SessionId("a"), SlotId(0), params, 0, HISTORY, history, 0)
    assert run(logits[:1], [full]).token[0] != logits[0].argmax()


def test_logprobs_are_those_of_the_model_whatever_the_parameters(logits: np.ndarray) -> None:
    params = [make_params(temperature=2.0, top_k=5, logprobs=row % 4 if row % 5 else None) for row in range(32)]
    samples = make_samples(params)
    tokens = unpack_sampled(np.asarray(pack_sampled(run(logits, samples))), samples)
    for row, (token, one) in enumerate(zip(tokens, params, strict=True)):
        if one.logprobs is None:
            assert (token.logprob, token.top) == (None, ())
            continue
        expected = log_softmax(logits[row])
        assert token.logprob == pytest.approx(expected[token.token_id], abs=1e-5)
        assert [best for best, _ in token.top] == np.argsort(-logits[row])[: one.logprobs].tolist()
        assert [value for _, value in token.top] == pytest.approx(np.sort(expected)[::-1][: one.logprobs], abs=1e-5)


def test_a_vocabulary_smaller_than_the_alternatives() -> None:
    logits = np.arange(MAX_LOGPROBS - 5, dtype=np.float32)[None]
    samples = make_samples([make_params(logprobs=MAX_LOGPROBS)])
    (token,) = unpack_sampled(np.asarray(pack_sampled(run(logits, samples, rows=1))), samples)
    assert len(token.top) == MAX_LOGPROBS - 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 150, VOCAB - 1])
def test_a_row_that_is_not_finite_fails_alone(logits: np.ndarray, bad: float, column: int) -> None:
    broken = logits.copy()
    broken[3, column] = bad
    broken[8] = bad
    params = [make_params(temperature=float(row % 2), top_p=0.9, logprobs=2) for row in range(32)]
    samples = make_samples(params)
    good, got = np.asarray(run(logits, samples).token), run(broken, samples)
    assert got.token[3] == got.token[8] == -1
    others = [row for row in range(32) if row not in {3, 8}]
    np.testing.assert_array_equal(np.asarray(got.token)[others], good[others])
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(jax.jit(sampling.greedy)(broken)) < 0), [3, 8])
    assert unpack_sampled(np.asarray(pack_sampled(got)), samples)[3].logprob is None


@pytest.mark.parametrize("changed", FILTERS, ids=str)
def test_constrained_rows_take_what_their_masks_let_come(logits: np.ndarray, changed: dict[str, float]) -> None:
    """Every other row is constrained, to tokens of the less likely kind; the others give what they gave before."""
    params, random = make_params(**changed), np.random.default_rng(5)
    samples = make_samples([params] * 32)
    free = np.asarray(run(logits, samples).token)
    allowed = [sorted(np.argsort(row)[random.permutation(200)[:9]].tolist()) for row in logits]
    masked = [one._replace(mask=mask_of(allowed[i])) if i % 2 else one for i, one in enumerate(samples)]
    tokens = np.asarray(run(logits, masked).token)
    np.testing.assert_array_equal(tokens[::2], free[::2])
    for row in range(1, 32, 2):
        rest = np.where(np.isin(np.arange(VOCAB), allowed[row]), logits[row], -np.inf)
        assert probabilities(rest, params)[tokens[row]] > 0
        alone = run(logits[row : row + 1], masked[row : row + 1], rows=1).token[0]
        assert tokens[row] == alone
    assert (tokens[1::2] != free[1::2]).any()


def test_a_mask_of_one_token_leaves_no_choice(logits: np.ndarray) -> None:
    worst = logits.argmin(axis=-1)
    every = [make_params(**(changed | {"logprobs": 2})) for changed in FILTERS]
    samples = [one._replace(mask=mask_of([worst[i]])) for i, one in enumerate(make_samples(every))]
    got = run(logits[: len(every)], samples)
    np.testing.assert_array_equal(got.token[: len(every)], worst[: len(every)])
    expected = [log_softmax(row)[row.argmin()] for row in logits[: len(every)]]
    np.testing.assert_allclose(got.logprob[: len(every)], expected, atol=1e-5)  # the model's own, as without a mask


def test_penalties_choose_among_what_the_mask_lets_come(logits: np.ndarray) -> None:
    params = make_params(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0)
    first, second = np.argsort(-logits[0])[100:102].tolist()
    histories = np.full((1, HISTORY), first, np.int32)
    (sample,) = make_samples([params], histories, prompt_tokens=0)
    assert run(logits[:1], [sample._replace(mask=mask_of([first, second]))]).token[0] == second
    assert run(logits[:1], [sample._replace(mask=mask_of([first]))]).token[0] == first


def test_a_mask_may_be_longer_than_the_vocabulary(logits: np.ndarray) -> None:
    (sample,) = make_samples([make_params(temperature=0.0)])
    assert run(logits[:1], [sample._replace(mask=mask_of([7, VOCAB + 200]))]).token[0] == 7


def test_a_constrained_row_that_is_not_finite_fails(logits: np.ndarray) -> None:
    broken = np.full_like(logits[:1], np.nan)
    (sample,) = make_samples([make_params()])
    assert run(broken, [sample._replace(mask=mask_of([3, 4]))]).token[0] == -1
