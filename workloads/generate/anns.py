"""A vector search's sessions: the list of documents is replaced by a better one (update mode).

Sizes and times follow the published statistics of Stream2LLM's ANNS workload (arXiv 2604.16395; tokens are Llama-3's).
What they leave open is chosen here: a list holds ten documents; a version changes at first two or three of them and
later fewer, the tail of the list more often than its head (as measured on an inverted-file index that probes more and
more cells); documents are drawn by Zipf's law, so sessions share them.
"""

from dataclasses import asdict, dataclass

import numpy as np

from s2l_jax.core.errors import InvalidArgument
from workloads.generate.in_memory import trace_of
from workloads.generate.marginals import LogNormal, poisson_arrivals
from workloads.generate.tokens import TokenSource, random_tokens
from workloads.trace import Event, Session, Trace

QUERY_TOKENS_MEAN = 13006
RETRIEVAL_S = LogNormal.of_p50_p95(3.896, 8.512)
GAP_S = LogNormal.of_quartiles(0.011, 0.037, 0.124)
VERSIONS_MEAN, VERSIONS_MAX = 4.42, 26
_VERSIONS_SPREAD = 2.5  # of the negative binomial
_LIST_DOCUMENTS = 10
_DOCUMENT_SIGMA = 1.35
_CHANGED_DOCUMENTS = (2.5, 1.8, 1.3, 0.9, 0.4, 0.2)  # mean number in the first, second, ... new version
_TEMPLATE_TOKENS, _QUESTION_TOKENS = 40, 30


@dataclass(frozen=True, slots=True)
class AnnsConfig:
    """How many queries of what size.

    Attributes:
      sessions: queries.
      qps: Poisson arrivals per second.
      seed: of everything random.
      token_scale: multiplies the published token counts, so that they fit smaller models and machines.
      time_scale: multiplies the published times between versions.
      max_prompt_tokens: longer prompts are cut to this.
      max_tokens: output tokens asked for.
      corpus: documents there are.
      popularity: exponent of Zipf's law; 0 makes all documents equally popular.
      returns: probability that a version is one that the session had before (A, B, A).
    """

    sessions: int = 200
    qps: float = 1.0
    seed: int = 0
    token_scale: float = 1.0
    time_scale: float = 1.0
    max_prompt_tokens: int = 100_000
    max_tokens: int = 1
    corpus: int = 5000
    popularity: float = 0.9
    returns: float = 0.1

    def __post_init__(self) -> None:
        for name in ("sessions", "token_scale", "time_scale", "max_tokens"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be above 0")
        if self.corpus < 4 * _LIST_DOCUMENTS:
            raise InvalidArgument(f"corpus is {self.corpus}, but must be at least {4 * _LIST_DOCUMENTS}")
        if self.max_prompt_tokens < 200:
            raise InvalidArgument(f"max_prompt_tokens is {self.max_prompt_tokens}, but must be at least 200")


def anns_trace(config: AnnsConfig, source: TokenSource = random_tokens) -> Trace:
    """Draws a trace: `open` with the query's arrival, one `update` per version of the list, `finish` with the last.

    An update keeps the tokens that it shares with the version before and brings those behind.

    Args:
      config: how many of what size.
      source: of template, documents and questions.
    """
    rng = np.random.default_rng([config.seed, 2])
    corpus = _Corpus(rng, config, source)
    arrivals_s = poisson_arrivals(rng, config.sessions, config.qps)
    sessions = [_session(rng, corpus, number, at_s, config) for number, at_s in enumerate(arrivals_s.tolist())]
    return trace_of("anns", "made up from the published statistics of Stream2LLM's ANNS", asdict(config), sessions)


class _Corpus:
    """Documents: how popular and how long each is, and its tokens."""

    def __init__(self, rng: np.random.Generator, config: AnnsConfig, source: TokenSource) -> None:
        self.source = source
        weights = np.arange(1, config.corpus + 1) ** -config.popularity
        self._shares = weights / weights.sum()
        lengths = np.exp(_DOCUMENT_SIGMA * rng.standard_normal(config.corpus))
        mean_tokens = QUERY_TOKENS_MEAN * config.token_scale / _LIST_DOCUMENTS
        lengths *= mean_tokens / np.average(lengths, weights=self._shares)
        self._lengths = np.maximum(1, np.rint(lengths)).astype(int)

    def draw(self, rng: np.random.Generator, count: int, but: list[int]) -> list[int]:
        """Different documents that are not among `but`."""
        drawn = rng.choice(len(self._shares), size=count + len(but), replace=False, p=self._shares)
        return [document for document in drawn.tolist() if document not in but][:count]

    def tokens(self, document: int) -> tuple[int, ...]:
        """A document's tokens."""
        return self.source(f"document {document}", int(self._lengths[document]))


def _session(rng: np.random.Generator, corpus: _Corpus, number: int, arrival_s: float, config: AnnsConfig) -> Session:
    name = f"a{number:04d}"
    p = _VERSIONS_SPREAD / (_VERSIONS_SPREAD + VERSIONS_MEAN - 1)
    versions = min(VERSIONS_MAX, 1 + int(rng.negative_binomial(_VERSIONS_SPREAD, p)))
    gaps_s = GAP_S.draw(rng, versions - 1)
    first_s = max(0.3, float(RETRIEVAL_S.draw(rng, 1)[0] - gaps_s.sum()))
    times_s = arrival_s + config.time_scale * (first_s + np.cumsum([0.0, *gaps_s]))

    template, question = (
        corpus.source("template", _TEMPLATE_TOKENS),
        corpus.source(f"question {name}", _QUESTION_TOKENS),
    )
    events = [Event(arrival_s, name, "open", tokens=template, max_tokens=config.max_tokens, note=name)]
    shown = template
    for documents, at_s in zip(_versions(rng, corpus, versions, config.returns), times_s.tolist(), strict=True):
        context = sum(map(corpus.tokens, documents), template)
        prompt = context[: config.max_prompt_tokens - _QUESTION_TOKENS] + question
        keep = _common(shown, prompt)
        events.append(Event(at_s, name, "update", tokens=prompt[keep:], keep_tokens=keep))
        shown = prompt
    return Session(name, (*events, Event(events[-1].t_s, name, "finish")))


def _versions(rng: np.random.Generator, corpus: _Corpus, count: int, returns: float) -> list[list[int]]:
    """The list of documents, best first, as the search refines it."""
    versions = [corpus.draw(rng, _LIST_DOCUMENTS, [])]
    for number in range(count - 1):
        if len(versions) > 1 and rng.random() < returns:
            versions.append(versions[int(rng.integers(len(versions) - 1))])
            continue
        mean = _CHANGED_DOCUMENTS[min(number, len(_CHANGED_DOCUMENTS) - 1)]
        refined = list(versions[-1])
        for document in corpus.draw(rng, max(1, int(rng.poisson(mean))), refined):
            rank = int(_LIST_DOCUMENTS * np.sqrt(rng.random()))  # the tail is refined more often than the head
            refined.insert(rank, document)
        versions.append(refined[:_LIST_DOCUMENTS])
    return versions


def _common(old: tuple[int, ...], new: tuple[int, ...]) -> int:
    """Length of the longest common prefix."""
    length = min(len(old), len(new))
    differs = np.flatnonzero(np.asarray(old[:length]) != np.asarray(new[:length]))
    return int(differs[0]) if len(differs) else length
