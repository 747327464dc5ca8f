"""Every metric of a server, declared once.

Where vLLM has a name for the same thing, ours is `s2l_` and that name, as other servers put their own prefix before it;
JetStream's names are kept as they are. *A request is there when its context is complete*: that is when the clock of
`s2l_time_to_first_token_seconds` and of all `s2l_request_...` starts. For plain requests that is their arrival, and for
streams it leaves out the time in which context was still arriving; `s2l_ttft_from_open_seconds` has it in.

Bounds of buckets include those of vLLM and JetStream, so that what reads single buckets goes on working.
"""

from serving.metrics.metric import Metric

_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
                  40.0, 80.0, 160.0, 640.0, 2560.0)  # fmt: skip
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
            10.0, 20.0, 40.0, 80.0)  # fmt: skip
_REQUEST_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0,
              60.0, 100.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)  # fmt: skip
_PREFILL_TOKEN_S = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_STEP_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LENGTH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000,
           2000000)  # fmt: skip
_STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

_REQUESTS = (
    Metric(
        "s2l_time_to_first_token_seconds",
        "histogram",
        "From the completion of a request's context to its first token.",
        buckets=_FIRST_TOKEN_S,
        vllm="vllm:time_to_first_token_seconds",
        also=("s2l_ttft_from_last_chunk_seconds", "jetstream_time_to_first_token"),
    ),
    Metric(
        "s2l_inter_token_latency_seconds",
        "histogram",
        "Time between two tokens of one session.",
        buckets=_TOKEN_S,
        vllm="vllm:inter_token_latency_seconds",
    ),
    Metric(
        "s2l_request_time_per_output_token_seconds",
        "histogram",
        "Mean time between the tokens of a request, one value for each that has ended with two tokens or more.",
        buckets=_TOKEN_S,
        vllm="vllm:request_time_per_output_token_seconds",
        also=("jetstream_time_per_output_token",),
    ),
    Metric(
        "s2l_e2e_request_latency_seconds",
        "histogram",
        "From the completion of a request's context to its last token.",
        buckets=_REQUEST_S,
        vllm="vllm:e2e_request_latency_seconds",
        also=("jetstream_time_per_request",),
    ),
    Metric(
        "s2l_request_queue_time_seconds",
        "histogram",
        "From the completion of a request's context to the first step that serves it.",
        buckets=_REQUEST_S,
        vllm="vllm:request_queue_time_seconds",
        also=("jetstream_queue_duration",),
    ),
    Metric(
        "s2l_request_prefill_time_seconds",
        "histogram",
        "From the first step after the completion of a request's context to its first token.",
        buckets=_REQUEST_S,
        vllm="vllm:request_prefill_time_seconds",
    ),
    Metric(
        "s2l_request_decode_time_seconds",
        "histogram",
        "From the first token of a request to its last.",
        buckets=_REQUEST_S,
        vllm="vllm:request_decode_time_seconds",
    ),
    Metric(
        "s2l_request_inference_time_seconds",
        "histogram",
        "From the first step after the completion of a request's context to its last token.",
        buckets=_REQUEST_S,
        vllm="vllm:request_inference_time_seconds",
    ),
    Metric(
        "s2l_request_wait_time_seconds",
        "histogram",
        "Time between the completion of a request's context and its end in which no step served it.",
        buckets=_REQUEST_S,
        also=("jetstream_wait_time_per_request",),
    ),
    Metric(
        "s2l_request_time_per_prefill_token_seconds",
        "histogram",
        "Time of the steps that computed a request's context, over the tokens computed.",
        buckets=_PREFILL_TOKEN_S,
        also=("jetstream_time_per_prefill_token",),
    ),
    Metric(
        "s2l_request_prompt_tokens",
        "histogram",
        "Length of the context of a request that has ended, in tokens.",
        buckets=_LENGTH,
        vllm="vllm:request_prompt_tokens",
        also=("jetstream_request_input_length",),
    ),
    Metric(
        "s2l_request_generation_tokens",
        "histogram",
        "Output of a request that has ended, in tokens.",
        buckets=_LENGTH,
        vllm="vllm:request_generation_tokens",
        also=("jetstream_request_output_length",),
    ),
    Metric(
        "s2l_request_params_max_tokens",
        "histogram",
        "The most output tokens that a request asked for.",
        buckets=_LENGTH,
        vllm="vllm:request_params_max_tokens",
    ),
    Metric(
        "s2l_request_success_total",
        "counter",
        "Requests that have ended, by reason: stop, length, abort (by their clients), error.",
        labels=("finished_reason",),
        vllm="vllm:request_success_total",
    ),
    Metric(
        "s2l_requests_completed_total",
        "counter",
        "Requests that have ended with stop or length.",
        also=("jetstream_request_success_count_total",),
    ),
    Metric(
        "s2l_session_errors_total",
        "counter",
        "Sessions that were refused, or ended by an error, by its gRPC status.",
        labels=("status",),
    ),
)

_STREAMS = (
    Metric(
        "s2l_ttft_from_open_seconds",
        "histogram",
        "From the opening of a session to its first token: what its user waits in all.",
        buckets=_FIRST_TOKEN_S,
    ),
    Metric(
        "s2l_context_arrival_seconds",
        "histogram",
        "From the opening of a stream to the completion of its context.",
        buckets=_REQUEST_S,
    ),
    Metric(
        "s2l_stream_chunks_total",
        "counter",
        "Events of clients, by kind: open, append, update, finish.",
        labels=("op",),
    ),
    Metric("s2l_lcp_tokens_kept_total", "counter", "Tokens in front that updates left as they were."),
    Metric("s2l_lcp_tokens_invalidated_total", "counter", "Computed tokens that updates threw away."),
)

