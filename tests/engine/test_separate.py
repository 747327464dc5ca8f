"""Engines that compute contexts and engines that generate, on devices of their own: real pages move between them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cpu_devices import with_cpu_devices

SEPARATE = ("2 + 2 devices", "1 + 2 devices", "2 + 2 engines")


@pytest.fixture(scope="module")
def results(cache_dir: Path) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.engine.separate_deployments", str(cache_dir)]
    done = subprocess.run(command, env=with_cpu_devices(4), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return loaded


def test_all_deployments_say_the_same(results: dict[str, dict[str, Any]]) -> None:
    alone = results["alone"]["tokens"]
    assert len({tuple(tokens) for tokens in alone}) == len(alone) == 10
    assert {len(tokens) for tokens in alone} == {10}
    for name, result in results.items():
        assert result["errors"] == [], name
        assert result["tokens"] == alone, name
        assert result["held_blocks"] == 0, name


def test_sessions_moved_and_memory_was_short_on_both_sides(results: dict[str, dict[str, Any]]) -> None:
    for name in SEPARATE:
        counters = results[name]["counters"]
        assert (counters["handoffs"], counters["handoff_failures"], counters["sessions_resumed"]) == (10, 0, 0), name
        assert counters["handoff_blocks"] > 10, name
    for name in ("2 + 2 devices", "1 + 2 devices"):
        assert all(results[name]["evictions"]), name


def test_sessions_of_a_dead_engine_went_on(results: dict[str, dict[str, Any]]) -> None:
    for index in (0, 3):
        result = results[f"engine {index} dies"]
        assert result["failed"] == 1
        assert result["counters"]["sessions_resumed"] > 0
        assert result["counters"]["sessions_completed"] == 10
