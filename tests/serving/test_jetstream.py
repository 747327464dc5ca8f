"""JetStream's services as its clients use them, and the defects of the original as tests of ours."""

import asyncio
import time

import grpc
import grpc.aio
import pytest

from serving.protos.jetstream.core.proto import jetstream_pb2 as js
from serving.protos.jetstream.core.proto import jetstream_pb2_grpc, multi_lora_decoding_pb2_grpc
from serving.protos.jetstream.core.proto import multi_lora_decoding_pb2 as lora
from tests.serving.harness import BOS, EOS, LETTERS, MAX_MODEL_LEN, Sizes, World, eventually, run, world

EURO = tuple("€".encode())


def _request(content: str | list[int], max_tokens: int = 5, **fields: object) -> js.DecodeRequest:
    request = js.DecodeRequest(max_tokens=max_tokens, **fields)  # type: ignore[arg-type]
    if isinstance(content, str):
        request.text_content.text = content
    else:
        # An empty list still names the kind of content.
        request.token_content.SetInParent()
        request.token_content.token_ids.extend(content)
    return request


def _channel(one: World) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{one.port}")


async def _decode(one: World, request: js.DecodeRequest) -> list[js.DecodeResponse]:
    async with _channel(one) as channel:
        return [response async for response in jetstream_pb2_grpc.OrchestratorStub(channel).Decode(request, timeout=15)]


async def _status(one: World, request: js.DecodeRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _decode(one, request)
    return caught.value.code(), caught.value.details() or ""


def _ids(responses: list[js.DecodeResponse], sample: int = 0) -> list[list[int]]:
    return [list(response.stream_content.samples[sample].token_ids) for response in responses]


def test_one_message_per_token_and_an_empty_one_at_max_tokens() -> None:
    async def test() -> None:
        async with world() as one:
            responses = await _decode(one, _request("AB"))
            expected = one.engine.reference_output([BOS, 65, 66], 5)
            assert _ids(responses) == [[token] for token in expected] + [[]]
            assert all(r.WhichOneof("content") == "stream_content" for r in responses)
            assert [r.stream_content.samples[0].text for r in responses] == [chr(token) for token in expected] + [""]

    run(test)


def test_bos_is_put_in_front_of_text_and_of_tokens_unless_it_is_there() -> None:
    async def test() -> None:
        async with world() as one:
            expected = [[token] for token in one.engine.reference_output([BOS, 65], 5)] + [[]]
            assert _ids(await _decode(one, _request("A"))) == expected
            assert _ids(await _decode(one, _request([65]))) == expected
            assert _ids(await _decode(one, _request([BOS, 65], has_bos=True))) == expected
            without = one.engine.reference_output([65], 5)
            assert _ids(await _decode(one, _request("A", has_bos=True)))[:5] == [[token] for token in without]

    run(test)


def test_tokens_in_tokens_out() -> None:
    async def test() -> None:
        async with world() as one:
            responses = await _decode(one, _request([65]))
            assert {r.stream_content.samples[0].text for r in responses} == {""}

    run(test)


def test_end_of_sequence_comes_last_with_its_token_and_no_text() -> None:
    async def test() -> None:
        async with world(Sizes(alphabet=[*LETTERS[:5], EOS])) as one:
            for prompt in ("a", "b", "c", "d", "e"):
                responses = await _decode(one, _request(prompt, max_tokens=100))
                ids = _ids(responses)
                assert ids[-1] == [EOS]
                assert responses[-1].stream_content.samples[0].text == ""
                assert all(EOS not in each for each in ids[:-1])
                assert all(each for each in ids)

    run(test)


def test_end_of_sequence_as_the_first_token() -> None:
    async def test() -> None:
        async with world(Sizes(alphabet=[EOS])) as one:
            responses = await _decode(one, _request("never mind"))
            assert _ids(responses) == [[EOS]]

    run(test)


def test_num_samples() -> None:
    async def test() -> None:
        async with world() as one:
            for asked, given in ((0, 1), (1, 1), (3, 3)):
                responses = await _decode(one, _request("AB", num_samples=asked))
                assert len(responses) == 6
                assert all(len(r.stream_content.samples) == given for r in responses)

    run(test)


def test_samples_that_end_early_are_empty_until_all_have_ended() -> None:
    async def test() -> None:
        sizes = Sizes(alphabet=[*LETTERS[:3], EOS], temperature=1.0)
        async with world(sizes) as one:
            responses = await _decode(one, _request("AB", max_tokens=60, num_samples=4))
            assert len({len([each for each in _ids(responses, i) if each]) for i in range(4)}) > 1
            for i in range(4):
                ids = _ids(responses, i)
                first_empty = ids.index([]) if [] in ids else len(ids)
                assert ids[first_empty - 1] == [EOS]
                assert all(not each for each in ids[first_empty:])
            assert any(_ids(responses, i)[-1] for i in range(4))

    run(test)


def test_wrong_input_has_a_status_and_the_server_lives() -> None:
    async def test() -> None:
        async with world() as one:
            invalid = grpc.StatusCode.INVALID_ARGUMENT
            for request, hint in (
                (_request("A", num_samples=5), "num_samples"),
                (_request("A", num_samples=-1), "num_samples"),
                (_request("A", max_tokens=0), "max_tokens"),
                (_request("A", max_tokens=-3), "max_tokens"),
                (_request([], has_bos=True), "empty"),
                (_request("", has_bos=True), "empty"),
                (_request([1, 99999]), "vocabulary"),
                (_request([-1]), "vocabulary"),
                (_request("A", lora_adapter_id="mine"), "adapter"),
                (js.DecodeRequest(max_tokens=3), "content"),
                # Never a silently shortened prompt.
                (_request("x" * MAX_MODEL_LEN), "limit of 256"),
            ):
                code, details = await _status(one, request)
                assert code == invalid and hint in details, details
            assert len(await _decode(one, _request("A"))) == 6
            assert one.is_empty()

    run(test)


def test_one_token_prompts() -> None:
    async def test() -> None:
        async with world() as one:
            assert len(await _decode(one, _request([65], has_bos=True))) == 6
            assert len(await _decode(one, _request(""))) == 6  # the begin-of-sequence token alone

    run(test)


def test_characters_of_several_tokens_come_whole() -> None:
    async def test() -> None:
        async with world(Sizes(alphabet=[*EURO, *EURO, ord("x")])) as one:
            for prompt in ("a", "b", "c", "d"):
                responses = await _decode(one, _request(prompt, max_tokens=40))
                ids = [token for each in _ids(responses) for token in each]
                texts = [r.stream_content.samples[0].text for r in responses]
                assert "".join(texts) == bytes(ids).decode("utf-8", "replace")
                assert len(responses) == 41

    run(test)


def test_64_concurrent_streams() -> None:
    async def test() -> None:
        async with world(Sizes(max_sessions=64, num_blocks=2048)) as one, _channel(one) as channel:
            stub = jetstream_pb2_grpc.OrchestratorStub(channel)

            async def stream(number: int) -> None:
                prompt = f"prompt number {number}"
                responses = [r async for r in stub.Decode(_request(prompt, max_tokens=32), timeout=15)]
                expected = one.engine.reference_output([BOS, *prompt.encode()], 32)
                assert _ids(responses) == [[token] for token in expected] + [[]]

            await asyncio.gather(*(stream(number) for number in range(64)))
            await eventually(one.is_empty)

    run(test)


def test_cancelled_request_gives_its_place_back() -> None:
    async def test() -> None:
        sizes = Sizes(max_sessions=1, hook=lambda _: time.sleep(0.01))
        async with world(sizes) as one, _channel(one) as channel:
            call = jetstream_pb2_grpc.OrchestratorStub(channel).Decode(_request("go", max_tokens=200), timeout=15)
            assert (await call.read()).stream_content.samples[0].token_ids
            call.cancel()
            await eventually(one.is_empty, 1.0)
            assert one.engine.steps < 100
            assert len(await _decode(one, _request("A"))) == 6

    run(test)


def test_requests_beyond_the_limit_are_refused_with_a_hint() -> None:
    async def test() -> None:
        sizes = Sizes(max_sessions=3, hook=lambda _: time.sleep(0.01))
        async with world(sizes) as one, _channel(one) as channel:
            stub = jetstream_pb2_grpc.OrchestratorStub(channel)
            running = [stub.Decode(_request("go", max_tokens=100), timeout=15) for _ in range(3)]
            for call in running:
                await call.read()
            refused = stub.Decode(_request("go"), timeout=5)
            assert await refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(await refused.trailing_metadata())["retry-after-ms"]) > 0
            for call in running:
                call.cancel()
            # Several samples need several places: those that got one give it back.
            assert (await _status(one, _request("go", num_samples=4)))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
            await eventually(one.is_empty)

    run(test)


