import asyncio

import aiohttp
import numpy as np
import pytest
from click.testing import CliRunner

from s2l_jax.core.errors import InvalidArgument
from workloads.commands.trace import trace as trace_command
from workloads.crawl.crawler import CrawlConfig, crawl
from workloads.crawl.docs import find_python_docs
from workloads.crawl.extract import Link, Passage, extract_links, extract_page
from workloads.crawl.questions import questions_about
from workloads.crawl.record import record_crawl
from workloads.crawl.search import PassageIndex, best_passage, query_words
from workloads.crawl.site import Site, SiteConfig
from workloads.prompt import Prompt
from workloads.trace import read_trace

PAGE = """<html><head><title>{name} — A library — The docs</title><script>var lru_cache;</script></head>
<body><nav><p>navigation about {name}</p></nav><main>
<h1>{name}<a class="headerlink" href="#x">¶</a></h1><p>The {name} module is about {topic}.</p>
<dl><dt class="sig">{name}.work(x)</dt><dt class="sig">{name}.work(x, y)</dt>
<dd><p>Does the {topic} work &amp; returns it.</p><pre>def f():
    return {name}</pre><ul><li>one</li><li><p>two</p></li></ul>
<table><tr><th>a</th><td><p>b</p></td></tr></table></dd></dl></main></body></html>"""
TOPICS = {"alpha": "juggling", "beta": "juggling", "gamma": "sailing", "delta": "juggling"}


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "library").mkdir(parents=True)
    for name, topic in TOPICS.items():
        (folder / "library" / f"{name}.html").write_text(PAGE.format(name=name, topic=topic))
    (folder / "genindex.html").write_text(PAGE.format(name="index", topic="juggling"))
    return folder


def test_extraction_keeps_structure_and_drops_clutter():
    page = extract_page(PAGE.format(name="alpha", topic="juggling"), 500)
    assert page.title == "alpha — A library"
    assert page.passages == (
        Passage("alpha", "The alpha module is about juggling."),
        Passage(
            "alpha.work(x) alpha.work(x, y)",
            "Does the juggling work & returns it.\ndef f():\n    return alpha\n- one\ntwo\na | b",
        ),
    )


@pytest.mark.parametrize("max_chars", [10, 25, 60])
def test_long_text_is_cut_without_losing_words(max_chars):
    words = [f"word{number}" for number in range(50)]
    page = extract_page(f"<body><h2>h</h2><p>{' '.join(words)}</p></body>", max_chars)
    assert all(len(passage.text) <= max_chars for passage in page.passages)
    assert " ".join(passage.text for passage in page.passages).split() == words
    assert [passage.leads for passage in page.passages] == [True] + [False] * (len(page.passages) - 1)


def test_text_without_a_space_is_cut_all_the_same():
    page = extract_page(f"<body><p>{'x' * 95}</p></body>", 30)
    assert [len(passage.text) for passage in page.passages] == [30, 30, 30, 5]


@pytest.mark.parametrize("html", ["", "<html></html>", "not html", b"\xff\xfe\x00", "<title>only</title>"])
def test_any_bytes_are_a_page(html):
    extract_page(html, 100)


def test_search_prefers_headings_and_understands_names():
    index = PassageIndex()
    for name in ("lru_cache", "cache"):
        html = f"<title>{name} — docs</title><body><h1>functools.{name}</h1><p>It may remember.</p></body>"
        index.add(name, extract_page(html, 100))
    index.add("news", extract_page("<body><h1>News</h1><p>functools.lru_cache is faster now.</p></body>", 100))
    assert [hit.url for hit in index.search_pages("What does functools.lru_cache do?", 5)][:2] == ["lru_cache", "news"]
    assert len(index.search_pages("What does functools.lru_cache do?", 1)) == 1
    assert index.search("what is the", 5) == []
    assert index.search('"; DROP TABLE passages; --', 5) == []


def test_words_without_meaning_are_not_searched_for():
    assert query_words("What does functools.lru_cache do to my Cache, and the cache?") == [
        "functools",
        "lru_cache",
        "my",
        "cache",
    ]


def test_best_passage_of_a_page():
    page = extract_page(PAGE.format(name="alpha", topic="juggling"), 500)
    assert best_passage(page, "what does alpha.work return?").heading.startswith("alpha.work")
    assert best_passage(page, "unrelated").heading == "alpha"
    assert best_passage(extract_page("", 100), "anything") is None


