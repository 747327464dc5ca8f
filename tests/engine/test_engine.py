"""The engine on the tiny model: what is computed does not depend on how it was planned."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from s2l_jax.core.errors import FailedPrecondition, InternalError, InvalidArgument
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.engine.errors import KVLost
from s2l_jax.models import registry
from s2l_jax.models.registry import LoadedModel
from tests.engine.driver import Stream, decode, prefill, same_output

PROMPT = np.random.default_rng(0).integers(0, 256, 37).tolist()
SAMPLED = SamplingParams(temperature=1.3, top_p=0.95, logprobs=5)


def whole(engine: JaxEngine, tokens: list[int], steps: int = 6, params: SamplingParams | None = None) -> Stream:
    """A sequence that ran alone, in the longest chunks, on blocks in order."""
    stream = Stream(tokens, range(12), seed=11)
    lengths = [16] * (len(tokens) // 16) + [len(tokens) % 16] * (len(tokens) % 16 > 0)
    prefill(engine, stream, lengths)
    decode(engine, [stream], steps, *([params] if params else []))
    return stream


@pytest.mark.parametrize("lengths", [[1] * 37, [5] * 7 + [2], [16, 1, 15, 4, 1], [3, 13, 16, 5]], ids=str)
@pytest.mark.parametrize("params", [None, SAMPLED], ids=["greedy", "sampled"])
def test_chunks_of_any_length_give_the_same(
    engine: JaxEngine, lengths: list[int], params: SamplingParams | None
) -> None:
    expected = whole(engine, PROMPT, params=params)
    stream = Stream(PROMPT, range(20, 32), slot=3, seed=11)
    prefill(engine, stream, lengths)
    decode(engine, [stream], 6, *([params] if params else []))
    same_output(stream, expected)


def test_blocks_in_any_order_give_the_same(engine: JaxEngine) -> None:
    expected = whole(engine, PROMPT)
    for seed in range(3):
        stream = Stream(PROMPT, np.random.default_rng(seed).permutation(40)[:12])
        prefill(engine, stream, [16, 16, 5])
        decode(engine, [stream], 6)
        same_output(stream, expected)


def test_decodes_and_chunks_in_one_step_do_not_touch_each_other(engine: JaxEngine) -> None:
    prompts = [PROMPT[:9], PROMPT[3:20], PROMPT[::-1][:30], PROMPT[::2]]
    expected = [whole(engine, prompt, 4) for prompt in prompts]
    streams = [Stream(prompt, range(10 * i, 10 * i + 10), slot=i, seed=11) for i, prompt in enumerate(prompts)]
    one, two, three, four = streams
    prefill(engine, one, [9])
    prefill(engine, two, [16, 1])
    decode(engine, [one, two], 1)
    while three.computed < 30:
        chunks = (one.chunk(1), two.chunk(1), three.chunk(10), four.chunk([4, 3, 4][three.computed // 10 - 1]))
        result = engine.execute(StepPlan(0, chunks, (one.sample(), two.sample())))
        one.take(result.tokens[0])
        two.take(result.tokens[1])
    prefill(engine, four, [8])
    decode(engine, [three, four], 4)
    for stream, alone in zip(streams, expected, strict=True):
        same_output(stream, alone)


def test_a_sample_long_after_its_chunk_needs_no_forward(engine: JaxEngine) -> None:
    expected = whole(engine, PROMPT, 1)
    stream = Stream(PROMPT, range(12), slot=5)
    prefill(engine, stream, [16, 16, 5])
    whole(engine, PROMPT[:20])
    result = engine.execute(StepPlan(7, (), (stream.sample(),)))
    stream.take(result.tokens[0])
    same_output(stream, expected)


def test_what_freed_blocks_hold_is_never_read(engine: JaxEngine) -> None:
    expected = whole(engine, PROMPT)
    engine._state.pages = jax.tree.map(lambda pages: jnp.full_like(pages, jnp.nan), engine._state.pages)
    stream = Stream(PROMPT, range(12))
    prefill(engine, stream, [5] * 7 + [2])
    decode(engine, [stream], 6)
    same_output(stream, expected)


def test_mixed_parameters_in_one_step(engine: JaxEngine) -> None:
    """Greedy, sampled and penalised rows run in different executables and come back in the plan's order."""
    params = [
        SamplingParams(),
        SamplingParams(temperature=0.8, top_k=20),
        SamplingParams(repetition_penalty=1.5, logprobs=2),
        SamplingParams(temperature=1.0, frequency_penalty=1.0),
    ]
    streams = [Stream(PROMPT[i : i + 12], range(8 * i, 8 * i + 8), slot=i, seed=i) for i in range(4)]
    for stream in streams:
        prefill(engine, stream, [12])
    samples = tuple(stream.sample(one) for stream, one in zip(streams, params, strict=True))
    together = engine.execute(StepPlan(0, (), samples)).tokens
    alone = [engine.execute(StepPlan(0, (), (sample,))).tokens[0] for sample in samples]
    assert [token.token_id for token in together] == [token.token_id for token in alone]
    assert [len(token.top) for token in together] == [0, 0, 2, 0]


