"""Lines that machines read, with the session they are about, written without holding anybody up."""

import io
import json
import logging
import threading
from typing import Any

from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import SinkEvent
from serving.logs.logs import logging_to
from serving.logs.sessions import log_end
from serving.metrics.readings import ServerFacts
from serving.watch.observation import observe
from tests.orchestrator.harness import Recorder, wait_until, world


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_lines_about_sessions_name_session_and_tenant() -> None:
    stream = io.StringIO()
    with logging_to("json", "info", stream) as logs, world() as w:
        logs.book = observe(w.orchestrator, ServerFacts("m"), on_end=(log_end,)).book
        good, cancelled = Recorder(), Recorder()
        w.orchestrator.open(
            sink=good, session_id="a", content="abc", tenant="acme", params=SamplingParams(max_tokens=3)
        )
        w.orchestrator.open(sink=cancelled, session_id="b", content="abc")

        def raises(event: SinkEvent) -> None:
            raise ValueError("cannot")

        w.orchestrator.open(sink=raises, session_id="c", content="abc", tenant="umbra", final=True)
        wait_until(
            lambda: "c" not in w.orchestrator.stats().scheduler.sessions and w.orchestrator.stats().sessions_open == 2
        )
        w.orchestrator.finish("a")
        assert good.done
        w.orchestrator.cancel("b")
    lines = {(line["logger"], line.get("session")): line for line in _lines(stream)}
    done = lines["serving.logs.sessions", "a"]
    assert (done["level"], done["tenant"], done["reason"]) == ("INFO", "acme", "length")
    assert (done["context_tokens"], done["output_tokens"], done["chunks"]) == (3, 3, 2)
    assert 0 <= done["ttft_final_s"] <= done["ttft_open_s"] <= done["duration_s"]
    assert done["ts"].endswith("+00:00")
    assert "tenant" not in lines["serving.logs.sessions", "b"]
    assert lines["serving.logs.sessions", "b"]["reason"] == "cancelled"
    failure = lines["s2l_jax.orchestrator.orchestrator", "c"]
    assert (failure["level"], failure["tenant"]) == ("ERROR", "umbra")
    assert "ValueError: cannot" in failure["exception"]
    assert lines["serving.logs.sessions", "c"]["reason"] == "INTERNAL"
    assert lines["serving.logs.sessions", "c"]["level"] == "WARNING"


def test_text_lines_and_levels() -> None:
    stream = io.StringIO()
    with logging_to("text", "warning", stream):
        logging.getLogger("serving.x").info("not this")
        logging.getLogger("serving.x").warning("but this, session %s", "s")
        logging.getLogger("elsewhere").warning("and this")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("WARNING serving.x: but this, session s")
    assert second.endswith("WARNING elsewhere: and this")
    logging.getLogger("serving.x").error("nobody listens")
    assert "nobody" not in stream.getvalue()


class Stuck(io.StringIO):
    """A stream that nobody reads for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.opened.wait(20)
        return super().write(text)


def test_a_stream_that_nobody_reads_holds_nobody_up_and_costs_bounded_memory() -> None:
    stream, log = Stuck(), logging.getLogger("serving.x")
    with logging_to("json", "info", stream):
        log.info("first")
        assert stream.entered.wait(20)
        for index in range(10_100):
            log.info("line %d", index)
        stream.opened.set()
        wait_until(lambda: "line 9999" in stream.getvalue())
        log.info("last")
    messages = [line["message"] for line in _lines(stream)]
    assert messages[-2:] == ["100 log lines were dropped, since nobody read them", "last"]
    assert len(messages) == 10_003
