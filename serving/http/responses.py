"""Answers of OpenAI's API. What a model has set is sent, so events of a stream set all that their readers expect."""

from typing import Literal

from pydantic import BaseModel, Field


class PromptTokensDetails(BaseModel):
    """Where the prompts' KV came from."""

    cached_tokens: int = Field(description="Prompt tokens that had been computed before.")


class Usage(BaseModel):
    """What a request took."""

    prompt_tokens: int = Field(description="Tokens of all prompts, each counted once.")
    completion_tokens: int = Field(description="Tokens of all answers, end-of-sequence tokens included.")
    total_tokens: int = Field(description="Both together.")
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobs(BaseModel):
    """Log probabilities, for each token of the output."""

    tokens: list[str] = Field(description="Its text, or `bytes:` and its bytes if they are no text by themselves.")
    token_logprobs: list[float] = Field(description="Its log probability.")
    top_logprobs: list[dict[str, float]] = Field(description="Those of the likeliest tokens, and its own.")
    text_offset: list[int] = Field(description="Where it begins, in characters of the output.")


class CompletionChoice(BaseModel):
    """One answer, or a piece of it."""

    index: int = Field(description="Which answer: those to the first prompt come first.")
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None = Field(description="`stop` or `length`; null while the output goes on.")


class Completion(BaseModel):
    """Answer of `/v1/completions`, and each event of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="When, in seconds since 1970.")
    model: str
    system_fingerprint: str = Field(description="The server's version.")
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """A token that could have come."""

    token: str = Field(description="Its text.")
    logprob: float
    bytes: list[int] = Field(description="Its bytes, which may be a part of a character.")


class TokenLogprob(TopLogprob):
    """A token that came."""

    top_logprobs: list[TopLogprob] = Field(description="The likeliest tokens in its place.")


class ChatLogprobs(BaseModel):
    """Log probabilities, for each token of the output."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class FunctionCall(BaseModel):
    """A function, and what it is to be called with."""

    name: str
    arguments: str = Field(description="JSON; cut short if the answer was.")


class ToolCalled(BaseModel):
    """A call of a tool."""

    id: str = Field(description="What a later message with the call's result names.")
    type: Literal["function"] = "function"
    function: FunctionCall


class ToolCallMessage(BaseModel):
    """The answer, if there are calls in it."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: None = None
    tool_calls: list[ToolCalled]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage | ToolCallMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(BaseModel):
    """Answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="When, in seconds since 1970.")
    model: str
    system_fingerprint: str = Field(description="The server's version.")
    choices: list[ChatChoice]
    usage: Usage


class FunctionCallDelta(BaseModel):
    """What an event adds to a call: its name comes with the first one."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(BaseModel):
    """A piece of a call."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class ChatDelta(BaseModel):
    """What an event adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(BaseModel):
    """An event of `/v1/chat/completions` with `stream`."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the server started, in seconds since 1970.")
    owned_by: str
    max_model_len: int = Field(description="Tokens of prompt and output together.")


class ModelList(BaseModel):
    """Answer of `/v1/models`."""

    object: Literal["list"] = "list"
    data: list[Model]


class Tokenized(BaseModel):
    """Answer of `/tokenize`."""

    count: int
    max_model_len: int = Field(description="Tokens of prompt and output together.")
    tokens: list[int]
    token_strs: list[str] | None = Field(default=None, description="If asked for: the text of each token.")


class Detokenized(BaseModel):
    """Answer of `/detokenize`."""

    prompt: str


class Status(BaseModel):
    """Answer of `/health` and `/ready`."""

    status: str
