import pytest

from cost_profiles.work import Work, fits
from s2l_jax.core.costs import StepShape
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.engine.config import EngineConfig

CONFIG = EngineConfig(num_blocks=12, block_size=16, token_budget=64, max_batch=4, max_sessions=4, max_model_len=128)
MIXED = Work(((10, 20), (7, 0)), (30, 3), 3)


def test_a_plan_does_the_work_it_was_made_for():
    plan = MIXED.plan(CONFIG)
    assert Work.of(plan) == MIXED
    assert plan.shape == MIXED.shape == StepShape(17, 10 * 25 + 7 * 3.5, 2, 33)
    assert plan.tokens == MIXED.tokens == 19
    assert [len(chunk.tokens) for chunk in plan.chunks] == [1, 1, 10, 7]  # decodes come first, as an engine wants them
    assert [sample.slot for sample in plan.samples] == [0, 1, 2]
    for chunk in plan.chunks:
        assert len(chunk.block_table) * 16 >= chunk.end
        assert set(chunk.block_table.tolist()) <= set(range(12))


def test_sampling_alone_runs_nothing():
    plan = Work(samples=2).plan(CONFIG)
    assert (plan.chunks, len(plan.samples)) == ((), 2)


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (Work(((65, 0),)), "65 tokens"),
        (Work(decodes=(1,) * 5), "5 sessions"),
        (Work(samples=5), "5 sessions"),
        (Work(((2, 127),)), "129 tokens of one session"),
        (Work(decodes=(128,)), "129 tokens of one session"),
    ],
)
def test_what_an_engine_is_too_small_for_is_refused(work, what):
    assert not fits(work, CONFIG)
    with pytest.raises(InvalidArgument, match=what):
        work.plan(CONFIG)


@pytest.mark.parametrize("broken", [{"chunks": ((1, 0),)}, {"decodes": (-1,)}, {"samples": -1}])
def test_work_that_cannot_be_is_refused(broken):
    with pytest.raises(InvalidArgument):
        Work(**broken)


def test_kinds():
    assert [Work(((2, 0),)).kind, Work(decodes=(1,)).kind, MIXED.kind, Work(samples=1).kind] == [
        "prefill",
        "decode",
        "mixed",
        "sample",
    ]
