"""Prometheus' own linter, on what a server that has done something exports."""

import shutil
import subprocess

import pytest

from s2l_jax.core.params import SamplingParams
from tests.orchestrator.harness import Recorder
from tests.serving.harness import eventually, run
from tests.serving.metrics.test_scrape import watched_world

PROMTOOL = shutil.which("promtool")

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: Debian has it in the package prometheus")


def test_promtool_finds_nothing() -> None:
    async def scenario() -> None:
        async with watched_world() as (w, _, client):
            recorder = Recorder()
            w.orchestrator.open(sink=recorder, session_id="s", content="abcd", params=SamplingParams(max_tokens=3))
            w.orchestrator.update("s", "abef", final=True)
            await eventually(lambda: w.orchestrator.stats().counters.sessions_completed == 1)
            text = (await client.get("/metrics")).text
        assert "s2l_stream_chunks_total{" in text, "there is something to look at"
        found = subprocess.run(
            [str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=30
        )
        assert (found.returncode, found.stdout + found.stderr) == (0, "")

    run(scenario)
