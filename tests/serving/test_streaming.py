"""`s2l.v1.StreamingContext` over a fake engine, through the asynchronous client and through bare messages."""

import asyncio
import threading
from collections.abc import Iterable

import grpc
import grpc.aio
import pytest

from s2l_jax.core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    ResourceExhausted,
)
from serving.client import Accepted, AsyncClient, Progress, SamplingParams, Token
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.protos.s2l.v1 import streaming_pb2_grpc
from tests.serving.harness import MAX_MODEL_LEN, Sizes, eventually, run, world

GREEDY = SamplingParams(max_tokens=6)


def _text(text: str) -> pb.Content:
    return pb.Content(text=text)


async def _exchange(port: int, requests: Iterable[pb.SessionRequest]) -> list[pb.SessionResponse]:
    """Sends bare messages, then half-closes, and returns all responses."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = streaming_pb2_grpc.StreamingContextStub(channel).Session(timeout=10)
        for request in requests:
            await call.write(request)
        await call.done_writing()
        return [response async for response in call]


async def _status(port: int, requests: Iterable[pb.SessionRequest]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _exchange(port, requests)
    assert "Traceback" not in (caught.value.details() or "")
    return caught.value.code()


def _tokens(max_tokens: int) -> pb.SamplingParams:
    return pb.SamplingParams(max_tokens=max_tokens)


def test_pieces_answer_like_the_whole() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            async with client.session(GREEDY) as session:
                await session.append("The quick ")
                await session.append("brown fox")
                await session.finish()
                events = [event async for event in session.events()]
                result = await session.result()
            whole = await client.generate("The quick brown fox", GREEDY)
            assert result.text == whole.text == one.expected("The quick brown fox", 6)
            assert len(result.token_ids) == 6
            assert result.finish_reason == "length"
            assert result.done.prompt_tokens == 19
            accepted = [event for event in events if isinstance(event, Accepted)]
            assert [event.seq for event in accepted] == [1, 2, 3, 4]
            assert [event.context_tokens for event in accepted] == [0, 10, 19, 19]
            first_token = next(i for i, event in enumerate(events) if isinstance(event, Token))
            assert isinstance(events[first_token - 1], Accepted | Progress)
            assert events.index(accepted[-1]) < first_token
            assert result.ttft_final_s is not None and result.ttft_open_s is not None
            assert 0 < result.ttft_final_s <= result.ttft_open_s <= result.wall_s
            assert 0 < result.done.ttft_final_s <= result.done.ttft_open_s
            assert len(result.token_times_s) == 6 and result.tpot_s is not None

    run(test)


def test_token_ids_and_bos() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            result = await client.generate([1, 2, 3], GREEDY, add_bos=True)
            assert list(result.token_ids) == one.engine.reference_output([256, 1, 2, 3], 6)
            with pytest.raises(InvalidArgument, match="300"):
                await client.generate([1, 300], GREEDY)
            with pytest.raises(InvalidArgument, match="token id"):
                await client.generate([1, "two"], GREEDY)  # type: ignore[list-item]

    run(test)


def test_update_replaces_the_tail() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            async with client.session(GREEDY, content="alpha beta gamma") as session:
                await session.update("delta", keep_chars=6)
                await session.update("alpha delta epsilon", final=True)
                accepted = [event async for event in session.events() if isinstance(event, Accepted)]
                result = await session.result()
            assert [event.kept_tokens for event in accepted] == [0, 6, 11]
            assert result.text == one.expected("alpha delta epsilon", 6)

    run(test)


def test_a_repeat_is_acknowledged_and_ignored() -> None:
    async def test() -> None:
        async with world() as one:
            piece = pb.SessionRequest(seq=2, append=pb.Append(content=_text("hello")))
            start = pb.SessionRequest(seq=1, open=pb.Open(params=pb.SamplingParams(max_tokens=4)))
            responses = await _exchange(
                one.port, [start, start, piece, piece, pb.SessionRequest(seq=3, finish=pb.Finish())]
            )
            accepted = [r.accepted for r in responses if r.HasField("accepted")]
            assert [(a.seq, a.context_tokens) for a in accepted] == [(1, 0), (1, 0), (2, 5), (2, 5), (3, 5)]
            text = "".join(r.token.text for r in responses)
            assert text == one.expected("hello", 4)
            assert responses[-1].done.prompt_tokens == 5

    run(test)


def test_wrong_order_has_its_status() -> None:
    async def test() -> None:
        async with world() as one:
            start = pb.SessionRequest(open=pb.Open())
            gap = pb.SessionRequest(seq=5, append=pb.Append(content=_text("x")))
            code = grpc.StatusCode
            assert await _status(one.port, [start, gap]) == code.INVALID_ARGUMENT
            assert await _status(one.port, [pb.SessionRequest(seq=2, open=pb.Open())]) == code.INVALID_ARGUMENT
            assert await _status(one.port, [gap]) == code.FAILED_PRECONDITION
            assert await _status(one.port, [pb.SessionRequest(cancel=pb.Cancel())]) == code.FAILED_PRECONDITION
            assert await _status(one.port, [start, start]) == code.FAILED_PRECONDITION
            assert await _status(one.port, [start, pb.SessionRequest()]) == code.INVALID_ARGUMENT
            assert await _status(one.port, [pb.SessionRequest()]) == code.FAILED_PRECONDITION
            assert await _status(one.port, []) == code.INVALID_ARGUMENT
            final = pb.SessionRequest(open=pb.Open(content=_text("x" * 50), final=True, params=_tokens(200)))
            assert await _status(one.port, [final, gap]) == code.INVALID_ARGUMENT
            await eventually(one.is_empty)

    run(test)


def test_bad_requests_are_refused_and_hurt_nobody() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            async with client.session(GREEDY, content="still ") as bystander:
                with pytest.raises(InvalidArgument, match="limit of 256"):
                    await client.generate("x" * MAX_MODEL_LEN, GREEDY)
                with pytest.raises(InvalidArgument, match="empty"):
                    await client.generate(None, GREEDY)
                with pytest.raises(InvalidArgument, match="max_tokens"):
                    await client.generate("x", SamplingParams(max_tokens=100_000))
                with pytest.raises(FailedPrecondition):
                    async with client.session(content="x", final=True) as session:
                        await session.append("more")
                with pytest.raises(ResourceExhausted, match="larger"):
                    await client.generate("x" * (2 << 20), GREEDY)
                async with client.session(session_id="mine"):
                    with pytest.raises(AlreadyExists):
                        async with client.session(session_id="mine") as session:
                            await session.result()
                await bystander.append("here", final=True)
                assert (await bystander.result()).text == one.expected("still here", 6)
            bad = pb.SessionRequest(open=pb.Open(params=pb.SamplingParams(temperature=-1)))
            assert await _status(one.port, [bad]) == grpc.StatusCode.INVALID_ARGUMENT
            await eventually(one.is_empty)

    run(test)


def test_a_late_refusal_ends_the_stream_and_frees_its_blocks() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            with pytest.raises(InvalidArgument, match="limit"):
                async with client.session(GREEDY, content="x" * 200) as session:
                    await session.append("y" * 200)
                    await session.result()
            await eventually(one.is_empty)

    run(test)


def test_the_event_loop_is_free_while_text_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            may_go_on = threading.Event()
            really_append = one.orchestrator.append

            def slow_append(*args: object, **kwargs: object) -> object:
                may_go_on.wait(5)
                return really_append(*args, **kwargs)  # type: ignore[arg-type]

            async with client.session(GREEDY) as session:
                monkeypatch.setattr(one.orchestrator, "append", slow_append)
                await session.append("slow")
                await asyncio.sleep(0.05)
                assert (await client.generate("quick", GREEDY)).text == one.expected("quick", 6)
                may_go_on.set()
                await session.finish()
                assert (await session.result()).text == one.expected("slow", 6)

    run(test)


def test_full_server_says_when_to_try_again() -> None:
    async def test() -> None:
        sizes = Sizes(max_sessions=2, retry_after_s=0.75)
        async with world(sizes) as one, AsyncClient(one.target) as client:
            async with client.session(), client.session():
                await eventually(lambda: one.orchestrator.stats().sessions_open == 2)
                with pytest.raises(ResourceExhausted) as caught:
                    await client.generate("x", GREEDY)
                assert caught.value.retry_after_s == pytest.approx(0.75)
                async with grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
                    call = streaming_pb2_grpc.StreamingContextStub(channel).Session(timeout=5)
                    await call.write(pb.SessionRequest(open=pb.Open()))
                    assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                    trailing = dict(await call.trailing_metadata())
                    assert trailing["retry-after-ms"] == trailing["grpc-retry-pushback-ms"] == "750"
            assert (await client.generate("x", GREEDY)).text == one.expected("x", 6)

    run(test)


def test_failed_step_is_internal_and_the_server_goes_on() -> None:
    broken = threading.Event()

    def hook(_: object) -> None:
        if broken.is_set():
            broken.clear()
            raise RuntimeError("secret detail of the device")

    async def test() -> None:
        async with world(Sizes(hook=hook)) as one, AsyncClient(one.target) as client:
            broken.set()
            with pytest.raises(InternalError):
                await client.generate("x", GREEDY)
            assert (await client.generate("x", GREEDY)).text == one.expected("x", 6)
            assert one.is_empty()

    run(test)


def test_a_defect_in_the_server_shows_a_reference_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:

            def broken_append(*args: object, **kwargs: object) -> object:
                raise ZeroDivisionError("secret")

            async with client.session() as session:
                monkeypatch.setattr(one.orchestrator, "append", broken_append)
                await session.append("x")
                with pytest.raises(InternalError, match=r"under [0-9a-f]{12}$") as caught:
                    await session.result()
            assert "secret" not in str(caught.value)
            await eventually(one.is_empty)

    run(test)


def test_progress_is_reported() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            async with client.session(GREEDY, content="x" * 200) as session:
                await eventually(lambda: one.engine.tokens >= 200)
                await session.finish()
                progress = [event async for event in session.events() if isinstance(event, Progress)]
            assert progress[-1] == Progress(200, 200)

    run(test)
