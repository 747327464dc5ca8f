"""What a scraper sees of a running server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from s2l_jax.core.params import SamplingParams
from s2l_jax.models.tokenizer import ByteTokenizer
from serving.http.server import HttpConfig, HttpServer
from serving.metrics.declared import METRICS
from serving.metrics.readings import ServerFacts
from serving.watch.observation import Observation, observe
from tests.orchestrator.harness import Gate, Recorder
from tests.serving.harness import TIMEOUT_S, Sizes, World, eventually, run, world

FACTS = ServerFacts("fake-1b", "1.2.3", "fcfs", 4, 512, 0, 64, 1.5, 2.5)


@asynccontextmanager
async def watched_world(
    sizes: Sizes | None = None, *, vllm: bool = False
) -> AsyncIterator[tuple[World, Observation, httpx2.AsyncClient]]:
    """A server that is watched, and a client of its HTTP port."""
    async with world(sizes) as w:
        observation = observe(w.orchestrator, FACTS, vllm_metrics=vllm)
        server = HttpServer(w.orchestrator, w.server._model, ByteTokenizer(), None, HttpConfig(port=0), observation)
        port = await server.start()
        try:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
                yield w, observation, client
        finally:
            await server.stop()


async def scrape(client: httpx2.AsyncClient) -> dict[str, float]:
    """All samples by name, with the labels that are not the server's."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, float] = {}
    for family in parse_text(answer.text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "id")}
            key = sample.name + "".join(f",{k}={v}" for k, v in sorted(labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_counts_a_stream_and_a_plain_request() -> None:
    async def scenario() -> None:
        async with watched_world() as (w, _, client):
            stream, plain = Recorder(), Recorder()
            params = SamplingParams(max_tokens=3)
            w.orchestrator.open(sink=stream, session_id="s", content="abcd", params=params)
            await eventually(lambda: w.orchestrator.stats().scheduler.sessions == {"waiting_context": 1})
            w.orchestrator.append("s", "efgh")
            w.orchestrator.update("s", "xy", keep_chars=6)
            w.orchestrator.finish("s")
            w.orchestrator.open(sink=plain, content="klmnop", params=params, final=True)
            await eventually(lambda: stream.ended.is_set() and plain.ended.is_set())
            seen = await scrape(client)
            for op, number in {"open": 2, "append": 1, "update": 1, "finish": 1}.items():
                assert seen[f"s2l_stream_chunks_total,op={op}"] == number
            assert seen["s2l_lcp_tokens_kept_total"] == 6
            assert seen["s2l_generation_tokens_total"] == 6
            assert seen["s2l_prompt_tokens_total"] == 8 + 6
            assert seen["s2l_request_success_total,finished_reason=length"] == 2
            assert seen["s2l_request_success_total,finished_reason=abort"] == 0
            assert seen["jetstream_request_success_count_total"] == 2
            for name in ("s2l_ttft_from_last_chunk_seconds", "s2l_ttft_from_open_seconds", "jetstream_queue_duration"):
                assert seen[f"{name}_count"] == 2
            assert seen["s2l_inter_token_latency_seconds_count"] == 4
            assert seen["s2l_context_arrival_seconds_count"] == 1
            assert seen["s2l_prefill_tokens_total,pass=first"] >= 14
            assert seen["s2l_sessions_opened_total"] == 2
            assert seen["jetstream_model_load_time"] == 1.5
            assert seen["s2l_device_pool_blocks,state=held"] == 0
            assert not any(name.startswith("vllm:") for name in seen)

    run(scenario)


def test_gauges_are_true_at_the_moment_of_the_scrape() -> None:
    async def scenario() -> None:
        gate = Gate()
        async with watched_world(Sizes(hook=gate)) as (w, observation, client):
            sinks = [Recorder() for _ in range(3)]
            w.orchestrator.open(sink=sinks[0], session_id="running", content="abcdefgh", final=True)
            await eventually(gate.entered.is_set)
            w.orchestrator.open(sink=sinks[1], session_id="arriving", content="abcd")
            w.orchestrator.open(sink=sinks[2], session_id="waiting", content="abcd", final=True)
            seen = await scrape(client)
            # The engine is in the step of the first session, and has not come to say so.
            assert seen["s2l_sessions,phase=arriving"] == 1
            assert seen["num_requests_waiting"] == seen["jetstream_prefill_backlog_size"] == 2
            assert seen["kv_cache_utilization_perc"] == 2 / 512
            w.orchestrator.cancel("waiting")
            w.orchestrator.cancel("arriving")
            assert (await scrape(client))["num_requests_waiting"] == 1
            gate.opened.set()
            await eventually(sinks[0].ended.is_set)
            seen = await scrape(client)
            assert all(seen[f"s2l_sessions,phase={p}"] == 0 for p in ("arriving", "waiting", "prefilling", "decoding"))
            assert seen["s2l_num_requests_running"] == seen["s2l_num_requests_waiting"] == 0
            assert seen["s2l_request_success_total,finished_reason=abort"] == 2
            assert not observation.book.open

    run(scenario)


def test_refusals_and_failures_are_counted_by_status() -> None:
    async def scenario() -> None:
        async with watched_world(Sizes(max_sessions=1, idle_timeout_s=0.2)) as (w, _, client):
            sink = Recorder()
            w.orchestrator.open(sink=sink, session_id="s", content="ab")
            answer = await client.post("/v1/sessions", json={"session_id": "s"})
            assert answer.status_code == 429
            await eventually(sink.ended.is_set)
            answer = await client.post("/v1/completions", json={"prompt": "a" * 300, "max_tokens": 4})
            assert answer.status_code == 400
            seen = await scrape(client)
            assert seen["s2l_sessions_refused_total"] == 1
            assert seen["s2l_session_errors_total,status=DEADLINE_EXCEEDED"] == 1
            assert seen["s2l_session_errors_total,status=INVALID_ARGUMENT"] == 1
            assert seen["s2l_request_success_total,finished_reason=error"] == 1

    run(scenario)


def test_every_declared_metric_is_exported_in_both_formats_under_all_its_names() -> None:
    async def scenario() -> None:
        async with watched_world(vllm=True) as (w, _, client):
            sink = Recorder()
            w.orchestrator.open(sink=sink, content="abc", final=True)
            await eventually(sink.ended.is_set)
            text = (await client.get("/metrics")).text
            accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
            answer = await client.get("/metrics", headers=accept)
            assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        declared = [(name, metric) for metric in METRICS for name in (*metric.names, metric.vllm) if name]
        for families in (parse_text(text), parse_openmetrics(answer.text)):
            found = {family.name: family for family in families}
            for name, metric in declared:
                base = name if name in found else name.removesuffix("_total").removesuffix("_info")
                family = found[base]
                assert family.documentation == metric.help
                assert metric.kind in (family.type, "info")
                labels = {"id"} if not name.startswith(("s2l_", "vllm:")) else set()
                for sample in family.samples:
                    assert set(sample.labels) - {"le"} >= labels | {"model_name"} | set(metric.labels)
                    assert sample.labels["model_name"] == "fake-1b"
            assert "process_cpu_seconds" in found

    run(scenario)
