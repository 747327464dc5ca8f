import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from workloads.generate.anns import AnnsConfig, anns_trace
from workloads.generate.crawler import CrawlerConfig, crawler_trace
from workloads.generate.marginals import LogNormal, split
from workloads.generate.tokens import passages_of
from workloads.trace import read_trace, write_trace


def contexts(session):
    """The context after each event."""
    context = ()
    for event in session.events:
        tokens = event.tokens or (0,) * (event.n_tokens or 0)
        context = context[: event.keep_tokens] + tokens if event.op == "update" else context + tokens
        yield context


def sizes(trace):
    return np.array([len(list(contexts(session))[-1]) for session in trace.sessions])


def gaps_s(trace):
    chunks = [[event.t_s for event in session.events[1:-1]] for session in trace.sessions]
    return np.concatenate([np.diff(times) for times in chunks])


def test_a_crawlers_statistics_are_the_published_ones():
    trace = crawler_trace(CrawlerConfig(sessions=2000))
    assert np.percentile(sizes(trace), [50, 75, 95]) == pytest.approx([5749, 11167, 28372], rel=0.15)
    assert sizes(trace).mean() == pytest.approx(8889, rel=0.15)
    chunks = [len(session.events) - 2 for session in trace.sessions]
    assert (np.mean(chunks), np.median(chunks)) == (pytest.approx(7.86, rel=0.05), 8)
    assert max(chunks) <= 17
    assert np.percentile(gaps_s(trace), [25, 50, 75, 95]) == pytest.approx([0.387, 0.701, 1.340, 3.078], rel=0.15)
    retrieval_s = [session.complete_s - session.arrival_s for session in trace.sessions]
    assert np.mean(retrieval_s) == pytest.approx(9.219, rel=0.1)
    assert np.percentile(retrieval_s, [50, 75, 95]) == pytest.approx([8.670, 11.059, 16.402], rel=0.15)


def test_a_vector_searchs_statistics_are_the_published_ones():
    trace = anns_trace(AnnsConfig(sessions=800, token_scale=0.1))
    assert np.percentile(sizes(trace), [50, 75, 95]) == pytest.approx([1012.6, 1461.5, 3061.8], rel=0.25)
    assert sizes(trace).mean() == pytest.approx(1300.6, rel=0.15)
    versions = [len(session.events) - 2 for session in trace.sessions]
    assert (np.mean(versions), np.median(versions)) == (pytest.approx(4.42, rel=0.1), 4)
    assert np.percentile(gaps_s(trace), [25, 50, 75, 95]) == pytest.approx([0.011, 0.037, 0.124, 0.699], rel=0.25)
    retrieval_s = [session.complete_s - session.arrival_s for session in trace.sessions]
    assert np.percentile(retrieval_s, [50, 75, 95]) == pytest.approx([3.896, 5.327, 8.512], rel=0.15)


def test_updates_keep_exactly_what_they_share_with_the_version_before():
    trace = anns_trace(AnnsConfig(sessions=60, token_scale=0.05, returns=0.5))
    returned = 0
    for session in trace.sessions:
        versions = list(contexts(session))
        for before, after, event in zip(versions, versions[1:], session.events[1:], strict=False):
            if event.op == "update":
                kept = event.keep_tokens
                assert before[:kept] == after[:kept]
                assert before[kept : kept + 1] != after[kept : kept + 1] or len(before) == kept
        returned += len(set(versions[1:-1])) < len(versions[1:-1])
    assert returned > 10, "versions come back"


def test_sessions_share_documents_by_popularity():
    def share_of_first_document(popularity):
        trace = anns_trace(AnnsConfig(sessions=300, token_scale=0.05, popularity=popularity))
        heads = [list(contexts(session))[-1][40:44] for session in trace.sessions]
        return max(heads.count(head) for head in heads) / len(heads)

    assert share_of_first_document(0.9) > 0.05
    assert share_of_first_document(0.0) < 0.03


@pytest.mark.parametrize("make, config", [(crawler_trace, CrawlerConfig), (anns_trace, AnnsConfig)])
def test_a_seed_fixes_a_trace_and_files_keep_it(make, config, tmp_path):
    options = {"sessions": 20, "token_scale": 0.05, "max_prompt_tokens": 400}
    trace = make(config(seed=3, **options))
    assert trace == make(config(seed=3, **options))
    other = make(config(seed=4, **options))
    assert (other.sessions != trace.sessions, other.sha256 != trace.sha256) == (True, True)
    assert sizes(trace).max() == 400

    write_trace(tmp_path / "t.jsonl", trace.header, trace.events)
    read = read_trace(tmp_path / "t.jsonl")
    assert read.header.details["seed"] == 3
    for mine, theirs in zip(trace.sessions, read.sessions, strict=True):
        assert [event.op for event in mine.events] == [event.op for event in theirs.events]
        assert list(contexts(mine)) == list(contexts(theirs))


def test_qps_and_time_scale():
    slow = crawler_trace(CrawlerConfig(sessions=400, qps=2.0, time_scale=4.0))
    assert slow.sessions[-1].arrival_s == pytest.approx(200, rel=0.15)
    fast = crawler_trace(CrawlerConfig(sessions=400, qps=2.0))
    for one, other in zip(slow.sessions, fast.sessions, strict=True):
        assert one.complete_s - one.arrival_s == pytest.approx(4 * (other.complete_s - other.arrival_s))


@pytest.mark.parametrize("config", [CrawlerConfig, AnnsConfig])
@pytest.mark.parametrize("bad", [{"sessions": 0}, {"token_scale": 0.0}, {"max_prompt_tokens": 10}])
def test_impossible_settings_are_refused(config, bad):
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        config(**bad)


def test_an_impossible_rate_is_refused():
    with pytest.raises(InvalidArgument, match="qps"):
        crawler_trace(CrawlerConfig(qps=0.0))


def test_lognormal_percentiles():
    drawn = LogNormal.of_p50_p95(10.0, 40.0).draw(np.random.default_rng(0), 100_000)
    assert np.percentile(drawn, [50, 95]) == pytest.approx([10, 40], rel=0.03)
    drawn = LogNormal.of_quartiles(1.0, 2.0, 4.0).draw(np.random.default_rng(0), 100_000)
    assert np.percentile(drawn, [25, 50, 75]) == pytest.approx([1, 2, 4], rel=0.03)


def test_split_adds_up():
    rng = np.random.default_rng(0)
    for total, parts in ((5, 5), (100, 7), (3, 1)):
        sizes = split(rng, total, parts, 1.0)
        assert (sum(sizes), len(sizes), min(sizes) >= 1) == (total, parts, True)


def test_pages_and_documents_can_be_passages_of_a_text():
    text = list(range(1000, 1500))
    source = passages_of(text)
    assert source("a", 700)[:10] == source("a", 10)
    assert set(source("a", 700)) == set(text)
    assert source("a", 10) != source("b", 10)

    crawl = crawler_trace(CrawlerConfig(sessions=3, token_scale=0.02), source)
    by_size = crawler_trace(CrawlerConfig(sessions=3, token_scale=0.02))
    assert sizes(crawl).tolist() == sizes(by_size).tolist()
    search = anns_trace(AnnsConfig(sessions=3, token_scale=0.02), source)
    for session in (*crawl.sessions, *search.sessions):
        assert set(list(contexts(session))[-1]) <= set(text)
