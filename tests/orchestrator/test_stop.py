"""Stop strings in pieces."""

from hypothesis import given
from hypothesis import strategies as st

from s2l_jax.orchestrator.stop import StopFilter

TEXT = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=3)


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition, without cleverness."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(TEXT, STOPS, st.data())
def test_streamed_text_is_the_whole_text_cut_at_the_first_stop(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    stop_filter = StopFilter(stops)
    shown, is_stopped, start = "", False, 0
    while start < len(text) and not is_stopped:
        end = data.draw(st.integers(start + 1, len(text)))
        piece, is_stopped = stop_filter.push(text[start:end])
        shown += piece
        start = end
    if not is_stopped:
        shown += stop_filter.flush()
    assert (shown, is_stopped) == cut_at_first_stop(text, stops)


@given(TEXT, STOPS)
def test_only_a_possible_beginning_is_held_back(text: str, stops: list[str]) -> None:
    stop_filter = StopFilter(stops)
    shown, is_stopped = stop_filter.push(text)
    if not is_stopped:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)
        assert stop_filter.flush() == held
