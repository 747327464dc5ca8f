"""The `langchain-openai` package, unmodified, against the tiny model."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from tests.serving.http.http_harness import HttpWorld

langchain_openai = pytest.importorskip("langchain_openai", reason="it is in the extra `dev`")

PROMPT = [("system", "Be brief."), ("human", "Hello")]


@pytest.fixture
def chat(tiny: HttpWorld) -> Any:
    return langchain_openai.ChatOpenAI(
        model="tiny-random", base_url=f"{tiny.url}/v1", api_key="none", temperature=0, max_tokens=12, max_retries=0
    )


def test_an_answer_whole_and_in_pieces(chat: Any) -> None:
    whole = chat.invoke(PROMPT)
    assert whole.content
    assert whole.response_metadata["finish_reason"] == "length"
    assert whole.usage_metadata["output_tokens"] == 12
    pieces = list(chat.stream(PROMPT, stream_usage=True))
    assert len(pieces) > 4
    assert "".join(piece.content for piece in pieces) == whole.content
    assert sum((piece.usage_metadata or {}).get("output_tokens", 0) for piece in pieces) == 12


def test_many_at_once_and_asynchronously(chat: Any) -> None:
    alone = chat.invoke("one").content
    assert [answer.content for answer in chat.batch(["one", "two", "one"])][::2] == [alone, alone]

    async def both() -> tuple[str, str]:
        whole = await chat.ainvoke("one")
        return whole.content, "".join([piece.content async for piece in chat.astream("one")])

    assert asyncio.run(both()) == (alone, alone)


def test_logprobs_and_stop(chat: Any) -> None:
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke(PROMPT)
    content = answer.response_metadata["logprobs"]["content"]
    assert len(content) == 12
    assert all(len(one["top_logprobs"]) == 2 for one in content)
    stop = answer.content[3:5]
    assert chat.bind(stop=[stop]).invoke(PROMPT).content == answer.content[: answer.content.index(stop)]


class Verdict(BaseModel):
    """What is asked for."""

    is_good: bool


def test_structured_output(chat: Any) -> None:
    model = chat.model_copy(update={"max_tokens": 64})
    verdict = model.with_structured_output(Verdict, method="json_schema").invoke(PROMPT)
    assert isinstance(verdict, Verdict)


def test_completions(tiny: HttpWorld) -> None:
    model = langchain_openai.OpenAI(
        model="tiny-random", base_url=f"{tiny.url}/v1", api_key="none", temperature=0, max_tokens=8, max_retries=0
    )
    whole = model.invoke("Once upon a time")
    assert whole
    assert "".join(model.stream("Once upon a time")) == whole
