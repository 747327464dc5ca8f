"""The `openai` package, unmodified, against the tiny model."""

import asyncio
import json
import math

import httpx2
import openai
import pytest

from tests.serving.http.http_harness import HttpWorld

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
RENDERED = "[system]Be brief.[user]Hello[assistant]"
GREEDY = {"model": "tiny-random", "max_tokens": 12, "temperature": 0.0}


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny-random"]
    assert client.models.retrieve("tiny-random").owned_by == "s2l"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_pieces_add_up_to_the_whole(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt=RENDERED, **GREEDY)
    assert whole.object == "text_completion" and whole.model == "tiny-random"
    assert whole.usage.prompt_tokens == len(RENDERED)
    assert whole.usage.completion_tokens == 12 and whole.usage.total_tokens == len(RENDERED) + 12
    choice = whole.choices[0]
    assert choice.text and choice.finish_reason == "length" and choice.logprobs is None

    events = list(client.completions.create(prompt=RENDERED, stream=True, **GREEDY))
    assert "".join(event.choices[0].text for event in events) == choice.text
    assert [event.choices[0].finish_reason for event in events] == [None] * (len(events) - 1) + ["length"]
    assert len(events) > 4 and len({event.id for event in events}) == 1
    assert all(event.usage is None for event in events)

    # Chat renders the same prompt, so it has the same answer, whole and in pieces.
    chat = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert chat.object == "chat.completion" and chat.usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chat.usage.prompt_tokens_details}
    )
    assert chat.choices[0].message.role == "assistant" and chat.choices[0].message.content == choice.text
    chunks = list(client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY))
    assert chunks[0].object == "chat.completion.chunk"
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].delta.content is None
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_ends_with_its_usage_if_asked_to(client: openai.OpenAI) -> None:
    for create, prompt in (
        (client.completions.create, {"prompt": "Hello"}),
        (client.chat.completions.create, {"messages": MESSAGES}),
    ):
        events = list(create(stream=True, stream_options={"include_usage": True}, **prompt, **GREEDY))
        assert events[-1].choices == [] and events[-1].usage.completion_tokens == 12
        assert all(event.choices and event.usage is None for event in events[:-1])


def test_the_asynchronous_client(tiny: HttpWorld, client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0].message.content

    async def test() -> None:
        async with openai.AsyncOpenAI(base_url=f"{tiny.url}/v1", api_key="none", timeout=20) as one:
            answers = await asyncio.gather(
                *(one.chat.completions.create(messages=MESSAGES, **GREEDY) for _ in range(4))
            )
            assert {answer.choices[0].message.content for answer in answers} == {whole}
            stream = await one.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == whole
            stop = next(char for char in whole[1:] if char.isascii() and char != whole[0])
            async with one.chat.completions.stream(messages=MESSAGES, stop=stop, **GREEDY) as helper:
                final = await helper.get_final_completion()
            assert final.choices[0].message.content == whole[: whole.index(stop)]

    asyncio.run(test())


def test_log_probabilities_of_chat(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY)
    tokens = chat.choices[0].logprobs.content
    assert len(tokens) == 12
    assert bytes(byte for token in tokens for byte in token.bytes).decode("utf-8", "replace") == (
        chat.choices[0].message.content
    )
    for token in tokens:
        assert len(token.top_logprobs) == 3 and -math.inf < token.logprob <= 0
        # Greedy: the token that came is the likeliest.
        assert token.logprob == max(top.logprob for top in token.top_logprobs)
        assert token.bytes in [top.bytes for top in token.top_logprobs]
    chunks = client.chat.completions.create(messages=MESSAGES, logprobs=True, stream=True, **GREEDY)
    streamed = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert [one.bytes for one in streamed] == [one.bytes for one in tokens]
    assert [one.logprob for one in streamed] == pytest.approx([one.logprob for one in tokens], abs=1e-4)
    assert all(one.top_logprobs == [] for one in streamed)


def test_log_probabilities_of_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt="Hello", logprobs=2, **GREEDY).choices[0].logprobs
    assert len(whole.tokens) == len(whole.token_logprobs) == len(whole.text_offset) == 12
    for token, logprob, top in zip(whole.tokens, whole.token_logprobs, whole.top_logprobs, strict=True):
        assert 2 <= len(top) <= 3 and top[token] == max(top.values()) == logprob
    assert whole.text_offset[0] == 0 and whole.text_offset == sorted(whole.text_offset)
    pieces = [
        event.choices[0].logprobs
        for event in client.completions.create(prompt="Hello", logprobs=2, stream=True, **GREEDY)
    ]
    assert [token for piece in pieces for token in piece.tokens] == whole.tokens
    assert [offset for piece in pieces for offset in piece.text_offset] == whole.text_offset


