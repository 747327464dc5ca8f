import itertools

import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from workloads.generate.anns import AnnsConfig, anns_sessions, anns_trace
from workloads.generate.crawler import CrawlerConfig, crawler_sessions, crawler_trace
from workloads.generate.text import CHARS_PER_TOKEN, DocumentationText
from workloads.generate.tokens import passages_of, random_tokens
from workloads.generate.writing import write_sessions
from workloads.prompt import Prompt
from workloads.published import PUBLISHED, QUERIES
from workloads.trace import read_trace, write_trace

BOTH = pytest.mark.parametrize("make, config", [(crawler_trace, CrawlerConfig), (anns_trace, AnnsConfig)])


def contexts(session):
    """The context after each event; tokens that are not given have a name and a place, or a number."""
    context = ()
    for number, event in enumerate(session.events):
        if event.parts is not None:
            new = tuple((name, place) for name, count in event.parts for place in range(count))
        elif event.n_tokens is not None:
            new = tuple((number, place) for place in range(event.n_tokens))
        else:
            new = event.tokens or event.text or type(context)()
        if event.op == "update":
            context = context[: event.keep_tokens or event.keep_chars] + new
        else:
            context = context + new if context else new
        yield context


def quantities(sessions):
    """Each quantity of the published statistics, of every session or gap."""
    found = {"tokens": [], "retrieval_s": [], "chunks": [], "gap_s": []}
    for session in sessions:
        tokens = 0
        for event in session.events:
            tokens = event.size if event.op == "update" else tokens + event.size
        times_s = [event.t_s for event in session.events if event.op in ("append", "update")]
        found["tokens"].append(tokens)
        found["retrieval_s"].append(times_s[-1] - session.arrival_s)
        found["chunks"].append(len(times_s))
        found["gap_s"] += np.diff(times_s).tolist()
    return found


def figure(values, name):
    return {"mean": np.mean, "max": np.max}.get(name, lambda values: np.percentile(values, float(name[1:])))(values)


