"""Readers of formats that only tell arrivals and sizes, and the chunks that are made up for them."""

import gzip
import json

import numpy as np
import pytest

from workloads.published import PUBLISHED
from workloads.readers.azure import open_azure
from workloads.readers.burstgpt import open_burstgpt
from workloads.readers.chunks import ChunkSchedule
from workloads.readers.found import Bad, Draft, ReadOptions, Skipped, ignore
from workloads.readers.mooncake import open_mooncake
from workloads.trace import Event, TraceError

PLAIN = ReadOptions(chunks=False)


def sessions(source):
    return [found.events for found in source.found if isinstance(found, Draft)]


def write_mooncake(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def request(timestamp=0, input_length=600, output_length=9, hash_ids=(0, 1)):
    return {
        "timestamp": timestamp,
        "input_length": input_length,
        "output_length": output_length,
        "hash_ids": list(hash_ids),
    }


def test_mooncake_blocks_become_named_parts(tmp_path):
    path = write_mooncake(tmp_path / "m.jsonl", request(), request(3000, 1025, 2, (0, 7, 8)))
    source = open_mooncake(path, PLAIN, ignore)
    first, second = sessions(source)
    assert first == (
        Event(0.0, "m000001", "open", parts=(("0", 512), ("1", 88)), max_tokens=9),
        Event(0.0, "m000001", "finish"),
    )
    assert second[0].parts == (("0", 512), ("7", 512), ("8", 1)) and second[0].t_s == 3.0
    assert source.made_up == ("tokens (equal where blocks are)",)


def test_chunks_of_mooncake_are_whole_blocks_in_order(tmp_path):
    blocks = tuple(range(40))
    path = write_mooncake(tmp_path / "m.jsonl", request(1000, 40 * 512 - 3, 9, blocks))
    source = open_mooncake(path, ReadOptions(seed=5), ignore)
    ((opened, *appends, finish),) = sessions(source)
    assert (opened.t_s, opened.has_content, opened.max_tokens) == (1.0, False, 9)
    assert {event.op for event in appends} == {"append"} and len(appends) > 1
    assert [name for event in appends for name, _ in event.parts] == [str(block) for block in blocks]
    assert sum(event.size for event in appends) == 40 * 512 - 3
    times_s = [event.t_s for event in (opened, *appends)]
    assert times_s == sorted(set(times_s)) and finish.t_s == times_s[-1]
    assert source.made_up[0] == "arrival of chunks (as the crawler's, seed 5)"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "is a list, expected a JSON object"),
        (request(timestamp=-1), "timestamp is -1, expected a whole number, 0 or more"),
        (request(1500, input_length="600"), "input_length is '600', expected a whole number"),
        (request(1500, output_length=None), "output_length is None"),
        (request(1500, hash_ids=("a",)), "hash_ids is ['a'], expected a list of integers"),
        (request(1500, hash_ids=(1,)), "1 hash_ids, expected 2 for 600 tokens in blocks of 512"),
        (request(timestamp=500), "timestamp is 500, expected 1000 or more (rows in order of time)"),
    ],
)
def test_a_bad_row_of_mooncake_is_named(tmp_path, row, problem):
    line = row if isinstance(row, str) else json.dumps(row)
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(request(1000)) + "\n" + line + "\n" + json.dumps(request(2000)) + "\n")
    found = list(open_mooncake(path, PLAIN, ignore).found)
    assert [type(one) for one in found] == [Draft, Bad, Draft]
    assert found[1].where == f"{path}:2"
    assert problem in found[1].problem


def test_requests_without_input_or_output_are_skipped(tmp_path):
    path = write_mooncake(tmp_path / "m.jsonl", request(output_length=0), request(input_length=0, hash_ids=()))
    found = list(open_mooncake(path, PLAIN, ignore).found)
    assert [one.what for one in found] == ["requests without output", "requests without input"]


BURST_1 = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURST_2 = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (BURST_1, "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,10,3,13,API log\n"),
        (BURST_2, "5.0,a-b,43,ChatGPT,472,18,490,Conversation log\n45.0,,1.5,GPT-4,10,3,13,API log\n"),
    ],
)
def test_both_releases_of_burstgpt(tmp_path, header, rows):
    path = tmp_path / "b.csv"
    path.write_text(header + rows)
    source = open_burstgpt(path, PLAIN, ignore)
    assert [(events[0].t_s, events[0].n_tokens, events[0].max_tokens) for events in sessions(source)] == [
        (0.0, 472, 18),
        (40.0, 10, 3),
    ]
    assert source.made_up == ("all tokens",)


