"""From what readers find to a trace: encodings, order, limits."""

import random
from collections import Counter

import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.tokenizer import ByteTokenizer
from workloads.commands.trace_convert import _FORMATS
from workloads.content import joined
from workloads.readers.convert import Limits, convert, header_of
from workloads.readers.encode import size_encoding, text_encoding, token_encoding
from workloads.readers.formats import AUTO, FORMATS, detect
from workloads.readers.found import Bad, Draft, ReadOptions, Skipped, Source, TextEvent, TextPiece, ignore
from workloads.replay.schedule import plan_sessions
from workloads.trace import Event, Header, TraceError, check_trace, read_trace, write_trace

BYTES = token_encoding(ByteTokenizer(), "bytes")
A, B, C, Q = (TextPiece(name, text) for name, text in (("a", "one "), ("b", "two "), ("c", "three "), ("q", "why?")))


def append_session():
    return (
        TextEvent(0.0, "s", "open", max_tokens=3, note="n"),
        TextEvent(1.0, "s", "append", (A,)),
        TextEvent(2.0, "s", "append", (B, Q)),
        TextEvent(2.0, "s", "finish"),
    )


def update_session():
    return (
        TextEvent(0.0, "u", "open", (A,)),
        TextEvent(1.0, "u", "update", (A, B, Q)),
        TextEvent(2.0, "u", "update", (A, C, Q)),
        TextEvent(3.0, "u", "update", (C,)),
        TextEvent(3.0, "u", "finish"),
    )


def test_text_stays_text():
    assert text_encoding().encode(append_session()) == (
        Event(0.0, "s", "open", max_tokens=3, note="n"),
        Event(1.0, "s", "append", text="one "),
        Event(2.0, "s", "append", text="two why?"),
        Event(2.0, "s", "finish"),
    )
    assert text_encoding().encode(update_session())[1:4] == (
        Event(1.0, "u", "update", text="two why?", keep_chars=4),
        Event(2.0, "u", "update", text="hree why?", keep_chars=5),  # "t" of "two" stays
        Event(3.0, "u", "update", text="three "),
    )


def test_sizes_keep_identities():
    events = size_encoding(0.5).encode(update_session())
    assert [event.parts for event in events] == [
        (("a", 2),),
        (("a", 2), ("b", 2), ("q", 2)),
        (("a", 2), ("c", 3), ("q", 2)),
        (("c", 3),),
        None,
    ]
    assert size_encoding(0.01).encode(append_session())[1].parts == (("a", 1),)
    assert size_encoding(0.5).made_up == ("tokens of texts (estimated, 0.5 a character)",)
    with pytest.raises(InvalidArgument, match="tokens_per_char is 0"):
        size_encoding(0)


class PairTokenizer(ByteTokenizer):
    """Merges two equal letters into one token, so that text may merge across pieces."""

    restart_rule = None

    def encode(self, text, *, add_bos=False):
        ids = super().encode(text, add_bos=add_bos).tolist()
        merged = []
        for token in ids:
            if merged and merged[-1] == token:
                merged[-1] = token + 300
            else:
                merged.append(token)
        return np.array(merged, np.int32)


def test_tokens_are_in_the_end_those_of_the_whole_text():
    rng = random.Random(3)
    tokenizer = PairTokenizer()
    ops = Counter()
    for _ in range(100):
        context, drafts, expected = [], [], []
        for number in range(6):
            texts = ("".join(rng.choices("ab", k=rng.randint(1, 5))) for _ in range(2))
            pieces = tuple(TextPiece(str(rng.random()), text) for text in texts)
            op = "open" if number == 0 else rng.choice(["append", "update"])
            if op == "update":
                pieces = (*context[: rng.randint(0, len(context))], *pieces)
                context = []
            context += pieces
            drafts.append(TextEvent(float(number), "s", op, pieces))
            expected.append(tokenizer.encode("".join(piece.text for piece in context)).tolist())
        tokens = []
        events = token_encoding(tokenizer, "pairs").encode(drafts)
        ops.update((draft.op, event.op) for draft, event in zip(drafts, events, strict=True))
        for number, (event, whole) in enumerate(zip(events, expected, strict=True)):
            tokens = [*(tokens[: event.keep_tokens] if event.op == "update" else tokens), *event.tokens]
            if number < 5 and drafts[number + 1].op == "append":
                assert tokens == whole[: len(tokens)] and len(whole) - len(tokens) <= 1
            else:
                assert tokens == whole
    assert (
        ops["append", "append"] > 20 * ops["append", "update"]
    )  # after an update that only cuts, nothing can be taken
    assert ops["update", "update"] > 50 and ops["open", "open"] == 100


