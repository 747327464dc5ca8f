"""Requests of OpenAI's API as they are understood here, with the extensions that other servers made customary."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from s2l_jax.core.constraint import Constraint
from s2l_jax.core.params import MAX_LOGPROBS, MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY, SamplingParams
from serving.http.constrained import ResponseFormat, StructuredOutputs, naming
from serving.http.errors import InvalidField
from serving.http.fields import without_effect
from serving.http.strict import Several, Strict
from serving.http.tools import MAX_TOOLS, AnyToolChoice, Function, Tool, ToolCall, constraint_of, functions_to_call

_WORD = 1 << 64

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Several[TokenId]
# Ranges are those of SamplingParams or narrower, so that they are in the schema, too.
MaxTokens = Annotated[int, Field(ge=1, lt=1 << 31)]
Temperature = Annotated[float, Field(ge=0, le=100)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, lt=1 << 31)]
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)]
Logprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]
Seconds = Annotated[float, Field(ge=0)]


class StreamOptions(Strict):
    """What a stream carries besides the output."""

    include_usage: bool | None = Field(
        default=None, description="End with one more event that has `usage` and no choices."
    )
    include_obfuscation: bool | None = Field(
        default=None, description="Without effect: nothing is added to hide lengths."
    )


class SamplingRequest(Strict):
    """What completions and chat have in common. Null is the same as leaving a field out."""

    model: str | None = Field(default=None, description="Name of the served model; may be left out.")
    max_tokens: MaxTokens | None = Field(default=None, description="Output tokens at most; the server has a default.")
    temperature: Temperature | None = Field(default=None, description="0 is greedy; 1 if left out.")
    top_p: TopP | None = Field(
        default=None, description="Keep the smallest set of tokens with at least this probability."
    )
    n: int | None = Field(default=None, ge=1, description="Answers to each prompt; 1 if left out.")
    stop: str | Several[str] | None = Field(
        default=None, description="Strings that end the output, and are not part of it."
    )
    seed: int | None = Field(
        default=None, ge=-(_WORD // 2), lt=_WORD, description="Repeats the output; answer i adds i."
    )
    presence_penalty: Penalty | None = Field(
        default=None, description="Subtracted once from tokens seen in the output, -2 to 2."
    )
    frequency_penalty: Penalty | None = Field(
        default=None, description="Subtracted for each time a token was output, -2 to 2."
    )
    stream: bool | None = Field(default=None, description="Answer in server-sent events, as the output comes.")
    stream_options: StreamOptions | None = Field(default=None, description="Only with `stream`.")
    top_k: TopK | None = Field(default=None, description="Extension: keep the k likeliest tokens; 0 is off.")
    min_p: MinP | None = Field(
        default=None, description="Extension: drop tokens less likely than this share of the likeliest."
    )
    repetition_penalty: RepetitionPenalty | None = Field(
        default=None, description="Extension: divides logits of tokens seen; 1 is off."
    )
    ignore_eos: bool | None = Field(default=None, description="Extension: go on past the end of sequence.")
    stop_token_ids: TokenIds | None = Field(default=None, description="Extension: tokens that end the output.")
    response_format: ResponseFormat | None = Field(default=None, description="What the output must look like.")
    structured_outputs: StructuredOutputs | None = Field(
        default=None, description="Extension: the same for JSON, regular expressions and choices."
    )
    priority: Priority | None = Field(default=None, description="Extension: -1000 to 1000, higher ones go first.")
    first_token_within_s: Seconds | None = Field(
        default=None, description="Extension: when the first token is wanted, in s."
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_fields_without_effect(cls, body: Any) -> Any:
        return without_effect(body, cls.model_fields) if isinstance(body, dict) else body

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidField("stream_options is only for streams: set stream, or leave it out", "stream_options")
        return self

    @model_validator(mode="after")
    def _check_one_constraint(self) -> Self:
        has_format = self.response_format is not None and self.response_format.type != "text"
        if has_format and self.structured_outputs is not None:
            raise InvalidField(
                "response_format and structured_outputs are for the same: give one", "structured_outputs"
            )
        return self

    @property
    def constraint_field(self) -> str:
        """The field that says what the output must look like, if one does."""
        return "response_format" if self.structured_outputs is None else "structured_outputs"

    @property
    def constraint(self) -> Constraint | None:
        """What the output must look like.

        Raises:
          InvalidField: it is too long.
        """
        with naming(self.constraint_field):
            if self.structured_outputs is not None:
                return self.structured_outputs.constraint
            return None if self.response_format is None else self.response_format.constraint

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """True if a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def params(self, index: int, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """Sampling parameters of answer `index`.

        Raises:
          InvalidArgument: a field is out of range.
        """
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=_or(self.temperature, 1.0),
            top_k=_or(self.top_k, 0),
            top_p=_or(self.top_p, 1.0),
            min_p=_or(self.min_p, 0.0),
            seed=None if self.seed is None else (self.seed + index) % _WORD,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            logprobs=logprobs,
            constraint=self.constraint,
        )


# Tags in angle brackets tell kinds of value apart; error messages leave them out.


def _kind_of_prompt(prompt: Any) -> str | None:
    if isinstance(prompt, str):
        return "<text>"
    if not isinstance(prompt, list):
        return None
    first = prompt[0] if prompt else 0
    return "<texts>" if isinstance(first, str) else "<lists>" if isinstance(first, list) else "<ids>"