SESSIONS = {
    "crawler": lambda **options: crawler_sessions(CrawlerConfig(**options)),
    "anns": lambda **options: anns_sessions(AnnsConfig(**options)),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("workload", PUBLISHED)
def test_at_the_published_number_of_queries_every_figure_is_within_five_percent(workload, seed):
    found = quantities(SESSIONS[workload](sessions=QUERIES[workload], seed=seed))
    for quantity, figures in PUBLISHED[workload].items():
        made = {name: figure(found[quantity], name) for name in figures}
        assert made == pytest.approx(dict(figures), rel=0.05), quantity


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workload", PUBLISHED)
def test_few_sessions_show_the_figures_too(workload, seed):
    found = quantities(SESSIONS[workload](sessions=300, seed=seed))
    for quantity, figures in PUBLISHED[workload].items():
        made = {name: figure(found[quantity], name) for name in figures}
        assert made == pytest.approx(dict(figures), rel=0.15), quantity


def test_queries_with_more_pages_have_more_tokens():
    found = quantities(crawler_sessions(CrawlerConfig(sessions=2000)))
    assert 0.05 < np.corrcoef(found["chunks"], np.log(found["tokens"]))[0, 1] < 0.3


def test_a_first_result_takes_time():
    for workload, make in SESSIONS.items():
        first_s = [session.events[1].t_s - session.arrival_s for session in make(sessions=1000)]
        assert min(first_s) > 0.04, workload
        assert np.mean(np.array(first_s) < 0.06) < 0.02, workload


@pytest.mark.parametrize("source", [None, random_tokens, DocumentationText()])
def test_updates_keep_what_they_share_with_the_version_before(source):
    trace = anns_trace(AnnsConfig(sessions=60, token_scale=0.05, returns=0.5), source)
    returned = 0
    for session in trace.sessions:
        versions = list(contexts(session))
        for before, after, event in zip(versions, versions[1:], session.events[1:], strict=False):
            if event.op == "update":
                assert before != after
            if event.op == "update" and source is not None:
                kept = event.keep_tokens or event.keep_chars
                assert kept > 0
                assert before[:kept] == after[:kept]
                assert before[kept : kept + 1] != after[kept : kept + 1] or len(before) == kept
        returned += len(set(versions[1:-1])) < len(versions[1:-1])
    assert returned > 10, "versions come back"


def test_lists_are_refined_as_a_real_search_refines_them():
    changed, ranks, head_stays = {}, [], []
    for session in anns_sessions(AnnsConfig(sessions=3000, returns=0.0, max_prompt_tokens=10**7)):
        lists = [[name for name, _ in event.parts[1:-1]] for event in session.events if event.op == "update"]
        assert all(len(set(names)) == 10 for names in lists)
        for number, (old, new) in enumerate(itertools.pairwise(lists)):
            changed.setdefault(number, []).append(len(set(new) - set(old)))
            ranks += [rank for rank, name in enumerate(new) if name not in old]
            head_stays.append(old[0] == new[0])
    means = [np.mean(changed[number]) for number in range(6)]
    assert means == pytest.approx([3.05, 2.54, 2.22, 1.76, 1.52, 1.41], rel=0.06)
    shares = np.bincount(ranks, minlength=10) / len(ranks)
    assert shares[0] == pytest.approx(0.08, abs=0.01)
    assert shares[9] == pytest.approx(0.115, abs=0.015)
    assert 0.75 < np.mean(head_stays) < 0.9


@pytest.mark.parametrize("popularity, low, high", [(0.9, 0.3, 0.7), (0.0, 0.0, 0.03)])
def test_sessions_share_documents_by_popularity(popularity, low, high):
    sessions = list(anns_sessions(AnnsConfig(sessions=300, popularity=popularity)))
    names = [name for session in sessions for name, _ in session.events[-2].parts[1:-1]]
    assert low < max(map(names.count, set(names))) / len(sessions) < high
    pages = list(crawler_pages(popularity))
    assert low / 2 < max(map(pages.count, set(pages))) / 100 < high + 0.05


def crawler_pages(popularity):
    seen = []

    def source(name, count):
        seen.append(name)
        return (1,) * count

    for session in crawler_sessions(CrawlerConfig(sessions=100, token_scale=0.02, popularity=popularity), source):
        pages = [name for name in seen if name.startswith("page")]
        yield from pages
        assert len(set(pages)) == len(pages) == len(session.events) - 2, "no page comes twice in a session"
        seen.clear()


@BOTH
@pytest.mark.parametrize("source", [None, random_tokens])
def test_a_seed_fixes_a_trace_and_files_keep_it(make, config, source, tmp_path):
    options = {"sessions": 20, "token_scale": 0.05, "max_prompt_tokens": 400}
    trace = make(config(seed=3, **options), source)
    assert trace == make(config(seed=3, **options), source)
    other = make(config(seed=4, **options), source)
    assert (other.sessions != trace.sessions, other.sha256 != trace.sha256) == (True, True)
    assert max(quantities(trace.sessions)["tokens"]) <= 400
    assert max(len(list(contexts(session))[-1]) for session in trace.sessions) == 400

    write_trace(tmp_path / "t.jsonl", trace.header, trace.events)
    read = read_trace(tmp_path / "t.jsonl")
    assert read.header.details["seed"] == 3
    for mine, theirs in zip(trace.sessions, read.sessions, strict=True):
        assert [event.op for event in mine.events] == [event.op for event in theirs.events]
        assert list(contexts(mine)) == list(contexts(theirs))

    write_sessions(tmp_path / "streamed.jsonl", trace.header, iter(trace.sessions))
    assert (tmp_path / "streamed.jsonl").read_bytes() == (tmp_path / "t.jsonl").read_bytes()


def test_qps_and_time_scale():
    slow = crawler_trace(CrawlerConfig(sessions=400, qps=2.0, time_scale=4.0))
    assert slow.sessions[-1].arrival_s == pytest.approx(200, rel=0.15)
    fast = crawler_trace(CrawlerConfig(sessions=400, qps=2.0))
    for one, other in zip(slow.sessions, fast.sessions, strict=True):
        assert one.complete_s - one.arrival_s == pytest.approx(4 * (other.complete_s - other.arrival_s))


@BOTH
@pytest.mark.parametrize(
    "bad",
    [
        {"sessions": 0},
        {"qps": 0.0},
        {"token_scale": 0.0},
        {"max_prompt_tokens": 10},
        {"corpus": 10},
        {"popularity": -1.0},
    ],
)
def test_impossible_settings_are_refused(make, config, bad):
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        config(**bad)


def test_an_impossible_share_of_returns_is_refused():
    with pytest.raises(InvalidArgument, match="returns"):
        AnnsConfig(returns=1.5)


def test_a_small_corpus_serves_long_sessions():
    trace = anns_trace(AnnsConfig(sessions=100, corpus=40, popularity=2.0, returns=0.0))
    assert max(quantities(trace.sessions)["chunks"]) > 10


def test_pages_and_documents_can_be_passages_of_a_text():
    text = list(range(1000, 1500))
    source = passages_of(text)
    assert source("a", 700)[:10] == source("a", 10)
    assert set(source("a", 700)) == set(text)
    assert source("a", 10) != source("b", 10)

    for make, config in ((crawler_trace, CrawlerConfig), (anns_trace, AnnsConfig)):
        named = make(config(sessions=3, token_scale=0.02), source)
        by_size = make(config(sessions=3, token_scale=0.02))
        for one, other in zip(named.sessions, by_size.sessions, strict=True):
            (*_, context), (*_, made_up) = contexts(one), contexts(other)
            assert len(context) == len(made_up)
            assert set(context) <= set(text)


@BOTH
def test_text_stands_in_a_prompt_and_is_about_as_long_as_asked_for(make, config):
    text, prompt = DocumentationText(), Prompt()
    sized = quantities(make(config(sessions=20)).sessions)["tokens"]
    trace = make(config(sessions=20), text)
    for session, tokens in zip(trace.sessions, sized, strict=True):
        *_, context = contexts(session)
        assert context.startswith(prompt.head + "## ")
        assert context.endswith(prompt.after_question)
        assert context.count(prompt.before_question) == 1
        assert len(context) == pytest.approx(tokens * CHARS_PER_TOKEN + 300, rel=0.05, abs=300)
    assert text("document 1", 50) != text("document 2", 50)
    assert "PSF" in text.licence