@contextmanager
def count_compilations() -> Iterator[list[str]]:
    """Names of everything that JAX traces or compiles meanwhile."""
    seen: list[str] = []

    def listen(event: str, _duration_s: float, **_: object) -> None:
        if "compile" in event or "trace" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_is_compiled_in_traffic(engine: JaxEngine) -> None:
    rng = np.random.default_rng(5)
    choices = [
        SamplingParams(),
        SAMPLED,
        SamplingParams(temperature=1.0, top_k=3, seed=4),
        SamplingParams(presence_penalty=0.5),
        SamplingParams(temperature=0.7, repetition_penalty=1.2, logprobs=0),
    ]
    with count_compilations() as compiled:
        for step in range(60):
            chunks, samples, room = [], [], 16
            for slot in range(rng.integers(1, 5)):
                length = int(rng.integers(1, min(room, 12) - 3 + slot))
                room -= length
                stream = Stream(rng.integers(0, 256, 36).tolist(), rng.permutation(40)[:9], slot, seed=step)
                stream.computed = int(rng.integers(0, 36 - length))
                chunks.append(stream.chunk(length))
                if rng.random() < 0.7:
                    samples.append(stream.sample(choices[rng.integers(len(choices))]))
            chunks.sort(key=lambda chunk: len(chunk.tokens) > 1)
            engine.execute(StepPlan(step, tuple(chunks), tuple(samples)))
    assert compiled == []
    with count_compilations() as compiled:
        jax.jit(lambda x: x + step)(1.0)
    assert compiled  # the count itself works


def test_pages_are_updated_in_place(engine: JaxEngine) -> None:
    addresses = [pages.unsafe_buffer_pointer() for pages in jax.tree.leaves(engine._state.pages)]
    whole(engine, PROMPT)
    assert [pages.unsafe_buffer_pointer() for pages in jax.tree.leaves(engine._state.pages)] == addresses


@pytest.mark.parametrize("name", ["layers-1", "layers-4"])
def test_scratch_memory_is_smaller_than_one_page_array(tiny: LoadedModel, config: EngineConfig, name: str) -> None:
    """So no step copies one."""
    engine = JaxEngine(tiny.build(), tiny.config, replace(config, num_blocks=4000))
    memory = engine._lowering().all()[name]().compile().memory_analysis()
    one_layer_bytes = engine._state.pages[0][0].nbytes
    assert memory.temp_size_in_bytes < one_layer_bytes / 4
    assert memory.alias_size_in_bytes >= 2 * one_layer_bytes
    engine.close()


@pytest.mark.parametrize("name", ["embed-1", "layers-1", "finish-1", "sample-full-1"])
def test_weights_are_arguments_not_constants(engine: JaxEngine, name: str) -> None:
    smallest_matrix_bytes = min(leaf.nbytes for leaf in engine._state.code.groups[0] if leaf.ndim > 1)
    longest_literal = max(
        len(literal) for literal in re.findall(r"dense<([^>]*)>", engine._lowering().all()[name]().as_text())
    )
    assert longest_literal < smallest_matrix_bytes / 8


