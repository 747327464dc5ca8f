import numpy as np
import pytest

from workloads.content import joined, named
from workloads.replay.schedule import plan_sessions
from workloads.trace import Event, Session


def test_a_name_means_the_same_text_at_any_length():
    longest = named("page 1", 5000, 8192)
    for count in (0, 1, 63, 64, 65, 1000, 4096, 4097):
        np.testing.assert_array_equal(named("page 1", count, 8192), longest[:count])
    assert not np.array_equal(named("page 2", 64, 8192), longest[:64])


@pytest.mark.parametrize("vocab_size", [1, 2, 64, 258, 100_000])
def test_tokens_are_in_the_vocabulary(vocab_size):
    tokens = named("x", 300, vocab_size)
    assert tokens.dtype == np.int32
    assert 0 <= tokens.min() <= tokens.max() < vocab_size


def test_sessions_share_what_has_the_same_name():
    first = joined([("template", 10), ("page 1", 90)], 8192)
    second = joined([("template", 10), ("page 1", 90), ("page 2", 5)], 8192)
    np.testing.assert_array_equal(second[:100], first)
    assert len(joined([], 8192)) == 0


def test_an_update_by_parts_replaces_the_context():
    events = (
        Event(0.0, "a", "open", parts=(("template", 3),), max_tokens=1),
        Event(1.0, "a", "update", parts=(("template", 3), ("page 1", 4))),
        Event(2.0, "a", "update", parts=(("template", 3), ("page 2", 5))),
        Event(2.0, "a", "finish"),
    )
    (streamed,) = plan_sessions([Session("a", events)], "stream", None, 0, 8192)
    (waited,) = plan_sessions([Session("a", events)], "wait", None, 0, 8192)
    assert [piece.size for _, piece in streamed.pieces] == [3, 7, 8]
    np.testing.assert_array_equal(waited.pieces[0][1].content, streamed.pieces[-1][1].content)