def test_stopping_leaves_nobody_waiting() -> None:
    async def test() -> None:
        async with world(Sizes(hook=lambda _: time.sleep(0.02))) as one, _channel(one) as channel:
            call = jetstream_pb2_grpc.OrchestratorStub(channel).Decode(_request("go", max_tokens=200), timeout=15)
            await call.read()
            await one.server.stop(0.0)
            # The status comes behind what was written and not yet read.
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(3):
                    while await call.read() is not grpc.aio.EOF:
                        pass
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    run(test)


def test_health_check() -> None:
    async def test() -> None:
        async with world() as one, _channel(one) as channel:
            stub = jetstream_pb2_grpc.OrchestratorStub(channel)
            assert (await stub.HealthCheck(js.HealthCheckRequest(), timeout=5)).is_live

    run(test)


def test_adapters_are_politely_refused() -> None:
    async def test() -> None:
        async with world() as one, _channel(one) as channel:
            stub = multi_lora_decoding_pb2_grpc.v1Stub(channel)
            listed = await stub.models(lora.ListAdaptersRequest(), timeout=5)
            assert listed.success and not listed.adapter_infos
            loaded = await stub.load_lora_adapter(lora.LoadAdapterRequest(adapter_id="a", adapter_path="/p"), timeout=5)
            assert not loaded.success and "adapters" in loaded.error_message
            unloaded = await stub.unload_lora_adapter(lora.UnloadAdapterRequest(adapter_id="a"), timeout=5)
            assert not unloaded.success and "'a'" in unloaded.error_message

    run(test)
