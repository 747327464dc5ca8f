"""What plans rely on: views never change, and a ring gives out what was put in, in order."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_jax.core.tokens import Int32Buffer, Int32Ring

CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.integers(0, 200)),
        st.tuples(st.just("push"), st.just(1)),
        st.tuples(st.just("truncate"), st.integers(0, 200)),
    ),
    max_size=30,
)


@given(CHANGES)
def test_a_view_never_changes(changes: list[tuple[str, int]]) -> None:
    buffer, values, new = Int32Buffer(), [], 0
    views: list[tuple[np.ndarray, list[int]]] = []
    for kind, count in changes:
        if kind == "truncate":
            assert buffer.truncate(count).tolist() == values[count:]
            del values[count:]
        else:
            added = list(range(new, new + count))
            new += count
            values += added
            if kind == "push":
                buffer.push(added[0])
            else:
                buffer.extend(added)
        assert (len(buffer), buffer.view.tolist()) == (len(values), values)
        views.append((buffer.view, [*values]))
    for view, seen in views:
        assert view.tolist() == seen


@given(st.integers(1, 20), st.lists(st.integers(-20, 20), max_size=40))
def test_a_ring_is_a_queue(size: int, moves: list[int]) -> None:
    ring, queue = Int32Ring(np.arange(size, dtype=np.int32)), deque(range(size))
    out: list[int] = []
    for move in moves:
        if move < 0:
            taken = ring.pop(min(-move, len(queue))).tolist()
            assert taken == [queue.popleft() for _ in taken]
            out += taken
        else:
            back, out = out[:move], out[move:]
            ring.push(back)
            queue.extend(back)
        assert (len(ring), ring.values()) == (len(queue), [*queue])


def test_a_ring_refuses_more_than_it_has_or_holds() -> None:
    ring = Int32Ring(np.arange(3, dtype=np.int32))
    with pytest.raises(RuntimeError, match="4 values wanted, 3 are there"):
        ring.pop(4)
    with pytest.raises(RuntimeError, match="1 values more than the 3 of 3"):
        ring.push([1])
