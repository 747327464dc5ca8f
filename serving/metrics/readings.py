"""What is read off the orchestrator at the moment of a scrape, so that it can never be stale."""

from collections.abc import Sequence
from dataclasses import dataclass

from s2l_jax.orchestrator.counters import OrchestratorStats
from serving.watch.book import Counts
from serving.watch.record import Phase

type Sample = tuple[str, dict[str, str], float]
"""Suffix of the name, labels, value."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What does not change while a server runs.

    Attributes:
      model: name of the served model.
      version: of the server.
      policy: who goes first when not all can.
      block_size: tokens a KV block holds.
      num_blocks: KV blocks of the device.
      host_blocks: KV blocks of the host.
      max_batch: sessions that one step may serve.
      load_s: what loading the model took.
      startup_s: from the start of the command to readiness.
    """

    model: str
    version: str = ""
    policy: str = ""
    block_size: int = 0
    num_blocks: int = 0
    host_blocks: int = 0
    max_batch: int = 1
    load_s: float = 0.0
    startup_s: float = 0.0


def read(stats: OrchestratorStats, counts: Counts, facts: ServerFacts) -> dict[str, list[Sample]]:
    """Samples of all metrics that are not observed as they happen, by the names they are declared under."""
    return _sessions(stats, counts) | _engines(stats, facts) | _memory(stats, facts) | _server(facts)


def _sessions(stats: OrchestratorStats, counts: Counts) -> dict[str, list[Sample]]:
    counters, waiting = stats.counters, counts.phases[Phase.WAITING]
    return {
        "s2l_sessions": [("", {"phase": phase.value}, number) for phase, number in counts.phases.items()],
        "s2l_num_requests_waiting": _one(waiting),
        "s2l_num_requests_running": _one(counts.complete - waiting),
        "s2l_sessions_opened_total": _total(counters.sessions_opened),
        "s2l_sessions_refused_total": _total(counters.sessions_refused),
        "s2l_generation_tokens_total": _total(counters.tokens_output),
        "s2l_sessions_resumed_total": _total(counters.sessions_resumed),
    }


def _engines(stats: OrchestratorStats, facts: ServerFacts) -> dict[str, list[Sample]]:
    counters, engines = stats.counters, list(enumerate(stats.engines))
    decoding = [(index, engine.scheduler.sessions.get("decoding", 0)) for index, engine in engines]
    transfers = [(index, engine.handoffs_waiting) for index, engine in engines]
    return {
        "jetstream_transfer_backlog_size": _by_index(transfers),
        "jetstream_generate_backlog_size": _by_index([(i, max(0, n - facts.max_batch)) for i, n in decoding]),
        "jetstream_slots_used_percentage": _by_index([(i, min(1.0, n / facts.max_batch)) for i, n in decoding]),
        "s2l_engine_up": [
            ("", {"engine": str(index), "role": engine.role}, engine.failure is None) for index, engine in engines
        ],
        "s2l_step_failures_total": _total(counters.step_failures),
        "s2l_handoffs_total": _total(counters.handoffs),
        "s2l_handoff_blocks_total": _total(counters.handoff_blocks),
        "s2l_ahead_blocks_total": _total(counters.ahead_blocks),
        "s2l_handoff_failures_total": _total(counters.handoff_failures),
    }


def _memory(stats: OrchestratorStats, facts: ServerFacts) -> dict[str, list[Sample]]:
    scheduler, host, done = stats.scheduler, stats.scheduler.host, stats.scheduler.preemptions
    device = {"free": scheduler.free_blocks, "cached": scheduler.cached_blocks, "held": scheduler.held_blocks}
    copies = {
        "save": done.saved_blocks,
        "backup": done.backup_blocks,
        "load": done.loaded_blocks,
        "copy": done.copied_blocks,
    }
    actions = {"swap": done.swap, "recompute": done.recompute, "drop": done.drop}
    sizes = {
        "block_size": str(facts.block_size),
        "num_gpu_blocks": str(facts.num_blocks),
        "num_cpu_blocks": str(facts.host_blocks),
    }
    return {
        "s2l_kv_cache_usage_perc": _one(scheduler.held_blocks / max(1, scheduler.total_blocks)),
        "s2l_device_pool_blocks": [("", {"state": state}, number) for state, number in device.items()],
        "s2l_host_pool_blocks": [
            ("", {"state": state}, number)
            for state, number in (("free", host.free), ("backups", host.backups), ("swapped", host.swapped))
        ],
        "s2l_block_copies_total": [("_total", {"direction": way}, number) for way, number in copies.items()],
        "s2l_preemptions_total": [("_total", {"action": action}, number) for action, number in actions.items()],
        "s2l_num_preemptions_total": _total(sum(actions.values())),
        "s2l_cache_config_info": [("_info", sizes, 1)],
    }


def _server(facts: ServerFacts) -> dict[str, list[Sample]]:
    return {
        "s2l_build_info": [("_info", {"version": facts.version, "policy": facts.policy}, 1)],
        "s2l_model_load_seconds": _one(facts.load_s),
        "s2l_startup_seconds": _one(facts.startup_s),
    }


def _one(value: float) -> list[Sample]:
    return [("", {}, value)]


def _total(value: float) -> list[Sample]:
    return [("_total", {}, value)]


def _by_index(values: Sequence[tuple[int, float]]) -> list[Sample]:
    return [("", {"idx": str(index)}, value) for index, value in values]