def test_layers_of_several_kinds_are_refused(tiny: LoadedModel, config: EngineConfig) -> None:
    model = tiny.build()
    model.layers[1].input_norm.eps = 1e-3
    with pytest.raises(InvalidArgument, match="differ"):
        JaxEngine(model, tiny.config, config)


def test_execute_before_warmup_is_refused(tiny: LoadedModel, config: EngineConfig) -> None:
    engine = JaxEngine(tiny.build(), tiny.config, config)
    with pytest.raises(FailedPrecondition, match="warmup"):
        prefill(engine, Stream(PROMPT, range(12)), [5])


def test_a_model_shorter_than_the_limit_is_refused(tiny: LoadedModel, config: EngineConfig) -> None:
    with pytest.raises(InvalidArgument, match="max_model_len is 9999"):
        JaxEngine(tiny.build(), tiny.config, replace(config, max_model_len=9999))


def test_a_second_thread_is_refused(engine: JaxEngine) -> None:
    prefill(engine, Stream(PROMPT, range(12)), [5])
    errors: list[Exception] = []

    def intrude() -> None:
        for call in (lambda: prefill(engine, Stream(PROMPT, range(12)), [5]), engine.close):
            try:
                call()
            except FailedPrecondition as error:
                errors.append(error)

    thread = threading.Thread(target=intrude, name="intruder")
    thread.start()
    thread.join()
    assert len(errors) == 2
    assert all("intruder" in str(error) for error in errors)
    prefill(engine, Stream(PROMPT, range(12)), [5])


def test_a_plan_beyond_the_budget_is_refused_and_hurts_nobody(engine: JaxEngine) -> None:
    stream = Stream(PROMPT, range(12))
    prefill(engine, stream, [16, 16])
    with pytest.raises(InternalError, match="budget"):
        prefill(engine, Stream(PROMPT, range(20, 32), slot=1), [17])
    prefill(engine, stream, [5])
    decode(engine, [stream], 6)
    same_output(stream, whole(engine, PROMPT))


def test_a_row_of_nan_fails_alone(engine: JaxEngine) -> None:
    streams = [Stream(PROMPT, range(12 * i, 12 * i + 12), slot=i) for i in range(2)]
    for stream in streams:
        prefill(engine, stream, [16])
    engine._state.last_hidden = engine._state.last_hidden.at[0].set(jnp.nan)
    result = engine.execute(StepPlan(0, (), tuple(stream.sample() for stream in streams)))
    assert result.tokens[0].token_id == -1
    assert result.tokens[1].token_id >= 0


def test_an_engine_that_lost_its_pool_says_so_and_goes_on(tiny: LoadedModel, config: EngineConfig) -> None:
    engine = JaxEngine(tiny.build(), tiny.config, config)
    engine.warmup()
    expected = whole(engine, PROMPT)
    engine._state.pages[0][1].delete()
    with pytest.raises(KVLost, match="all sessions"):
        prefill(engine, Stream(PROMPT, range(12)), [5])
    same_output(whole(engine, PROMPT), expected)
    engine.close()
    with pytest.raises(FailedPrecondition):
        whole(engine, PROMPT)


def test_bfloat16_agrees_with_float32_to_its_precision(engine: JaxEngine, config: EngineConfig) -> None:
    model = registry.load("tiny-random", dtype="bfloat16")
    sizes = replace(config, dtype="bfloat16", token_budget=1, max_batch=1)
    narrow = JaxEngine(model.build(), model.config, sizes)
    narrow.warmup()
    assert all(pages.dtype == jnp.bfloat16 for pages in jax.tree.leaves(narrow._state.pages))
    stream = Stream(PROMPT[:8], range(12))
    prefill(narrow, stream, [1] * 8)
    decode(narrow, [stream], 1)
    wide = whole(engine, PROMPT[:8], 1)
    (got,), (expected,) = stream.sampled, wide.sampled
    assert got.token_id == expected.token_id
    np.testing.assert_allclose([v for _, v in got.top], [v for _, v in expected.top], atol=0.25)
    narrow.close()