def test_latencies_are_those_of_the_seed_and_lognormal():
    config = SiteConfig(latency_p50_s=2.0, latency_sigma=0.9, seed=4)
    drawn_s = np.array([config.latency_s(f"/docs/{number}") for number in range(4000)])
    assert drawn_s[0] == config.latency_s("/docs/0")
    assert np.median(drawn_s) == pytest.approx(2.0, rel=0.1)
    assert np.log(drawn_s).std() == pytest.approx(0.9, rel=0.1)
    assert SiteConfig(latency_scale=0.0).latency_s("/docs/0") == 0.0
    with pytest.raises(InvalidArgument, match="latency_p50_s"):
        SiteConfig(latency_p50_s=-1.0)


def test_crawl_opens_at_once_and_ends_with_the_question(docs):
    async def events():
        async with Site(docs, SiteConfig(latency_p50_s=0.01)) as site, aiohttp.ClientSession() as http:
            config = CrawlConfig(pages=3, passage_chars=200, max_tokens=9)
            return [event async for event in crawl("q", "Who does juggling?", site.url, http, config, Prompt())]

    happened = asyncio.run(events())
    assert [event.op for event in happened] == ["open", "append", "append", "append", "finish"]
    assert (happened[0].text, happened[0].max_tokens) == (Prompt().head, 9)
    assert {event.note for event in happened[1:-1]} == {
        f"/docs/library/{name}.html" for name in ("alpha", "beta", "delta")
    }
    assert "juggling" in happened[1].text
    assert happened[-2].text.endswith(Prompt().tail("Who does juggling?"))
    assert happened[-1].t_s == happened[-2].t_s
    times_s = [event.t_s for event in happened]
    assert times_s == sorted(times_s)


def test_links_are_those_of_the_text_made_absolute():
    html = """<body><nav><a href="/docs/other.html">other</a></nav><main><p><a href="a.html#part">The <b>A</b>
    page</a> <a href="#here">here</a> <a href="../b/c.html">C</a> <a href="https://example.org/x">X</a> <a>none</a></p>
    </main></body>"""
    assert extract_links(html, "/docs/library/self.html") == [
        Link("/docs/library/a.html", "The A page"),
        Link("/docs/b/c.html", "C"),
        Link("https://example.org/x", "X"),
    ]
    assert extract_links("", "/docs/self.html") == []


@pytest.fixture
def linked_docs(tmp_path):
    """A page that the search finds links to others that it does not; these link on, and back."""
    folder = tmp_path / "linked"
    folder.mkdir()

    def write(name, text, *links):
        anchors = "".join(f'<a href="{link}.html">{link}</a> ' for link in links)
        (folder / f"{name}.html").write_text(f"<body><main><h1>{name}</h1><p>{text} {anchors}</p></main></body>")

    write("start", "All about juggling.", "clubs", "balls", "balls", "start", "rings")
    write("balls", "Round.", "far", "start")
    write("clubs", "Long.", "start")
    write("rings", "Flat.")
    write("far", "Far away.", "farther")
    write("farther", "Farther away.")
    return folder


@pytest.mark.parametrize(
    "depth, links, expected",
    [
        (1, 2, {"start"}),
        (2, 1, {"start", "balls"}),
        (2, 3, {"start", "balls", "clubs", "rings"}),
        (3, 2, {"start", "balls", "clubs", "far"}),
        (9, 9, {"start", "balls", "clubs", "rings", "far", "farther"}),
    ],
)
def test_links_are_followed_as_deep_as_asked_for_those_that_fit_the_question_first(linked_docs, depth, links, expected):
    async def events():
        async with Site(linked_docs, SiteConfig(latency_scale=0.0)) as site, aiohttp.ClientSession() as http:
            config = CrawlConfig(pages=1, depth=depth, links=links)
            return [event async for event in crawl("q", "juggling balls", site.url, http, config, Prompt())]

    happened = asyncio.run(events())
    notes = [event.note for event in happened if event.op == "append"]
    assert sorted(notes) == sorted(f"/docs/{name}.html" for name in expected), "each page once"
    assert happened[-2].text.endswith(Prompt().tail("juggling balls"))
    assert happened[-1].op == "finish"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_pages_are_read_at_once_as_many_as_asked_for(docs, concurrency):
    reading, most = 0, 0

    class Watched(Site):
        async def _page(self, request):
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            await asyncio.sleep(0.01)
            reading -= 1
            return await super()._page(request)

    async def run():
        async with Watched(docs, SiteConfig(latency_scale=0.0)) as site, aiohttp.ClientSession() as http:
            config = CrawlConfig(pages=3, concurrency=concurrency)
            return [event async for event in crawl("q", "juggling", site.url, http, config, Prompt())]

    asyncio.run(run())
    assert most == concurrency


