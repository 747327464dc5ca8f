"""How streams end: by cancellation, half-close, disconnect, time-out and drain, and what they leave behind: nothing."""

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
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
)
from serving.client import Accepted, AsyncClient, SamplingParams, Token
from serving.grpc.streaming import StreamingContextServicer
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.protos.s2l.v1 import streaming_pb2_grpc
from serving.status import Cancelled
from tests.serving.harness import Sizes, World, eventually, run, world

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


def _tokens(max_tokens: int) -> pb.SamplingParams:
    return pb.SamplingParams(max_tokens=max_tokens)


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

        def invocation_metadata(self) -> tuple[()]:
            return ()

    async def requests() -> AsyncIterator[pb.SessionRequest]:
        yield pb.SessionRequest(open=pb.Open(params=_tokens(5)))
        yield pb.SessionRequest(append=pb.Append(content=_text("x")))
        await asyncio.Event().wait()

    async def test() -> None:
        async with world() as one:
            context = SlowContext(lambda: one.orchestrator.drain(0.0))

            def servicer(pool: ThreadPoolExecutor) -> StreamingContextServicer:
                return StreamingContextServicer(one.tenants, pool, 8, open_timeout_s=5, send_timeout_s=5)

            with ThreadPoolExecutor(1) as pool, pytest.raises(grpc.aio.AbortError):
                await servicer(pool).Session(requests(), context)  # type: ignore[arg-type]
            assert context.status == grpc.StatusCode.UNAVAILABLE
            assert 2 in [response.accepted.seq for response in context.written]

    run(test, 5)


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


def test_a_client_that_does_not_read_is_told_so_when_it_does() -> None:
    """What waits for it is bounded, its session ends, and the status stands behind what was sent."""

    async def test() -> None:
        sizes = Sizes(model_len=8192, num_blocks=4096, send_timeout_s=0.3)
        narrow = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
        async with world(sizes) as one, grpc.aio.insecure_channel(f"127.0.0.1:{one.port}", options=narrow) as channel:
            call = streaming_pb2_grpc.StreamingContextStub(channel).Session(timeout=30)
            params = pb.SamplingParams(max_tokens=5000, logprobs=20)
            await call.write(pb.SessionRequest(open=pb.Open(content=_text("go"), final=True, params=params)))
            await eventually(lambda: one.orchestrator.stats().sessions_open == 1)
            await eventually(lambda: one.orchestrator.stats().sessions_open == 0, 15)
            await eventually(one.is_empty)
            await asyncio.sleep(1.5)  # the handler is gone as well; the status waits in gRPC
            received = 0
            with pytest.raises(grpc.aio.AioRpcError) as error:
                async for response in call:
                    received += len(response.token.ids)
            assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "took nothing" in str(error.value.details()) and 0 < received < 5000

    run(test, 40)


def test_a_stream_without_a_first_event_is_ended() -> None:
    async def test() -> None:
        async with world(Sizes(open_timeout_s=0.2)) as one:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
                call = streaming_pb2_grpc.StreamingContextStub(channel).Session(timeout=10)
                assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                assert "first event" in await call.details()
            async with AsyncClient(one.target) as client, client.session(GREEDY, content="abc") as session:
                await asyncio.sleep(0.4)  # the limit is for the first event alone
                await session.finish()
                assert (await session.result()).text == one.expected("abc", 6)

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