def test_tokens_that_merge_with_what_is_appended_come_with_that():
    def encoded(*texts):
        drafts = [
            TextEvent(float(number), "s", "append" if number else "open", (TextPiece(text, text),))
            for number, text in enumerate(texts)
        ]
        events = token_encoding(PairTokenizer(), "pairs").encode(drafts)
        return [(event.op, event.keep_tokens, event.tokens) for event in events]

    a, b, pair = ord("a"), ord("b"), ord("a") + 300
    assert encoded("ba", "ab") == [("open", 0, (b,)), ("append", 0, (pair, b))]
    assert encoded("ba", "a", "b") == [("open", 0, (b,)), ("append", 0, (pair,)), ("append", 0, (b,))]
    assert encoded("ba", "", "a") == [("open", 0, (b, a)), ("append", 0, ()), ("update", 1, (pair,))]  # nothing to take


def source(*found, made_up=()):
    return Source("w", "from somewhere", made_up, iter(found), {"k": 1})


def request(name, at_s, n_tokens, end_s=None):
    end_s = at_s if end_s is None else end_s
    events = (
        Event(at_s, name, "open"),
        Event(end_s, name, "append", n_tokens=n_tokens),
        Event(end_s, name, "finish"),
    )
    return Draft(events)


def test_events_of_overlapping_sessions_are_written_in_order(tmp_path):
    rng = random.Random(0)
    drafts = [request(f"s{n}", float(n), 5, n + rng.uniform(0, 30)) for n in range(200)]
    done = convert(source(*drafts), text_encoding(), tmp_path / "t.jsonl", Limits())
    assert (done.sessions, done.events) == (200, 600)
    assert check_trace(tmp_path / "t.jsonl").problems == ()
    assert read_trace(tmp_path / "t.jsonl").sessions[7].events == drafts[7].events[:1] + tuple(
        Event(round(event.t_s, 6), event.session, event.op, n_tokens=event.n_tokens) for event in drafts[7].events[1:]
    )


def test_events_are_written_as_soon_as_nothing_earlier_can_come(tmp_path):
    """So a long source does not fill the memory: at most the sessions that are open wait."""
    out = tmp_path / "t.jsonl"
    written = []

    def found():
        for n in range(3000):
            yield request(f"s{n}", float(n), 5, n + 2.0)
            written.append((tmp_path / "t.jsonl.partial").stat().st_size)

    convert(Source("w", "", (), found()), text_encoding(), out, Limits())
    assert written[1500] > 0.4 * out.stat().st_size


def test_limits_and_counts(tmp_path):
    found = (
        request("a", 0.0, 10),
        Skipped("requests that failed", "f:2"),
        request("b", 1.0, 11),
        Bad("f:4", "x is 3, expected 4"),
        Skipped("requests that failed", "f:5"),
        request("c", 2.0, 10),
        request("d", 3.0, 10),
    )
    out = tmp_path / "t.jsonl"
    done = convert(source(*found), text_encoding(), out, Limits(2, 10, True))
    assert [session.session for session in read_trace(out).sessions] == ["a", "c"]
    assert done.skipped == {"requests that failed": 2, "sessions of more than 10 tokens": 1, "bad rows": 1}
    assert done.bad == ["f:4: x is 3, expected 4"]


