"""All metrics of a server in Prometheus' formats."""

import socket
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from s2l_jax.orchestrator.counters import OrchestratorStats
from serving.metrics.declared import METRICS
from serving.metrics.metric import PREFIX, VLLM_PREFIX
from serving.metrics.metric import Metric as Declared
from serving.metrics.readings import Sample, ServerFacts, read
from serving.watch.book import Book


class Exposition(Collector):
    """Writes what `Book` has seen and what the orchestrator says of itself when it is asked.

    Any thread may use it. It takes the orchestrator's lock once, for a snapshot.

    Args:
      book: has observed.
      stats: takes a snapshot.
      facts: about the server.
      vllm: export vLLM's names as well.
    """

    def __init__(
        self, book: Book, stats: Callable[[], OrchestratorStats], facts: ServerFacts, *, vllm: bool = False
    ) -> None:
        self._book = book
        self._stats = stats
        self._facts = facts
        self._vllm = vllm
        self._labels = {"model_name": facts.model}
        # JetStream's own label for the machine, without which its dashboards find nothing.
        self._jetstream_labels = {"id": socket.gethostname(), **self._labels}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def encode(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their content type, in the format that a scraper accepts: text, or OpenMetrics."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing, so that registering collects nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, under all their names."""
        stats = self._stats()
        readings = read(stats, self._book.counts(), self._facts)
        readings["s2l_preempt_cost_seconds"] = self._preempt_cost(stats)
        for metric in METRICS:
            samples = readings.get(metric.name)
            if samples is None:
                samples = self._observed(metric)
            for name in metric.names:
                yield self._family(metric, name, samples)
            if self._vllm and metric.vllm:
                yield self._family(metric, metric.vllm, samples)

    def _observed(self, metric: Declared) -> list[Sample]:
        observed = self._book.meters.observed(metric.name)
        if observed is None:
            raise RuntimeError(f"metric {metric.name!r} is declared, but nothing observes it or reads it")
        start = len(observed.name)
        return [(s.name[start:], s.labels, s.value) for s in observed.samples if not s.name.endswith("_created")]

    def _preempt_cost(self, stats: OrchestratorStats) -> list[Sample]:
        done, meters = stats.scheduler.preemptions, self._book.meters
        predicted, actual = {"kind": "predicted"}, {"kind": "actual"}
        return [
            ("_count", predicted, done.swap + done.recompute + done.drop),
            ("_sum", predicted, stats.scheduler.preempt_predicted_s),
            ("_count", actual, meters.preempt_actual_count),
            ("_sum", actual, meters.preempt_actual_s),
        ]

    def _family(self, metric: Declared, name: str, samples: list[Sample]) -> Metric:
        is_ours = name.startswith((PREFIX, VLLM_PREFIX))
        labels = self._labels if is_ours else self._jetstream_labels
        base = name
        if metric.kind in ("counter", "info"):
            base = name.removesuffix("_total").removesuffix("_info")
        unit = metric.unit if base.endswith(f"_{metric.unit}") else ""
        family = Metric(base, metric.help, metric.kind, unit)
        for suffix, own, value in samples:
            family.add_sample(base + suffix, labels | own, value)
        return family
