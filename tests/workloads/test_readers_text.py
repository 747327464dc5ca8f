"""Readers of formats that bring text: Stream2LLM's crawls and vector searches."""

import csv
import json

import pytest

from workloads.prompt import Prompt
from workloads.readers.anns import open_anns
from workloads.readers.crawler import open_crawler
from workloads.readers.found import Bad, Draft, ReadOptions, Skipped, ignore
from workloads.trace import TraceError

PROMPT = Prompt(head="HEAD ", before_question="Q: ", after_question=" A:")
OPTIONS = ReadOptions(seed=1, qps=2.0, prompt=PROMPT)
HEADER = ("type", "url", "startTime", "endTime", "query", "content")


def write_crawl(folder, number, *rows, header=HEADER):
    with (folder / f"query_{number}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def search(start_s, end_s, query="why?"):
    return ("tavily_search", "", start_s, end_s, query, "")


def page(start_s, end_s, content):
    return ("page_scrape", "http://x", start_s, end_s, "", content)


def texts(event):
    return "".join(piece.text for piece in event.pieces)


def read(opened):
    return list(opened.found)


def test_a_crawl_opens_with_the_query_and_grows_page_by_page(tmp_path):
    write_crawl(tmp_path, 3, page(0.5, 4.0, "second"), search(0.5, 2.0), page(2.0, 2.5, "first\nline"))
    source = open_crawler(tmp_path, OPTIONS, ignore)
    (draft,) = read(source)
    assert isinstance(draft, Draft)
    opened, *rest = draft.events
    assert (opened.op, opened.t_s, opened.pieces, opened.note, opened.max_tokens) == ("open", 0.0, (), "why?", 1)
    assert [(event.op, event.t_s, texts(event)) for event in rest] == [
        ("append", 1.5, "HEAD "),
        ("append", 2.0, "first\nline\n"),
        ("append", 3.5, "second\nQ: why? A:"),
        ("finish", 3.5, ""),
    ]
    assert source.made_up == ("arrival of queries (Poisson, 2 a second, seed 1)",)


def test_crawls_come_in_the_order_of_their_ids_and_arrive_at_random(tmp_path):
    for number in (10, 9, 2):
        write_crawl(tmp_path, number, search(0, 1), page(1, 2, "x"))
    found = read(open_crawler(tmp_path, OPTIONS, ignore))
    assert [draft.events[0].session for draft in found] == ["query_2", "query_9", "query_10"]
    arrivals_s = [draft.events[0].t_s for draft in found]
    assert arrivals_s[0] == 0.0 and arrivals_s == sorted(set(arrivals_s))
    again = read(open_crawler(tmp_path, ReadOptions(seed=2, qps=2.0, prompt=PROMPT), ignore))
    assert [draft.events[0].t_s for draft in again] != arrivals_s


def test_equal_pages_have_equal_names(tmp_path):
    write_crawl(tmp_path, 1, search(0, 1), page(1, 2, "same"), page(1, 3, "other"))
    write_crawl(tmp_path, 2, search(0, 1), page(1, 2, "same"))
    first, second = (draft.events for draft in read(open_crawler(tmp_path, OPTIONS, ignore)))
    assert first[2].pieces[0] == second[2].pieces[0]
    assert first[2].pieces[0].name != first[3].pieces[0].name


def test_a_page_may_be_longer_than_csv_expects(tmp_path):
    write_crawl(tmp_path, 1, search(0, 1), page(1, 2, "x" * 300_000))
    (draft,) = read(open_crawler(tmp_path, OPTIONS, ignore))
    assert len(texts(draft.events[2])) > 300_000


def test_crawls_without_pages_are_skipped_and_do_not_arrive(tmp_path):
    write_crawl(tmp_path, 1, search(0, 1))
    write_crawl(tmp_path, 2, search(0, 1)[:-1], header=HEADER[:-1])
    write_crawl(tmp_path, 3, search(0, 1), page(1, 2, "x"))
    nothing, no_content, draft = read(open_crawler(tmp_path, OPTIONS, ignore))
    assert (nothing.what, no_content.what[:31]) == ("queries without a page", "queries without a column conten")
    assert draft.events[0].t_s == 0.0


@pytest.mark.parametrize(
    ("rows", "line", "problem"),
    [
        ([search(0, 1), page(1, "soon", "x")], 3, "endTime is 'soon', expected a number"),
        ([search(0, 1), page(1, "", "x")], 3, "endTime is '', expected a number"),
        ([search(0, 1), page(3, 2, "x")], 3, "endTime is 2, expected 3 (startTime) or more"),
        (
            [search(0, 1), page(1, 2, "a\nb\nc"), ("pdf", "", 1, 2, "", "")],
            6,
            "type is 'pdf', expected tavily_search or",
        ),
        ([page(1, 2, "x")], None, "has no row of type tavily_search with a query"),
        ([search(0, 1, ""), page(1, 2, "x")], None, "has no row of type tavily_search with a query"),
    ],
)
def test_a_bad_row_of_a_crawl_is_named(tmp_path, rows, line, problem):
    write_crawl(tmp_path, 7, *rows)
    (bad,) = read(open_crawler(tmp_path, OPTIONS, ignore))
    assert isinstance(bad, Bad)
    assert bad.where == f"{tmp_path / 'query_7.csv'}" + (f":{line}" if line else "")
    assert problem in bad.problem


def test_a_crawl_that_lacks_columns_says_which_are_expected(tmp_path):
    (tmp_path / "query_1.csv").write_text("type,endTime\n")
    (tmp_path / "query_2.csv").write_bytes(b"type,startTime,endTime,query,content\npage_scrape,0,1,,\xff\n")
    columns, encoding = read(open_crawler(tmp_path, OPTIONS, ignore))
    assert columns.where.endswith("query_1.csv:1")
    assert columns.problem == (
        "found columns type, endTime; expected type, startTime, endTime, query, content among them"
    )
    assert "expected a row of CSV in UTF-8" in encoding.problem


def test_a_folder_without_crawls_says_what_was_expected(tmp_path):
    with pytest.raises(TraceError, match=r"found no query_\*\.csv"):
        open_crawler(tmp_path, OPTIONS, ignore)


def write_anns(folder, queries, rows, corpus, place="res"):
    (folder / place).mkdir(exist_ok=True)
    mapping = {str(key): {"query": f"q{key}?", "trace_file": f"t{key}.csv"} for key in queries}
    (folder / "query_trace_map_5k.json").write_text(json.dumps(mapping))
    for key, lines in rows.items():
        header = "StartTime_us,EndTime_us,StartIteration,EndIteration,PipelinePool\n"
        body = "".join(f'{start},{end},0,1,"{pool}"\n' for start, end, pool in lines)
        (folder / place / f"t{key}.csv").write_text(header + body)
    for number, part in enumerate(corpus):
        (folder / f"retrieved_corpus_content.part.{number}.json").write_text(json.dumps(part))


CORPUS = [{"1": "one", "2": "two"}, {"3": "three"}]


@pytest.mark.parametrize("place", ["res", "."])
def test_a_search_replaces_its_list(tmp_path, place):
    rows = {0: [(100, 500_100, "(1, 2)"), (500_100, 1_500_100, "(1,3)"), (1_500_100, 1_600_100, "(3,)")]}
    write_anns(tmp_path, [0], rows, CORPUS, place)
    (draft,) = read(open_anns(tmp_path, OPTIONS, ignore))
    opened, *versions, finish = draft.events
    assert (opened.op, opened.pieces, opened.note) == ("open", (), "q0?")
    assert [(event.op, event.t_s) for event in versions] == [
        ("update", 0.5),
        ("update", 1.5),
        ("update", pytest.approx(1.6)),
    ]
    assert [texts(event) for event in versions] == [
        "HEAD one\ntwo\nQ: q0? A:",
        "HEAD one\nthree\nQ: q0? A:",
        "HEAD three\nQ: q0? A:",
    ]
    assert [piece.name for piece in versions[1].pieces][1:3] == ["document 1", "document 3"]
    assert finish.t_s == versions[-1].t_s


def test_searches_skip_what_is_not_there_and_say_so(tmp_path):
    write_anns(tmp_path, [11, 2, 7], {2: [(0, 5, "(1,99)")], 7: []}, CORPUS)
    found = read(open_anns(tmp_path, OPTIONS, ignore))
    assert [one.what for one in found if isinstance(one, Skipped)] == [
        "documents without a text",
        "queries without a result",
        "queries whose trace file is not there",
    ]
    (draft,) = (one for one in found if isinstance(one, Draft))
    assert texts(draft.events[1]) == "HEAD one\nQ: q2? A:"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((5, 4, "(1,)"), "EndTime_us is 4, expected 5 (StartTime_us) or more"),
        ((0, "x", "(1,)"), "EndTime_us is 'x', expected a number"),
        ((0, 4, "1 2"), "PipelinePool is '1 2', expected documents such as (17, 4, 23)"),
        ((0, 4, "(a, b)"), "PipelinePool is '(a, b)'"),
    ],
)
def test_a_bad_row_of_a_search_is_named(tmp_path, row, problem):
    write_anns(tmp_path, [0], {0: [(0, 1, "(1,)"), row]}, CORPUS)
    (bad,) = read(open_anns(tmp_path, OPTIONS, ignore))
    assert bad.where == f"{tmp_path / 'res' / 't0.csv'}:3"
    assert problem in bad.problem


def test_a_search_folder_must_be_complete(tmp_path):
    with pytest.raises(TraceError, match="found no query_trace_map"):
        open_anns(tmp_path, OPTIONS, ignore)
    write_anns(tmp_path, [0], {}, [])
    with pytest.raises(TraceError, match="found no retrieved_corpus_content"):
        open_anns(tmp_path, OPTIONS, ignore)
    write_anns(tmp_path, [0], {}, [{"1": 5}])
    with pytest.raises(TraceError, match="document '1' is 5, expected a text"):
        open_anns(tmp_path, OPTIONS, ignore)
    (tmp_path / "query_trace_map_5k.json").write_text('{"0": {"query": "x"}}')
    write = tmp_path / "retrieved_corpus_content.part.0.json"
    write.write_text("{}")
    (bad,) = read(open_anns(tmp_path, OPTIONS, ignore))
    assert "trace_file" in bad.problem and "query '0'" in bad.where
