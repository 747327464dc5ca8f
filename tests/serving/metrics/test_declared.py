"""What is declared keeps the rules of Prometheus, and the names that others rely on."""

import pytest

from s2l_jax.core.errors import InvalidArgument
from serving.metrics.declared import METRICS
from serving.metrics.metric import Metric

JETSTREAM = {
    "jetstream_prefill_backlog_size",
    "jetstream_transfer_backlog_size",
    "jetstream_generate_backlog_size",
    "jetstream_queue_duration",
    "jetstream_slots_used_percentage",
    "jetstream_model_load_time",
    "jetstream_server_startup_latency",
    "jetstream_request_input_length",
    "jetstream_request_output_length",
    "jetstream_request_success_count_total",
    "jetstream_time_to_first_token",
    "jetstream_time_per_output_token",
    "jetstream_time_per_prefill_token",
    "jetstream_time_per_request",
    "jetstream_wait_time_per_request",
    "num_requests_waiting",
    "kv_cache_utilization_perc",
}
VLLM = {
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "cache_config_info",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "request_success_total",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_inference_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_params_max_tokens",
    "iteration_tokens_total",
}


def test_no_name_is_declared_twice_and_all_words_are_there() -> None:
    names = [name for metric in METRICS for name in metric.names]
    vllm = [metric.vllm for metric in METRICS if metric.vllm]
    assert len(set(names)) == len(names)
    assert set(names) >= JETSTREAM
    assert sorted(vllm) == sorted(f"vllm:{name}" for name in VLLM)
    assert all(name.startswith(("s2l_", "jetstream_")) or name in JETSTREAM for name in names)


def test_where_vllm_has_a_name_ours_is_that_name_under_our_prefix() -> None:
    for metric in METRICS:
        if metric.vllm and metric.vllm != "vllm:iteration_tokens_total":  # a histogram's name must not end so
            assert metric.name == metric.vllm.replace("vllm:", "s2l_")


@pytest.mark.parametrize(
    ("metric", "hint"),
    [
        (("s2l_Things_total", "counter", "Things."), "no name"),
        (("s2l_things", "counter", "Things."), "_total"),
        (("s2l_things_total", "gauge", "Things."), "_total"),
        (("s2l_things", "gauge", "Things"), "sentence"),
        (("s2l_things", "histogram", "Things."), "buckets"),
        (("s2l_things", "info", "Things."), "_info"),
        (("s2l_things", "histogram", "Things.", (), (2.0, 1.0)), "rising"),
    ],
)
def test_bad_declarations_are_refused(metric: tuple[object, ...], hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        Metric(*metric)  # type: ignore[arg-type]
