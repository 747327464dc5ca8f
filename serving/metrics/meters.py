"""What is observed as it happens: histograms and counters of sessions and steps."""

from prometheus_client import Counter, Histogram, Metric

from serving.metrics.declared import BY_NAME
from serving.watch.record import ChunkRecord, SessionRecord

_REASONS = {"stop": "stop", "length": "length", "cancelled": "abort", "error": "error"}


class Meters:
    """One server's instruments. Any thread may use them; each use takes about a microsecond.

    Attributes:
      preempt_actual_s: seconds that preemption has cost: copies, and shares of steps that computed tokens again.
      preempt_actual_count: steps that had any such cost.
    """

    def __init__(self) -> None:
        self.preempt_actual_s = 0.0
        self.preempt_actual_count = 0
        self._all: dict[str, Histogram | Counter] = {}
        self._first_token = self._histogram("s2l_time_to_first_token_seconds")
        self._from_open = self._histogram("s2l_ttft_from_open_seconds")
        self._inter_token = self._histogram("s2l_inter_token_latency_seconds")
        self._per_output_token = self._histogram("s2l_request_time_per_output_token_seconds")
        self._e2e = self._histogram("s2l_e2e_request_latency_seconds")
        self._queue = self._histogram("s2l_request_queue_time_seconds")
        self._prefill = self._histogram("s2l_request_prefill_time_seconds")
        self._decode = self._histogram("s2l_request_decode_time_seconds")
        self._inference = self._histogram("s2l_request_inference_time_seconds")
        self._wait = self._histogram("s2l_request_wait_time_seconds")
        self._per_prefill_token = self._histogram("s2l_request_time_per_prefill_token_seconds")
        self._prompt = self._histogram("s2l_request_prompt_tokens")
        self._generation = self._histogram("s2l_request_generation_tokens")
        self._max_tokens = self._histogram("s2l_request_params_max_tokens")
        self._arrival = self._histogram("s2l_context_arrival_seconds")
        self._step = self._histogram("s2l_step_seconds")
        self._iteration = self._histogram("s2l_iteration_tokens")
        self._ended = self._counter("s2l_request_success_total")
        self._completed = self._counter("s2l_requests_completed_total")
        self._errors = self._counter("s2l_session_errors_total")
        self._chunks = self._counter("s2l_stream_chunks_total")
        self._kept = self._counter("s2l_lcp_tokens_kept_total")
        self._invalidated = self._counter("s2l_lcp_tokens_invalidated_total")
        self._prompt_total = self._counter("s2l_prompt_tokens_total")
        self._prefill_total = self._counter("s2l_prefill_tokens_total")
        self._queries = self._counter("s2l_prefix_cache_queries_total")
        self._hits = self._counter("s2l_prefix_cache_hits_total")
        for reason in _REASONS.values():
            self._ended.labels(reason)  # so that all are there from the start, with 0
        for op in ("open", "append", "update", "finish"):
            self._chunks.labels(op)
        for number in ("first", "again"):
            self._prefill_total.labels(number)

    def chunk(self, chunk: ChunkRecord) -> None:
        """A client's event has been applied."""
        self._chunks.labels(chunk.op).inc()
        if chunk.op == "update":
            self._kept.inc(chunk.kept_tokens)
            self._invalidated.inc(chunk.invalidated_tokens)

    def refused(self, status: str) -> None:
        """A session was not opened."""
        self._errors.labels(status).inc()

    def complete(self, record: SessionRecord) -> None:
        """A session's context is complete."""
        if record.final_s is not None and not record.opening.final:
            self._arrival.observe(record.final_s - record.opening.now_s)

    def first_token(self, record: SessionRecord) -> None:
        """A session has its first token, and its completion is known."""
        final_s, open_s, first_s = record.ttft_final_s, record.ttft_open_s, record.first_token_s
        if final_s is None or open_s is None or first_s is None or record.final_s is None:
            return
        self._first_token.observe(final_s)
        self._from_open.observe(open_s)
        service_s = first_s if record.service_s is None else record.service_s
        self._queue.observe(max(0.0, service_s - record.final_s))
        self._prefill.observe(max(0.0, first_s - service_s))
        self._prompt_total.inc(record.context_tokens)

    def token(self, gap_s: float) -> None:
        """A token came this long after the one before it."""
        self._inter_token.observe(gap_s)

    def step(self, engine: int, took_s: float, tokens: int, first: int, again: int) -> None:
        """A step has run.

        Args:
          engine: index of the engine.
          took_s: how long it took.
          tokens: that it ran through the model.
          first: of these, context computed for the first time.
          again: of these, context computed again.
        """
        self._step.labels(str(engine)).observe(took_s)
        self._iteration.observe(tokens)
        if first:
            self._prefill_total.labels("first").inc(first)
        if again:
            self._prefill_total.labels("again").inc(again)

    def preempted(self, cost_s: float) -> None:
        """A step has paid for preemptions; only the engines' threads call this, under the lock of `Book`."""
        self.preempt_actual_s += cost_s
        self.preempt_actual_count += 1

    def ended(self, record: SessionRecord) -> None:
        """A session has ended."""
        self._ended.labels(_REASONS.get(record.reason, record.reason)).inc()
        if record.status:
            self._errors.labels(record.status).inc()
        if record.stats is not None:
            self._queries.inc(record.stats.prompt_tokens)
            self._hits.inc(min(record.stats.reused_tokens, record.stats.prompt_tokens))
        if record.reason not in ("stop", "length"):
            return
        self._completed.inc()
        self._prompt.observe(record.context_tokens)
        self._generation.observe(record.output_tokens)
        self._max_tokens.observe(record.opening.max_tokens)
        if record.prefill_tokens:
            self._per_prefill_token.observe(record.prefill_s / record.prefill_tokens)
        self._times(record)

    def _times(self, record: SessionRecord) -> None:
        final_s, first_s, last_s = record.final_s, record.first_token_s, record.last_token_s
        if final_s is None or first_s is None or last_s is None:
            return
        service_s = first_s if record.service_s is None else record.service_s
        self._e2e.observe(max(0.0, last_s - final_s))
        self._decode.observe(last_s - first_s)
        self._inference.observe(max(0.0, last_s - service_s))
        self._wait.observe(max(0.0, last_s - final_s - record.served_s))
        if record.output_tokens > 1:
            self._per_output_token.observe((last_s - first_s) / (record.output_tokens - 1))

    def observed(self, name: str) -> Metric | None:
        """What has been observed of a metric, None if it is not one of these."""
        instrument = self._all.get(name)
        return None if instrument is None else next(iter(instrument.collect()))

    def _histogram(self, name: str) -> Histogram:
        metric = BY_NAME[name]
        made = Histogram(name, metric.help, metric.labels, buckets=metric.buckets, registry=None)
        self._all[name] = made
        return made

    def _counter(self, name: str) -> Counter:
        made = Counter(name, BY_NAME[name].help, BY_NAME[name].labels, registry=None)
        self._all[name] = made
        return made
