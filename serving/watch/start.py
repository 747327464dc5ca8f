"""Watches a server that has just been put together."""

import contextlib
import time
from collections.abc import Callable, Iterator

from serving.assembly import Assembly, Progress
from serving.logs.logs import Logs
from serving.logs.sessions import log_end
from serving.metrics.readings import ServerFacts
from serving.watch.book import OnEnd
from serving.watch.config import WatchConfig
from serving.watch.observation import Observation, Watchable, observe


class Startup:
    """Times a server's start.

    Attributes:
      load_s: what loading the model took, once it has been loaded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = clock()
        self.load_s = 0.0

    @property
    def passed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start_s

    def timed(self, report: Progress) -> Progress:
        """Passes progress on, and looks at the clock when the model has been loaded."""
        began_s = self._clock()

        def watched(stage: str, done: int, total: int, detail: str) -> None:
            if stage == "load" and done == total:
                self.load_s = self._clock() - began_s
            report(stage, done, total, detail)

        return watched


def facts_of(assembly: Assembly, startup: Startup) -> ServerFacts:
    """What does not change while an assembled server runs.

    Args:
      assembly: what has been started.
      startup: has timed it.
    """
    sizes, model = assembly.engine, assembly.model
    return ServerFacts(
        model=model.name,
        version=model.server_version,
        policy=model.policy,
        block_size=sizes.block_size,
        num_blocks=sizes.num_blocks,
        host_blocks=sizes.host_blocks,
        max_batch=sizes.max_batch,
        load_s=startup.load_s,
        startup_s=startup.passed_s,
    )


@contextlib.contextmanager
def watched(owner: Watchable, facts: ServerFacts, config: WatchConfig, logs: Logs) -> Iterator[Observation]:
    """Watches a server while the block runs.

    Args:
      owner: of its sessions.
      facts: about it.
      config: how to watch.
      logs: are told whose sessions are.
    """
    on_end: list[OnEnd] = [log_end]
    with contextlib.ExitStack() as stack:
        if config.otlp_endpoint is not None:
            from serving.tracing.tracing import Tracing, otlp_processor

            tracing = Tracing(otlp_processor(config.otlp_endpoint), facts.model, facts.version)
            stack.callback(tracing.close)
            on_end.append(tracing.end)
        observation = observe(
            owner,
            facts,
            on_end=on_end,
            vllm_metrics=config.vllm_metrics,
            profile_dir=config.debug_profile,
        )
        logs.book = observation.book
        stack.enter_context(observation.history.sampling())
        yield observation