def test_further_questions_ask_what_documented_functions_do():
    headings = ["Introduction", "json.dumps(obj, *)", "class asyncio.Queue(maxsize=0)", "print(x)", "json.dumps(x) y"]
    asked = questions_about(headings, 3, 0, ["What is it?"])
    assert asked[0] == "What is it?"
    assert sorted(asked[1:]) == ["What does asyncio.Queue do?", "What does json.dumps do?"]
    assert questions_about(headings, 1, 0, ["What is it?"]) == ["What is it?"]
    with pytest.raises(InvalidArgument, match="4 questions are asked for, but there are only 3"):
        questions_about(headings, 4, 0, ["What is it?"])


def test_the_command_records_a_crawl(docs, tmp_path):
    path = tmp_path / "t.jsonl"
    options = ("--docs", docs, "--delay", 0, "--questions", 3, "--qps", 200, "--pages", 2, "--max-tokens", 5)
    result = CliRunner().invoke(trace_command, ["crawl", *map(str, options), "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert "3 questions" in result.output
    trace = read_trace(path)
    assert len(trace.sessions) == 3
    assert {session.events[0].note for session in trace.sessions} <= {f"What does {name}.work do?" for name in TOPICS}
    assert all(session.events[0].max_tokens == 5 for session in trace.sessions)
    assert all(1 <= len(session.events) - 2 <= 2 for session in trace.sessions)
    assert trace.header.details["crawl"]["pages"] == 2

    assert "concurrency" in str(
        CliRunner().invoke(trace_command, ["crawl", "--concurrency", "0", "--out", "x"]).exception
    )


def test_without_documentation_the_command_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("workloads.crawl.docs.find_python_docs", lambda cache, say: None)
    result = CliRunner().invoke(trace_command, ["crawl", "--out", str(tmp_path / "t.jsonl")])
    assert "--docs" in str(result.exception)


def test_a_page_that_is_gone_is_left_out(docs):
    async def events():
        async with Site(docs, SiteConfig(latency_scale=0.0)) as site, aiohttp.ClientSession() as http:
            (docs / "library" / "beta.html").unlink()
            return [event async for event in crawl("q", "juggling", site.url, http, CrawlConfig(), Prompt())]

    happened = asyncio.run(events())
    assert happened[-2].text.endswith(Prompt().tail("juggling"))
    assert "beta" not in "".join(event.text or "" for event in happened)
    assert happened[-1].op == "finish"


def test_a_question_without_pages_is_asked_all_the_same(docs):
    async def events():
        async with Site(docs, SiteConfig(latency_scale=0.0)) as site, aiohttp.ClientSession() as http:
            return [event async for event in crawl("q", "zebra", site.url, http, CrawlConfig(), Prompt())]

    assert [event.op for event in asyncio.run(events())] == ["open", "append", "finish"]


def test_site_gives_nothing_from_outside(docs):
    (docs.parent / "secret.html").write_text("secret")

    async def statuses():
        async with Site(docs, SiteConfig(latency_scale=0.0)) as site, aiohttp.ClientSession() as http:
            found = []
            for path in ("/docs/library/alpha.html", "/docs/..%2Fsecret.html", "/docs/none.html", "/search?q=x&k=many"):
                async with http.get(aiohttp.client.URL(site.url + path, encoded=True)) as response:
                    found.append(response.status)
            return found

    assert asyncio.run(statuses()) == [200, 404, 404, 400]


def test_recorded_crawl_is_a_trace(docs, tmp_path):
    async def record():
        config = SiteConfig(latency_scale=0.0)
        async with Site(docs, config) as site:
            questions = ["Who does juggling?", "Who goes sailing?"]
            await record_crawl(
                tmp_path / "t.jsonl", questions, site, "made up", config, CrawlConfig(pages=2), Prompt(), [0, 0]
            )

    asyncio.run(record())
    trace = read_trace(tmp_path / "t.jsonl")
    assert [session.session for session in trace.sessions] == ["q01", "q02"]
    assert trace.sessions[1].events[0].note == "Who goes sailing?"
    assert trace.header.source == "made up"
    assert trace.header.details["crawl"]["pages"] == 2


def test_site_without_pages_says_so(tmp_path):
    with pytest.raises(InvalidArgument, match="no HTML page"):
        Site(tmp_path, SiteConfig())


def test_installed_documentation_is_found_first(tmp_path):
    library = tmp_path / "usr/share/doc/python3.11/html/library"
    library.mkdir(parents=True)
    (library / "functools.html").touch()
    found = find_python_docs(tmp_path / "cache", lambda _: None, system_root=tmp_path)
    assert found is not None
    assert found.root == library.parent
    assert "PSF" in found.source


def test_without_apt_there_is_none_and_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    assert find_python_docs(tmp_path / "cache", said.append, system_root=tmp_path) is None
    assert "No apt-get" in said[0]
