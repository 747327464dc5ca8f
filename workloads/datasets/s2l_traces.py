"""The data set `s2l_traces`: one example a session. Importing this module makes it known to tensorflow-datasets.

Example:
  import tensorflow_datasets as tfds
  import workloads.datasets.s2l_traces
  sessions = tfds.data_source("s2l_traces/crawler", split="train")  # made on first use
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from s2l_jax.core.errors import InvalidArgument
from workloads.datasets.example import INTEGER_COLUMNS, TEXT_COLUMNS, from_example, to_example
from workloads.generate.anns import AnnsConfig, anns_header, anns_sessions
from workloads.generate.crawler import CrawlerConfig, crawler_header, crawler_sessions
from workloads.published import QUERIES
from workloads.trace import Header, Session, read_trace

SPLIT = "train"  # the one that the library expects if there is one only
_FILE_FORMAT = "array_record"  # the library's own default needs TensorFlow
_DESCRIPTION = (
    "Sessions whose context arrives piece by piece while they wait for an answer: what comes when, event by event."
)


@dataclasses.dataclass
class TraceConfig(tfds.core.BuilderConfig):
    """Which trace the data set is made of.

    Attributes:
      trace: file of a trace; None makes the trace up that `name` stands for, `crawler` or `anns`, at the published
        number of queries, one a second, with seed 0.
    """

    trace: Path | None = None


class S2lTraces(tfds.core.GeneratorBasedBuilder):
    """Builds the data set; a trace of one's own is `S2lTraces(config=TraceConfig(name="mine", trace=path))`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[TraceConfig]] = [
        TraceConfig(name="crawler", description="Context grows page by page, as published of Stream2LLM's crawler."),
        TraceConfig(name="anns", description="Result lists are replaced, as published of Stream2LLM's vector search."),
    ]

    def __init__(self, *, file_format: str = _FILE_FORMAT, **options: Any) -> None:
        super().__init__(file_format=file_format, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        integers = {name: tfds.features.Tensor(shape=(None,), dtype=np.int64) for name in INTEGER_COLUMNS}
        texts = {name: tfds.features.Tensor(shape=(None,), dtype=np.str_) for name in TEXT_COLUMNS}
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict({"session": tfds.features.Text(), **integers, **texts}),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        header, sessions = _open(self.builder_config)
        self.info.metadata["header"] = dataclasses.asdict(header)
        return {SPLIT: self._generate_examples(sessions)}

    def _generate_examples(self, sessions: Iterable[Session]) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(map(to_example, sessions))


def build_dataset(config: TraceConfig, data_dir: Path | None = None) -> S2lTraces:
    """Writes a data set unless it is there already; returns its builder.

    Args:
      config: what it is made of.
      data_dir: folder for data sets; None is the library's, `~/tensorflow_datasets`.

    Raises:
      InvalidArgument: a trace has the name of a made-up data set.
      TraceError: its file is no trace.
    """
    if config.trace is not None and config.name in S2lTraces.builder_configs:
        raise InvalidArgument(
            f"{config.name} is the name of a made-up data set; name that of {config.trace} differently"
        )
    # The library wants its own configurations by their names.
    builder = S2lTraces(config=config if config.trace is not None else config.name, data_dir=data_dir)
    builder.download_and_prepare()
    return builder


def dataset_header(builder: tfds.core.DatasetBuilder) -> Header:
    """What the trace that a data set was made of says of itself."""
    return Header(**builder.info.metadata["header"])


def dataset_sessions(builder: tfds.core.DatasetBuilder) -> Iterator[Session]:
    """The sessions of a data set that has been made, one by one, in order of arrival."""
    source = builder.as_data_source(split=SPLIT)
    return (from_example(source[number]) for number in range(len(source)))


def _open(config: TraceConfig) -> tuple[Header, Iterable[Session]]:
    if config.trace is not None:
        trace = read_trace(config.trace)
        return trace.header, trace.sessions
    if config.name == "crawler":
        crawler = CrawlerConfig(sessions=QUERIES["crawler"])
        return crawler_header(crawler), crawler_sessions(crawler)
    anns = AnnsConfig(sessions=QUERIES["anns"])
    return anns_header(anns), anns_sessions(anns)
