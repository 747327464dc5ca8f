"""Two steps outstanding: same tokens as one after the other, and what becomes of them when one fails."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2l_jax.core.errors import FailedPrecondition, InternalError
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import LAST_SAMPLED, StepPlan, StepTiming
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.engine.errors import KVLost
from s2l_jax.models.registry import LoadedModel
from tests.engine.driver import GREEDY, Stream, decode, decode_ahead, prefill, same_output

PROMPT = np.random.default_rng(1).integers(0, 256, 30).tolist()


def make_streams(engine: JaxEngine) -> list[Stream]:
    streams = [Stream(PROMPT[i:20], range(10 * i, 10 * i + 10), slot=5 - i, seed=i) for i in range(3)]
    for stream in streams:
        prefill(engine, stream, [8, len(stream.tokens) - 8])
    return streams


@pytest.fixture
def own_engine(tiny: LoadedModel, config: EngineConfig) -> Iterator[JaxEngine]:
    """One that a test may break."""
    engine = JaxEngine(tiny.build(), tiny.config, config)
    engine.warmup()
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "params",
    [GREEDY, SamplingParams(), SamplingParams(temperature=1.2, logprobs=5)],
    ids=["greedy with logprobs", "greedy", "sampled"],
)
def test_tokens_that_only_the_device_knows_give_the_same(engine: JaxEngine, params: SamplingParams) -> None:
    expected = make_streams(engine)
    decode(engine, expected, 12, params)
    streams = make_streams(engine)
    decode_ahead(engine, streams, 12, params)
    for stream, one in zip(streams, expected, strict=True):
        assert stream.tokens == one.tokens


def test_an_unknown_token_may_end_a_longer_chunk(engine: JaxEngine) -> None:
    """As when a session decodes on behind KV that must be computed again."""
    (expected, *_) = make_streams(engine)
    decode(engine, [expected], 2)
    (stream, *_) = make_streams(engine)
    decode(engine, [stream], 1)
    stream.tokens[-1], stream.computed = LAST_SAMPLED, 13
    result = engine.execute(StepPlan(0, (stream.chunk(8),), (stream.sample(),)))
    assert result.tokens[0].token_id == expected.tokens[-1]


def test_padding_of_a_batch_leaves_all_last_tokens_alone(engine: JaxEngine) -> None:
    streams = make_streams(engine)
    decode(engine, streams, 1)
    before = np.asarray(engine._state.last_tokens)
    decode(engine, streams, 1)
    after = np.asarray(engine._state.last_tokens)
    slots = [stream.slot for stream in streams]
    assert after[slots].tolist() == [stream.tokens[-1] for stream in streams]
    others = np.setdiff1d(np.arange(6), slots)
    np.testing.assert_array_equal(after[others], before[others])


@pytest.mark.parametrize("tokens", [[LAST_SAMPLED, 4], [-2], [3, -2]])
def test_negative_tokens_are_refused(engine: JaxEngine, tokens: list[int]) -> None:
    stream = Stream(tokens, range(4))
    with pytest.raises(InternalError, match="negative"):
        engine.execute(StepPlan(0, (stream.chunk(len(tokens)),), ()))


def test_steps_are_collected_in_order_and_two_at_most(engine: JaxEngine) -> None:
    stream = Stream(PROMPT, range(12))
    assert not engine.is_ready()
    with pytest.raises(FailedPrecondition, match="submit"):
        engine.collect()
    plans = [StepPlan(number, (stream.chunk(5),), ()) for number in range(3)]
    engine.submit(plans[0])
    engine.submit(plans[1])
    assert engine.collect().plan is plans[0]
    while not engine.is_ready():
        time.sleep(0.001)
    assert engine.collect().plan is plans[1]
    assert not engine.is_ready()
    engine.submit(plans[0])
    with pytest.raises(FailedPrecondition, match="by itself"):
        engine.execute(plans[1])
    engine.submit(plans[0])
    engine.submit(plans[1])
    with pytest.raises(FailedPrecondition, match="2 steps"):
        engine.submit(plans[2])
    with pytest.raises(FailedPrecondition, match="submit"):
        engine.collect()


def test_a_refused_step_drops_those_before_it_and_no_more(engine: JaxEngine) -> None:
    expected = make_streams(engine)
    decode(engine, expected, 3)
    streams = make_streams(engine)
    lost = Stream(PROMPT, range(30, 40), slot=0)
    engine.submit(StepPlan(1, (lost.chunk(8),), ()))
    with pytest.raises(InternalError, match="slot 6"):
        engine.submit(StepPlan(2, (Stream(PROMPT, range(30, 40), slot=6).chunk(8),), ()))
    assert not engine.is_ready()
    decode_ahead(engine, streams, 3)
    for stream, one in zip(streams, expected, strict=True):
        same_output(stream, one)


def test_a_step_that_fails_on_the_device_takes_the_one_behind_it(own_engine: JaxEngine) -> None:
    expected = make_streams(own_engine)
    decode(own_engine, expected, 2)
    own_engine.submit(StepPlan(1, (Stream(PROMPT, range(12)).chunk(8),), ()))
    own_engine._state.pages[0][1].delete()
    with pytest.raises(KVLost, match="step 2"):
        own_engine.submit(StepPlan(2, (Stream(PROMPT, range(12)).chunk(8),), ()))
    assert not own_engine.is_ready()
    streams = make_streams(own_engine)
    decode_ahead(own_engine, streams, 2)
    for stream, one in zip(streams, expected, strict=True):
        same_output(stream, one)


def test_a_failure_that_shows_at_collect_is_raised_there(
    own_engine: JaxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(PROMPT, range(12))
    own_engine.submit(StepPlan(1, (stream.chunk(8),), (stream.sample(),)))
    own_engine.submit(StepPlan(2, (stream.chunk(8),), ()))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "device_get", _raise)
        with pytest.raises(InternalError, match=r"step 1 failed on .*the cable") as raised:
            own_engine.collect()
    assert not isinstance(raised.value, KVLost)
    with pytest.raises(FailedPrecondition):
        own_engine.collect()
    prefill(own_engine, Stream(PROMPT, range(12)), [8])


def _raise(*_: object) -> None:
    raise RuntimeError("somebody pulled the cable")


def test_closing_with_steps_outstanding(tiny: LoadedModel, config: EngineConfig) -> None:
    engine = JaxEngine(tiny.build(), tiny.config, config)
    engine.warmup()
    for number in range(2):
        engine.submit(StepPlan(number, (Stream(PROMPT, range(12)).chunk(8),), ()))
    engine.close()
    with pytest.raises(FailedPrecondition):
        prefill(engine, Stream(PROMPT, range(12)), [8])


def test_compute_time_excludes_the_step_before(engine: JaxEngine) -> None:
    def plan() -> StepPlan:
        streams = [Stream(PROMPT, range(10 * i, 10 * i + 10), slot=i) for i in range(4)]
        return StepPlan(0, tuple(stream.chunk(4) for stream in streams), ())

    engine.execute(plan())
    start_s = time.perf_counter()
    timings = []
    engine.submit(plan())
    for _ in range(10):
        engine.submit(plan())
        timings.append(engine.collect().timing)
    timings.append(engine.collect().timing)
    wall_s = time.perf_counter() - start_s
    assert all(timing.compute_s > 0 for timing in timings)
    assert all(timing == StepTiming(timing.compute_s) for timing in timings)
    total_s = sum(timing.compute_s for timing in timings)
    assert total_s <= wall_s
    assert total_s > wall_s / 4


def test_a_token_that_is_none_does_no_harm_to_others(engine: JaxEngine) -> None:
    """Logits that are not finite leave -1 as the last token, and the next step may be under way already."""
    expected = make_streams(engine)
    decode(engine, expected, 3)
    streams = make_streams(engine)
    state = engine._state
    state.last_hidden = state.last_hidden.at[streams[0].slot].set(jnp.nan)
    decode_ahead(engine, streams, 3)
    assert streams[0].sampled[0].token_id == -1
    for stream, one in zip(streams[1:], expected[1:], strict=True):
        same_output(stream, one)