def test_failed_requests_of_burstgpt_are_skipped_and_bad_rows_named(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text(
        BURST_1 + "5,ChatGPT,472,0,472,API log\n6,ChatGPT,1.5,2,3,API log\n7,GPT-4,0,2,2,API log\n4,GPT-4,1,1\n"
    )
    found = list(open_burstgpt(path, PLAIN, ignore).found)
    assert [type(one) for one in found] == [Skipped, Bad, Skipped, Bad]
    assert found[0].what == "requests that failed (no response tokens)" and found[0].where == f"{path}:2"
    assert (found[1].where, found[1].problem) == (
        f"{path}:3",
        "Request tokens is '1.5', expected a whole number, 0 or more",
    )
    assert found[3].problem == "Timestamp is 4, expected 7 or more (rows in order of time)"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"),
        ("2024-05-12 00:00:00.680590+00:00", "2024-05-12 00:00:04.995169+00:00"),
        ("2024-05-12 00:00:00.680590+00:00", "2024-05-12 02:00:04.995169+02:00"),
    ],
)
def test_both_years_of_azure(tmp_path, first, second):
    path = tmp_path / "a.csv"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\r\n{first},374,44\r\n{second},396,109\r\n")
    one, two = sessions(open_azure(path, PLAIN, ignore))
    assert (one[0].t_s, one[0].n_tokens, one[0].max_tokens) == (0.0, 374, 44)
    assert (two[0].t_s, two[0].n_tokens, two[0].max_tokens) == (pytest.approx(4.314579), 396, 109)


def test_bad_rows_of_azure_are_named(tmp_path):
    path = tmp_path / "a.csv"
    rows = ("2023-11-16 18:15:46.68,374,44", "yesterday,1,1", "2023-11-16 18:15:40,1,1", "2023-11-16 18:15:47,-3,1")
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows))
    _, *bad = list(open_azure(path, PLAIN, ignore).found)
    assert [one.where for one in bad] == [f"{path}:{line}" for line in (3, 4, 5)]
    assert "TIMESTAMP is 'yesterday', expected a time such as 2023-11-16 18:15:46" in bad[0].problem
    assert "is before the row above" in bad[1].problem
    assert bad[2].problem == "ContextTokens is '-3', expected a whole number, 0 or more"


def test_compressed_tables_and_progress(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n"))
    told = []
    assert len(sessions(open_azure(path, PLAIN, lambda done, total: told.append((done, total))))) == 1
    assert told[-1] == (path.stat().st_size, path.stat().st_size)
    path.write_bytes(b"not compressed")
    with pytest.raises(TraceError, match="expected a CSV file"):
        sessions(open_azure(path, PLAIN, ignore))


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n"])
def test_a_table_without_the_columns_says_what_it_has(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(TraceError, match=r"a\.csv:1: found columns .*; expected TIMESTAMP, ContextTokens"):
        sessions(open_azure(path, PLAIN, ignore))


def test_output_is_cut_but_never_lengthened():
    assert [ReadOptions(max_tokens=5).output_tokens(told) for told in (3, 9, None)] == [3, 5, 5]
    assert [ReadOptions().output_tokens(told) for told in (9, None)] == [9, 1]


def test_chunks_that_are_made_up_are_like_the_crawlers():
    schedule = ChunkSchedule(seed=0)
    published = PUBLISHED["crawler"]
    drawn = [schedule.draw(5000) for _ in range(4000)]
    counts = [len(sizes) for sizes, _ in drawn]
    gaps_s = np.concatenate([np.diff(times_s) for _, times_s in drawn])
    assert np.mean(counts) == pytest.approx(published["chunks"]["mean"], rel=0.05)
    assert (np.median(counts), max(counts)) == (published["chunks"]["p50"], published["chunks"]["max"])
    assert np.mean(gaps_s) == pytest.approx(published["gap_s"]["mean"], rel=0.05)
    for percent in (5, 25, 50, 75, 95, 99):
        assert np.percentile(gaps_s, percent) == pytest.approx(published["gap_s"][f"p{percent}"], rel=0.06)
    assert np.mean([times_s[-1] for _, times_s in drawn]) == pytest.approx(published["retrieval_s"]["mean"], rel=0.05)
    assert all(sum(sizes) == 5000 and min(sizes) > 0 for sizes, _ in drawn)


def test_a_short_context_has_few_chunks():
    schedule = ChunkSchedule(seed=0)
    assert {len(schedule.draw(2)[0]) for _ in range(50)} <= {1, 2}
    assert schedule.draw(1)[0] == [1]


def test_chunks_depend_on_the_seed_alone(tmp_path):
    path = write_mooncake(tmp_path / "m.jsonl", *(request(n, 9 * 512, 1, range(9)) for n in range(5)))
    one, same, other = (sessions(open_mooncake(path, ReadOptions(seed=seed), ignore)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