_BACKLOG = (
    Metric(
        "s2l_sessions",
        "gauge",
        "Open sessions: arriving (context incomplete), prefilling, waiting (context complete, in no step), decoding.",
        labels=("phase",),
    ),
    Metric(
        "s2l_num_requests_running",
        "gauge",
        "Requests whose context is complete and which a step has served.",
        vllm="vllm:num_requests_running",
    ),
    Metric(
        "s2l_num_requests_waiting",
        "gauge",
        "Requests whose context is complete and which no step has served yet.",
        vllm="vllm:num_requests_waiting",
        also=("jetstream_prefill_backlog_size", "num_requests_waiting"),
    ),
    Metric("jetstream_transfer_backlog_size", "gauge", "Sessions that wait to be brought to another engine.", ("idx",)),
    Metric(
        "jetstream_generate_backlog_size",
        "gauge",
        "Decoding sessions for which there is no place in a step.",
        ("idx",),
    ),
    Metric(
        "jetstream_slots_used_percentage", "gauge", "Decoding sessions over the places in a step, 0 to 1.", ("idx",)
    ),
    Metric("s2l_sessions_opened_total", "counter", "Sessions opened."),
    Metric("s2l_sessions_refused_total", "counter", "Sessions turned away for lack of room."),
    Metric("s2l_sessions_resumed_total", "counter", "Sessions computed again, since an engine or its KV was lost."),
)

_TOKENS = (
    Metric(
        "s2l_prompt_tokens_total",
        "counter",
        "Context of requests that have their first token, in tokens.",
        vllm="vllm:prompt_tokens_total",
    ),
    Metric("s2l_generation_tokens_total", "counter", "Tokens sampled.", vllm="vllm:generation_tokens_total"),
    Metric(
        "s2l_prefill_tokens_total",
        "counter",
        "Context tokens that steps computed: for the first time, or again.",
        labels=("pass",),
    ),
    Metric(
        "s2l_prefix_cache_queries_total",
        "counter",
        "Context tokens of requests that have ended.",
        vllm="vllm:prefix_cache_queries_total",
    ),
    Metric(
        "s2l_prefix_cache_hits_total",
        "counter",
        "Of these, tokens whose KV was there already.",
        vllm="vllm:prefix_cache_hits_total",
    ),
)

_MEMORY = (
    Metric(
        "s2l_kv_cache_usage_perc",
        "gauge",
        "Share of the device's KV blocks that sessions hold, 0 to 1.",
        vllm="vllm:kv_cache_usage_perc",
        also=("kv_cache_utilization_perc",),
    ),
    Metric(
        "s2l_device_pool_blocks", "gauge", "KV blocks of the device: free, cached (held by nobody), held.", ("state",)
    ),
    Metric(
        "s2l_host_pool_blocks",
        "gauge",
        "KV blocks of the host: free, backups (on the device as well, or needed by nobody), swapped (last copies).",
        ("state",),
    ),
    Metric(
        "s2l_block_copies_total",
        "counter",
        "KV blocks copied: save (out, by an eviction), backup (out, ahead of one), load (in), copy (on the device).",
        ("direction",),
    ),
    Metric(
        "s2l_preemptions_total",
        "counter",
        "Times that sessions lost blocks, by what became of those: swap, recompute, drop (a copy was there).",
        ("action",),
    ),
    Metric(
        "s2l_num_preemptions_total", "counter", "Times that sessions lost blocks.", vllm="vllm:num_preemptions_total"
    ),
    Metric(
        "s2l_preempt_cost_seconds",
        "summary",
        "Cost of preemption: predicted, one value an eviction; actual (page copies, and the share of steps that "
        "computed tokens again), one value a step that had any.",
        ("kind",),
    ),
    Metric(
        "s2l_cache_config_info",
        "info",
        "Sizes of the KV pools, in blocks, and of a block, in tokens.",
        vllm="vllm:cache_config_info",
    ),
)

_STEPS = (
    Metric("s2l_step_seconds", "histogram", "Time of an engine step.", ("engine",), _STEP_S),
    Metric(
        "s2l_iteration_tokens",
        "histogram",
        "Tokens that an engine step ran through the model.",
        buckets=_STEP_TOKENS,
        vllm="vllm:iteration_tokens_total",
    ),
    Metric("s2l_step_failures_total", "counter", "Engine steps that failed, or were lost with one that did."),
    Metric("s2l_engine_up", "gauge", "1 while an engine works, 0 once it has failed.", ("engine", "role")),
    Metric("s2l_handoffs_total", "counter", "Sessions that have gone on in another engine after their first token."),
    Metric("s2l_handoff_blocks_total", "counter", "KV blocks brought to another engine after the first token."),
    Metric("s2l_ahead_blocks_total", "counter", "KV blocks sent there while their context was being computed."),
    Metric(
        "s2l_handoff_failures_total", "counter", "Moves to another engine that failed; the session was computed again."
    ),
)

_SERVER = (
    Metric("s2l_build_info", "info", "Version of the server, and the policy it runs."),
    Metric(
        "s2l_model_load_seconds",
        "gauge",
        "Time that loading the model took.",
        also=("jetstream_model_load_time",),
    ),
    Metric(
        "s2l_startup_seconds",
        "gauge",
        "Time from the start of the command to the readiness of the server.",
        also=("jetstream_server_startup_latency",),
    ),
)

METRICS: tuple[Metric, ...] = (*_REQUESTS, *_STREAMS, *_BACKLOG, *_TOKENS, *_MEMORY, *_STEPS, *_SERVER)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
