import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner

from s2l_jax.core.errors import FailedPrecondition, InvalidArgument
from workloads.commands.trace import trace as trace_command
from workloads.prompt import Prompt
from workloads.replay.schedule import plan_sessions
from workloads.search import minilm, wikipedia
from workloads.search.embeddings import embedded
from workloads.search.pacing import Pacing
from workloads.search.record import SearchConfig, record_search, search_session
from workloads.search.refinement import ProgressiveIndex, Refinement
from workloads.search.wikipedia import Passage
from workloads.trace import read_trace

TOPICS = ("fish", "trees", "stars", "ships", "bread")


class TopicEncoder:
    """Texts about the same topic lie close together; counts how many texts it has seen."""

    name = "topics"

    def __init__(self) -> None:
        self.seen = 0

    def embed(self, texts, tell=None):
        self.seen += len(texts)
        rng = np.random.default_rng(0)
        centres = {topic: rng.standard_normal(16) for topic in TOPICS}
        vectors = []
        for text in texts:
            noise = np.random.default_rng(list(text.encode())).standard_normal(16)
            vectors.append(sum((centres[topic] for topic in TOPICS if topic in text), 0.7 * noise))
            if tell is not None:
                tell(len(vectors), len(texts))
        found = np.array(vectors, np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


PASSAGES = tuple(
    Passage(f"{topic} {number}", f"About {topic}, part {number}.") for topic in TOPICS for number in range(60)
)
QUESTIONS = tuple(f"What of {topic}, {number}?" for topic in TOPICS for number in range(4))


@pytest.fixture
def record(tmp_path):
    pytest.importorskip("faiss")

    def run(config=None, encoder=None):
        path, encoder = tmp_path / "t.jsonl", encoder or TopicEncoder()
        config = config or SearchConfig(results=5, cells=16)
        report = record_search(path, PASSAGES, QUESTIONS, "made up", encoder, tmp_path / "cache", config, Prompt())
        return report, read_trace(path)

    return run


def test_a_search_improves_until_it_is_exact(record):
    report, _ = record()
    assert report.probes == (1, 2, 4, 8, 16)
    assert list(report.recall) == sorted(report.recall)
    assert report.recall[0] < 0.95
    assert report.recall[-1] == 1.0
    assert report.changed[0] == 5.0
    assert 0.0 < sum(report.changed[1:]) < 5.0


def test_every_list_is_sent_when_it_changes_and_ends_up_exact(record):
    pytest.importorskip("faiss")
    report, trace = record()
    vectors, queries = (
        TopicEncoder().embed(texts) for texts in ([f"{p.title}: {p.text}" for p in PASSAGES], QUESTIONS)
    )
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    assert sum(event.op == "update" for session in trace.sessions for event in session.events) == report.updates
    for session, question, places in zip(trace.sessions, QUESTIONS, best, strict=True):
        opened, *updates, finish = session.events
        assert (opened.text, opened.note, opened.max_tokens) == (Prompt().head, question, 40)
        assert (finish.op, len(updates) >= 1) == ("finish", True)
        contexts = list(
            itertools.accumulate(updates, lambda old, new: old[: new.keep_chars] + new.text, initial=opened.text)
        )
        assert all(old != new for old, new in itertools.pairwise(contexts))
        assert all(context.endswith(Prompt().tail(question)) for context in contexts[1:])
        pages = "".join(Prompt().page(PASSAGES[place].title, "", PASSAGES[place].text) for place in places)
        assert contexts[-1] == Prompt().head + pages + Prompt().tail(question)
        for old, new, event in zip(contexts, contexts[1:], updates, strict=False):
            assert old[: event.keep_chars + 1] != new[: event.keep_chars + 1]


def test_a_trace_says_where_its_text_is_from_and_that_times_are_modelled(record):
    _, trace = record()
    assert trace.header.source == "made up"
    assert "how long searches take" in trace.header.made_up
    assert trace.header.details["pacing"]["probe_s"] == 0.01
    assert len(plan_sessions(trace.sessions, "stream", 5.0, 0, 8192)) == len(QUESTIONS)


def test_a_seed_fixes_a_trace(record):
    assert record()[1].sha256 == record()[1].sha256
    assert record(SearchConfig(results=5, cells=16, seed=1))[1].sha256 != record()[1].sha256


def test_passages_are_embedded_once(record):
    encoder = TopicEncoder()
    record(encoder=encoder)
    record(encoder=encoder)
    assert encoder.seen == len(PASSAGES) + 2 * len(QUESTIONS)


def test_other_texts_or_another_model_are_embedded_anew(tmp_path):
    encoder = TopicEncoder()
    first = embedded(["some fish"], encoder, tmp_path)
    np.testing.assert_array_equal(embedded(["some fish"], encoder, tmp_path), first)
    embedded(["some trees"], encoder, tmp_path)
    encoder.name = "other"
    embedded(["some fish"], encoder, tmp_path)
    assert encoder.seen == 3


def test_recall_and_change_count_documents_whatever_their_places():
    lists = np.array([[[1, 2, -1]], [[2, 1, 3]], [[4, 1, 2]]])
    refinement = Refinement((1, 2, 4), lists)
    assert refinement.recall(np.array([[1, 2, 4]])) == pytest.approx([2 / 3, 2 / 3, 1])
    assert refinement.changed() == [1.0, 1.0]


def test_pacing_adds_up_what_cells_take():
    exact = Pacing(first_s=2.0, first_sigma=0.0, probe_s=0.5, probe_sigma=0.0, scale=3.0)
    assert exact.times_s(np.random.default_rng(0), (1, 2, 4)) == pytest.approx([7.5, 9.0, 12.0])
    rng = np.random.default_rng(0)
    first_s = [Pacing().times_s(rng, (1, 2))[0] for _ in range(3000)]
    assert np.median(first_s) == pytest.approx(2.0, rel=0.05)
    with pytest.raises(InvalidArgument, match="probe_s"):
        Pacing(probe_s=-1.0)


def test_lists_that_stay_are_not_sent_again():
    session = search_session("q", "Why?", 1.0, [2.0, 3.0, 4.0, 5.0], ["a", "a", "b", "b"], Prompt(), 9)
    assert [(event.op, event.t_s) for event in session.events] == [
        ("open", 1.0),
        ("update", 2.0),
        ("update", 4.0),
        ("finish", 5.0),
    ]


@pytest.mark.parametrize("bad", [{"results": 0}, {"cells": 0}, {"max_tokens": 0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        SearchConfig(**bad)


def test_too_few_passages_or_no_question_are_refused(record, tmp_path):
    with pytest.raises(InvalidArgument, match="300 passages, but 400 cells"):
        record(SearchConfig(cells=400))
    with pytest.raises(InvalidArgument, match="no question"):
        record_search(tmp_path / "t", PASSAGES, (), "", TopicEncoder(), tmp_path, SearchConfig(), Prompt())


def test_without_faiss_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(FailedPrecondition, match=r"s2l-jax\[search\]"):
        ProgressiveIndex(np.eye(4, dtype=np.float32), 2, 0)


def test_the_command_prints_recall_and_change(monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(wikipedia, "wikipedia_passages", lambda cache, say: PASSAGES)
    monkeypatch.setattr(wikipedia, "fanout_questions", lambda cache, say: QUESTIONS)
    monkeypatch.setattr(minilm.MiniLm, "fetch", lambda cache, say: TopicEncoder())
    path = tmp_path / "t.jsonl"
    options = ["search", "--out", str(path), "--questions", "7", "--results", "4", "--cells", "8", "--max-tokens", "3"]
    result = CliRunner().invoke(trace_command, options)
    assert result.exit_code == 0, result.output
    assert "7 questions" in result.output
    assert "recall@4" in result.output
    sessions = read_trace(path).sessions
    assert len(sessions) == 7

    slow = CliRunner().invoke(trace_command, [*options, "--delay", "10", "--json"])
    assert json.loads(slow.stdout)["recall"][-1] == 1.0
    for once, slowly in zip(sessions, read_trace(path).sessions, strict=True):
        waits_s = [session.complete_s - session.arrival_s for session in (once, slowly)]
        assert waits_s[1] == pytest.approx(10 * waits_s[0], rel=1e-4)
        assert slowly.events[0].max_tokens == 3