def test_a_bad_row_stops_the_conversion_and_leaves_no_file(tmp_path):
    with pytest.raises(TraceError, match=r"f:4: x is 3, expected 4 \(--skip-bad"):
        convert(source(request("a", 0.0, 1), Bad("f:4", "x is 3, expected 4")), BYTES, tmp_path / "t", Limits())
    with pytest.raises(TraceError, match=r"no session could be written; skipped: .*empty ones"):
        convert(source(Skipped("empty ones", "f")), BYTES, tmp_path / "t", Limits())
    assert list(tmp_path.iterdir()) == []


def test_a_limit_in_tokens_needs_tokens(tmp_path):
    limits = Limits(max_prompt_tokens=5)
    with pytest.raises(InvalidArgument, match="--tokenize MODEL or --tokens-per-char"):
        convert(source(Draft(append_session())), text_encoding(), tmp_path / "t", limits)
    done = convert(source(Draft(append_session()), Draft(update_session())), BYTES, tmp_path / "t", Limits(None, 8))
    assert (done.sessions, done.skipped) == (1, {"sessions of more than 8 tokens": 1})


def test_the_header_says_what_was_made_up():
    header = header_of(source(made_up=("arrivals", "chunks")), size_encoding(0.25))
    assert header.made_up == "arrivals; chunks; tokens of texts (estimated, 0.25 a character)"
    assert header.details["tokens"] == "estimated, 0.25 a character" and header.details["k"] == 1
    assert "made_up" not in header_of(source(), text_encoding()).details


def test_our_own_traces_can_be_cut_tokenized_and_compressed(tmp_path):
    events = [
        Event(0.0, "a", "open", text="head ", max_tokens=9),
        Event(0.5, "b", "open", tokens=(1, 2), max_tokens=2),
        Event(1.0, "a", "append", text="old tail"),
        Event(1.5, "b", "finish"),
        Event(2.0, "a", "update", text="new tail", keep_chars=7),
        Event(3.0, "a", "finish"),
    ]
    path = tmp_path / "t.jsonl"
    write_trace(path, Header("t", "s", {"made_up": "all of it", "seed": 1}), events)
    out = tmp_path / "out.jsonl.gz"

    def run(encoding, options=None, limits=None):
        convert(FORMATS["s2l"](path, options or ReadOptions(), ignore), encoding, out, limits or Limits())
        return read_trace(out)

    same = run(text_encoding())
    assert list(same.events) == events
    assert same.header == read_trace(path).header
    tokens = run(BYTES, ReadOptions(max_tokens=4), Limits(sessions=1))
    (session,) = tokens.sessions
    (planned,) = plan_sessions(tokens.sessions, "wait", None, 0, 256)
    assert planned.pieces[0][1].content.tolist() == list(b"head olnew tail")
    assert session.events[0].max_tokens == 4
    sizes = run(size_encoding(1.0))
    assert [count for _, count in sizes.sessions[0].events[-2].parts] == [5, 2, 8]
    assert sizes.sessions[1].events[0].tokens == (1, 2)
    shown = joined(sizes.sessions[0].events[1].parts, 5000).tolist()
    assert joined(sizes.sessions[0].events[2].parts, 5000).tolist()[5:7] == shown[:2]  # the part that was cut


def test_formats_are_found_out(tmp_path):
    files = {
        "s2l": '{"s2l_trace": 1}\n',
        "mooncake": '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}\n',
        "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n",
        "burstgpt": "\ufeffTimestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        assert detect(tmp_path / name) == name
    for name, file in (("crawler", "query_1.csv"), ("anns", "query_trace_map_5k.json")):
        folder = tmp_path / f"{name} folder"
        folder.mkdir()
        (folder / file).touch()
        assert detect(folder) == name
    (tmp_path / "other").write_text("a,b,c\n")
    for path in (tmp_path, tmp_path / "other", tmp_path / "none"):
        with pytest.raises(TraceError):
            detect(path)
    assert set(_FORMATS) == {AUTO, *FORMATS}
