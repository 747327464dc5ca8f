"""Masks travel with the steps to engines in other processes."""

from tests.orchestrator.test_constraints import KINDS, expected
from tests.orchestrator.test_separate import LONG
from tests.serving.remote_harness import remote_world


def test_constrained_outputs_are_the_same_over_a_network() -> None:
    with remote_world("prefill", ["generate"]) as (w, _):
        plain = w.ask("plain", params=LONG)
        sinks = [w.ask(f"<{i}>", params=params) for i, params in enumerate(KINDS)]
        for i, (params, sink) in enumerate(zip(KINDS, sinks, strict=True)):
            assert sink.ids == expected(f"<{i}>", params), params
        assert plain.ids == w.expected("plain", 30)
        assert w.engines[1].steps > 20
        w.check_empty()
