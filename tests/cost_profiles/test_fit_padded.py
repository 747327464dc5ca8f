import numpy as np
import pytest

from cost_profiles.fit_padded import fit_padded
from cost_profiles.work import Work
from s2l_jax.core.errors import InvalidArgument
from tests.cost_profiles.test_padding import COSTS, PADDING

WORKS = [
    Work(((2, 0),)),
    Work(((16, 0),)),
    Work(((16, 500),)),
    Work(((40, 100),)),
    Work(((40, 600),), samples=1),
    Work(((8, 64),) * 5),
    *(Work(decodes=(context,) * batch, samples=batch) for batch in (1, 3, 8) for context in (10, 400)),
    Work(decodes=(10, 10, 400), samples=3),
    Work(samples=1),
    Work(samples=8),
]


def test_exact_points_give_back_the_costs():
    fitted = fit_padded(WORKS, [COSTS.step(work) for work in WORKS], PADDING)
    assert fitted.dense_s == pytest.approx(COSTS.dense_s, rel=1e-6)
    for name in ("chunk_kv_s", "chunk_pair_s", "decode_kv_s", "decode_context_s", "sample_s", "sample_row_s"):
        assert getattr(fitted, name) == pytest.approx(getattr(COSTS, name), rel=1e-6), name


def test_noise_gives_no_negative_term_and_no_cheaper_larger_bucket():
    rng = np.random.default_rng(0)
    for _ in range(20):
        fitted = fit_padded(WORKS, rng.uniform(0.1, 1.0, len(WORKS)).tolist(), PADDING)
        assert list(fitted.dense_s) == sorted(fitted.dense_s)


def test_a_bucket_without_a_point_lies_between_its_neighbours():
    works = [work for work in WORKS if PADDING.padded(work).tokens != 16]
    fitted = fit_padded(works, [COSTS.step(work) for work in works], PADDING)
    one, four, sixteen, largest = fitted.dense_s
    assert (one, four, largest) == pytest.approx((0.1, 0.2, 1.0), rel=1e-6)
    assert sixteen == pytest.approx(0.2 + 0.8 * 12 / 60)


def test_without_steps_there_is_nothing_to_fit():
    with pytest.raises(InvalidArgument, match="no step"):
        fit_padded([Work(samples=1)], [1.0], PADDING)