Prompt = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[Several[str], Tag("<texts>")]
    | Annotated[TokenIds, Tag("<ids>")]
    | Annotated[Several[TokenIds], Tag("<lists>")],
    Discriminator(
        _kind_of_prompt,
        custom_error_type="prompt",
        custom_error_message="give a text, a list of token ids, or a list of either",
    ),
]


class CompletionRequest(SamplingRequest):
    """`POST /v1/completions`."""

    prompt: Prompt = Field(description="A text, token ids, or a list of either: then each is answered.")
    logprobs: Logprobs | None = Field(
        default=None, description="Log probabilities of the output and of this many alternatives."
    )
    add_special_tokens: bool | None = Field(
        default=None,
        description="Extension: begin a text with the begin-of-sequence token, if the model wants it; true.",
    )

    @property
    def prompts(self) -> list[str | TokenIds]:
        """All prompts, text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        prompts: list[str | TokenIds] = []
        ids: TokenIds = []
        for one in self.prompt:
            if isinstance(one, int):
                ids.append(one)
            else:
                prompts.append(one)
        return prompts or [ids]


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"] = Field(description="Only text is understood.")
    text: str = Field(description="The part's text.")


def _kind_of_content(content: Any) -> str | None:
    return "<text>" if isinstance(content, str) else "<parts>" if isinstance(content, list) else None


MessageContent = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Several[TextPart], Tag("<parts>")],
    Discriminator(
        _kind_of_content, custom_error_type="content", custom_error_message="give a text, or a list of parts"
    ),
]


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="`developer` is taken as `system`; `tool` is the result of a call."
    )
    content: MessageContent | None = Field(
        default=None, description="Text; parts are joined by line ends. May be left out beside calls."
    )
    name: str | None = Field(default=None, description="Who speaks, if the model's chat template cares.")
    tool_calls: Several[ToolCall] | None = Field(default=None, description="Calls that an answer was made of.")
    tool_call_id: str | None = Field(default=None, description="The call whose result this is.")
    refusal: None = Field(default=None, description="Only null.")

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise InvalidField(f"a message of role {self.role} has tool_calls: only an assistant calls", "messages")
        if self.content is None and not self.tool_calls:
            raise InvalidField(f"a message of role {self.role} has no content: give it some", "messages")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise InvalidField("tool_call_id goes with the role tool: give both or neither", "messages")
        return self

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        parts = [] if self.content is None or isinstance(self.content, str) else self.content
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in parts)
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": content}
        for name in ("name", "tool_call_id"):
            if getattr(self, name) is not None:
                message[name] = getattr(self, name)
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        return message


class ChatRequest(SamplingRequest):
    """`POST /v1/chat/completions`."""

    messages: Several[Message] = Field(min_length=1, description="The conversation, oldest message first.")
    max_completion_tokens: MaxTokens | None = Field(
        default=None, description="Output tokens at most; goes before `max_tokens`."
    )
    logprobs: bool | None = Field(default=None, description="Log probabilities of the output.")
    top_logprobs: Logprobs | None = Field(default=None, description="And of this many alternatives, 0 to 20.")
    tools: Several[Tool] | None = Field(default=None, max_length=MAX_TOOLS, description="Functions that may be called.")
    tool_choice: AnyToolChoice | None = Field(
        default=None,
        description="Which one the answer calls, or that it calls any or none; `auto` leaves it to the model.",
    )

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidField("top_logprobs is only for logprobs: set logprobs, or leave it out", "top_logprobs")
        return self

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        if self.functions_to_call and super().constraint is not None:
            raise InvalidField("tool_choice and a format constrain the same answer: give one", "tool_choice")
        return self

    @property
    def functions_to_call(self) -> tuple[Function, ...]:
        """The functions of which the answer must call one; none, if it need not.

        Raises:
          InvalidField: there is no such function.
        """
        return functions_to_call(self.tools, self.tool_choice)

    @property
    def callable_functions(self) -> tuple[Function, ...]:
        """The functions that the answer may call, if it is left to the model whether it does; else none."""
        return tuple(tool.function for tool in self.tools or ()) if self.tool_choice in (None, "auto") else ()

    @property
    def constraint_field(self) -> str:
        """See `SamplingRequest.constraint_field`."""
        return "tools" if self.functions_to_call else super().constraint_field

    @property
    def constraint(self) -> Constraint | None:
        """See `SamplingRequest.constraint`."""
        functions = self.functions_to_call
        if not functions:
            return super().constraint
        with naming("tools"):
            return constraint_of(functions, self.tool_choice)


class TokenizeRequest(Strict):
    """`POST /tokenize`: a text, or a conversation."""

    model: str | None = Field(default=None, description="Name of the served model; may be left out.")
    prompt: str | None = Field(default=None, description="The text.")
    messages: Several[Message] | None = Field(default=None, min_length=1, description="Or a conversation.")
    add_special_tokens: bool = Field(default=True, description="As for completions; a conversation has its own.")
    add_generation_prompt: bool = Field(default=True, description="End a conversation where the answer begins.")
    return_token_strs: bool = Field(default=False, description="Also return the text of each token.")

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidField("give either prompt or messages", "prompt")
        return self


class DetokenizeRequest(Strict):
    """`POST /detokenize`."""

    model: str | None = Field(default=None, description="Name of the served model; may be left out.")
    tokens: TokenIds = Field(description="The token ids.")


def _or[T](value: T | None, default: T) -> T:
    return default if value is None else value
