"""`s2l.v1.StreamingContext` over a fake engine, through the asynchronous client and through bare messages."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

from s2l_jax.core.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from serving.client import Accepted, AsyncClient, Progress, SamplingParams, Token
from serving.grpc.streaming import StreamingContextServicer
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.protos.s2l.v1 import streaming_pb2_grpc
from serving.status import Cancelled
from tests.serving.harness import MAX_MODEL_LEN, Sizes, World, eventually, run, world

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


def _tokens(max_tokens: int) -> pb.SamplingParams:
    return pb.SamplingParams(max_tokens=max_tokens)


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


def test_cancel_event_ends_with_an_account() -> None:
    async def test() -> None:
        async with world(Sizes(hook=lambda _: time.sleep(0.005))) as one, AsyncClient(one.target) as client:
            async with client.session(SamplingParams(max_tokens=200), content="go", final=True) as session:
                async for _ in session.tokens():
                    break
                await session.cancel()
                result = await session.result()
            assert result.finish_reason == "cancelled"
            assert 1 <= result.done.output_tokens < 200
            await eventually(one.is_empty)

    run(test)


def test_cancel_is_accepted_with_its_number() -> None:
    async def test() -> None:
        async with world() as one:
            start = pb.SessionRequest(open=pb.Open(content=_text("abc")))
            responses = await _exchange(one.port, [start, pb.SessionRequest(seq=2, cancel=pb.Cancel())])
            accepted = [r.accepted.seq for r in responses if r.HasField("accepted")]
            assert accepted == [1, 2]
            assert responses[-1].done.finish_reason == "cancelled"

    run(test)


def test_half_close_before_finish_cancels() -> None:
    async def test() -> None:
        async with world() as one:
            responses = await _exchange(one.port, [pb.SessionRequest(open=pb.Open(content=_text("abc")))])
            assert responses[-1].done.finish_reason == "cancelled"
            assert one.is_empty()

    run(test)


def test_half_close_after_finish_does_not() -> None:
    async def test() -> None:
        async with world() as one:
            request = pb.SessionRequest(open=pb.Open(content=_text("abc"), final=True, params=_tokens(5)))
            responses = await _exchange(one.port, [request])
            assert responses[-1].done.finish_reason == "length"
            assert "".join(r.token.text for r in responses) == one.expected("abc", 5)

    run(test)


def test_work_stops_within_a_step_when_the_client_goes_away() -> None:
    async def test() -> None:
        async with world(Sizes(hook=lambda _: time.sleep(0.01))) as one:
            client = AsyncClient(one.target)
            session = await client.session(SamplingParams(max_tokens=200), content="go", final=True).__aenter__()
            async for _ in session.tokens():
                break
            await client.close()
            await eventually(one.is_empty, 1.0)
            steps = one.engine.steps
            await asyncio.sleep(0.1)
            # A step that was in flight still ends.
            assert one.engine.steps <= steps + 1 < 100

    run(test)


def test_a_killed_client_leaves_nothing() -> None:
    """No goodbye at all: the process is gone in the middle of its stream."""
    program = (
        "import sys; from serving.client import Client, SamplingParams\n"
        "client = Client(sys.argv[1])\n"
        "with client.session(SamplingParams(max_tokens=250), content='go', final=True) as session:\n"
        "    for token in session.tokens(): print(token.text, flush=True)\n"
    )

    async def test() -> None:
        async with world(Sizes(hook=lambda _: time.sleep(0.05))) as one:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, one.target, stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            assert await process.stdout.readline()
            process.kill()
            await process.wait()
            await eventually(one.is_empty, 2.0)
            assert one.orchestrator.stats().counters.sessions_cancelled == 1

    run(test)


def test_a_client_that_leaves_while_its_open_is_tokenized_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            is_entered, may_go_on = threading.Event(), threading.Event()
            really_open = one.orchestrator.open

            def slow_open(**kwargs: object) -> object:
                is_entered.set()
                may_go_on.wait(5)
                return really_open(**kwargs)  # type: ignore[arg-type]

            monkeypatch.setattr(one.orchestrator, "open", slow_open)
            async with client.session(GREEDY, content="abc"):
                await eventually(is_entered.is_set)
            await asyncio.sleep(0.05)
            may_go_on.set()
            await eventually(lambda: one.orchestrator.stats().counters.sessions_opened == 1)
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


def test_idle_stream_is_ended() -> None:
    async def test() -> None:
        async with world(Sizes(idle_timeout_s=0.2)) as one, AsyncClient(one.target) as client:
            async with client.session(content="abc") as session:
                with pytest.raises(DeadlineExceeded, match="no event"):
                    await session.result()
            assert one.is_empty()

    run(test)


def test_client_deadline() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target, timeout_s=0.2) as client:
            async with client.session(content="abc") as session:
                with pytest.raises(DeadlineExceeded):
                    await session.result()
            await eventually(one.is_empty)

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


def test_no_status_is_sent_while_a_message_is_being_written() -> None:
    """GRPC takes neither then, and the client waits for ever."""

    class SlowContext:
        """Writes slowly, and the session fails during the second acknowledgement."""

        def __init__(self, fail: Callable[[], object]) -> None:
            self._fail = fail
            self._is_writing = False
            self.written: list[pb.SessionResponse] = []
            self.status: grpc.StatusCode | None = None

        async def write(self, response: pb.SessionResponse) -> None:
            self._is_writing = True
            if response.accepted.seq == 2:
                await asyncio.to_thread(self._fail)
            await asyncio.sleep(0.05)
            self.written.append(response)
            self._is_writing = False

        async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: object) -> None:
            assert not self._is_writing
            self.status = code
            raise grpc.aio.AbortError

        def done(self) -> bool:
            return False

    async def requests() -> AsyncIterator[pb.SessionRequest]:
        yield pb.SessionRequest(open=pb.Open(params=_tokens(5)))
        yield pb.SessionRequest(append=pb.Append(content=_text("x")))
        await asyncio.Event().wait()

    async def test() -> None:
        async with world() as one:
            context = SlowContext(lambda: one.orchestrator.drain(0.0))
            with ThreadPoolExecutor(1) as pool, pytest.raises(grpc.aio.AbortError):
                await StreamingContextServicer(one.orchestrator, pool, 8).Session(requests(), context)  # type: ignore[arg-type]
            assert context.status == grpc.StatusCode.UNAVAILABLE
            assert 2 in [response.accepted.seq for response in context.written]

    run(test, 5)


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


def test_slow_reader_gets_everything() -> None:
    """Nobody reads until the session is over: output waits, bounded by merging, and none of it is lost."""

    async def test() -> None:
        async with world() as one:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
                call = streaming_pb2_grpc.StreamingContextStub(channel).Session(timeout=10)
                await call.write(pb.SessionRequest(open=pb.Open(content=_text("go"), final=True, params=_tokens(250))))
                await eventually(one.is_empty)
                responses = [response async for response in call]
            assert "".join(r.token.text for r in responses) == one.expected("go", 250)
            assert responses[-1].done.output_tokens == 250

    run(test)


def test_drain_lets_sessions_end_and_refuses_new_ones() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            async with client.session(GREEDY, content="last ") as session:
                await eventually(lambda: one.orchestrator.stats().sessions_open == 1)
                stopping = asyncio.create_task(one.server.stop(5.0))
                await asyncio.sleep(0.05)
                with pytest.raises(Unavailable, match="shutting down"):
                    await client.generate("x", GREEDY)
                await session.append("words", final=True)
                assert (await session.result()).text == one.expected("last words", 6)
            assert await stopping

    run(test)


def test_drain_cuts_off_what_does_not_end() -> None:
    async def test() -> None:
        async with (
            world() as one,
            AsyncClient(one.target) as client,
            client.session(GREEDY, content="endless ") as session,
        ):
            await eventually(lambda: one.orchestrator.stats().sessions_open == 1)
            assert not await one.server.stop(0.1)
            with pytest.raises(Unavailable):
                await session.result()

    run(test)


def test_leaving_the_block_cancels() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            async with client.session(GREEDY, content="abc") as session:
                await eventually(lambda: one.orchestrator.stats().sessions_open == 1)
            with pytest.raises(Cancelled):
                await session.result()
            await eventually(one.is_empty)

    run(test)


def test_no_server() -> None:
    async def test() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            assert not await client.wait_ready(0.2)
            with pytest.raises(Unavailable):
                await client.generate("x", GREEDY)

    run(test)


def test_thousand_sessions_cancelled_at_random_points_leave_nothing() -> None:
    async def one_session(one: World, client: AsyncClient, number: int) -> None:
        async with client.session(SamplingParams(max_tokens=1 + number % 40), content="seed") as session:
            if number % 3:
                await session.append(f"piece {number}" * (number % 5))
            if number % 4:
                await session.finish()
            match number % 5:
                case 0:
                    await asyncio.sleep(0.001 * (number % 11))
                case 1:
                    await session.cancel()
                    await session.result()
                case 2 if number % 4:
                    await session.result()
                case 3:
                    async for event in session.events():
                        if isinstance(event, Accepted if number % 2 else Token) or not number % 4:
                            break

    async def test() -> None:
        async with world(Sizes(max_sessions=64, num_blocks=1024)) as one, AsyncClient(one.target) as client:
            await client.generate("warm", GREEDY)
            tasks, threads = len(asyncio.all_tasks()), threading.active_count()
            gate = asyncio.Semaphore(32)

            async def gated(number: int) -> None:
                async with gate:
                    try:
                        await one_session(one, client, number)
                    except ResourceExhausted as error:
                        # Sessions that were just cancelled may still hold the last places.
                        assert error.retry_after_s > 0

            await asyncio.gather(*(gated(number) for number in range(1000)))
            await eventually(one.is_empty)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
            assert threading.active_count() <= threads + 1
            counters = one.orchestrator.stats().counters
            assert counters.sessions_opened > 500
            assert counters.sessions_completed > 50
            assert counters.sessions_failed == 0

    run(test, 60)