def test_seeds_repeat_and_answers_differ(client: openai.OpenAI) -> None:
    sampled = GREEDY | {"temperature": 1.0, "seed": -7, "extra_body": {"ignore_eos": True}}
    first = client.completions.create(prompt="Hello", n=3, **sampled)
    second = client.completions.create(prompt="Hello", n=3, **sampled)
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in second.choices] and len(set(texts)) == 3
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert first.usage.prompt_tokens == 5 and first.usage.completion_tokens == 36
    assert client.completions.create(prompt="Hello", **(sampled | {"seed": -6})).choices[0].text == texts[1]
    gathered = ["", "", ""]
    for event in client.completions.create(prompt="Hello", n=3, stream=True, **sampled):
        gathered[event.choices[0].index] += event.choices[0].text
    assert gathered == texts


def test_parameters_reach_the_sampler(client: openai.OpenAI) -> None:
    plain = client.completions.create(prompt="Hello", **GREEDY).choices[0].text
    hard = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
    assert client.completions.create(prompt="Hello", **hard, **GREEDY).choices[0].text != plain
    tiny_nucleus = GREEDY | {"temperature": 1.5, "top_p": 1e-6}
    assert client.completions.create(prompt="Hello", **tiny_nucleus).choices[0].text == plain
    only_best = GREEDY | {"temperature": 1.5, "extra_body": {"top_k": 1}}
    assert client.completions.create(prompt="Hello", **only_best).choices[0].text == plain
    stop = next(char for char in plain[1:] if char.isascii() and char != plain[0])
    for stops in (stop, [stop, "\x00never"]):
        stopped = client.completions.create(prompt="Hello", stop=stops, **GREEDY).choices[0]
        assert stopped.text == plain[: plain.index(stop)] and stopped.finish_reason == "stop"
    short = client.chat.completions.create(messages=MESSAGES, max_completion_tokens=3, **GREEDY)
    assert short.usage.completion_tokens == 3


def test_several_prompts_and_token_ids(client: openai.OpenAI) -> None:
    alone = [client.completions.create(prompt=one, **GREEDY).choices[0].text for one in ("Hello", "World")]
    for prompts in (["Hello", "World"], [list(b"Hello"), list(b"World")]):
        both = client.completions.create(prompt=prompts, n=2, **GREEDY)
        assert [choice.text for choice in both.choices] == [alone[0], alone[0], alone[1], alone[1]]
        assert both.usage.prompt_tokens == 10 and both.usage.completion_tokens == 48
    assert client.completions.create(prompt=list(b"Hello"), **GREEDY).choices[0].text == alone[0]


def test_what_was_computed_before_is_in_the_usage(client: openai.OpenAI) -> None:
    prompt = "A prompt of more than two blocks of sixteen tokens."
    client.completions.create(prompt=prompt, **GREEDY)
    again = client.completions.create(prompt=prompt, **GREEDY)
    assert again.usage.prompt_tokens_details.cached_tokens >= 32


def test_context_in_pieces_answers_like_the_whole(tiny: HttpWorld, client: openai.OpenAI) -> None:
    prompt = "A context of forty characters, in pieces."
    whole = client.completions.create(prompt=prompt, **GREEDY).choices[0].text
    with httpx2.Client(base_url=tiny.url, timeout=20) as http:
        opened = http.post("/v1/sessions", json={"content": prompt[:7], "params": {"max_tokens": 12}})
        path = f"/v1/sessions/{opened.json()['session_id']}"
        http.post(f"{path}/append", json={"content": "something else altogether"}).raise_for_status()
        http.post(f"{path}/update", json={"keep_chars": 7, "content": prompt[7:20]}).raise_for_status()
        http.post(f"{path}/append", json={"content": prompt[20:]}).raise_for_status()
        http.post(f"{path}/finish").raise_for_status()
        output = http.get(f"{path}/output").text
    events = [json.loads(part.removeprefix("data: ")) for part in output.strip().split("\n\n")]
    assert "".join(event["token"]["text"] for event in events if "token" in event) == whole
    assert events[-1]["done"]["prompt_tokens"] == len(prompt)


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(prompt="Hello", model="tiny-random", max_tokens=255)
    assert "exceed the limit" in caught.value.message and caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(messages=MESSAGES, tools=[{"type": "function", "function": {}}], **GREEDY)
    assert caught.value.param == "tools[0].function.name"
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(prompt="Hello", model="gpt")
    assert "tiny-random" in caught.value.message
