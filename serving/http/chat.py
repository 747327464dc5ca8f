"""`POST /v1/chat/completions`."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from s2l_jax.core.errors import InvalidArgument
from serving.http.answer import Answerer
from serving.http.backend import Backend
from serving.http.chat_shape import ChatShape
from serving.http.generation import Job
from serving.http.requests import ChatRequest, Message
from serving.http.responses import ChatCompletion
from serving.http.tool_calls import FreeCallShape, ToolCallShape
from serving.http.tools import Tool, ToolChoice


def chat_routes(backend: Backend) -> APIRouter:
    """The route of chat."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "With `stream`: events `data: {chunk}`, then `data: [DONE]`.",
            }
        },
    )
    async def chat(body: ChatRequest, http: Request) -> Response:
        """Answers a conversation."""
        backend.check_model(body.model)
        backend.check_answers(body.choices)
        functions, callable_functions = body.functions_to_call, body.callable_functions
        if callable_functions:
            backend.check_free_calls()
        tools = body.tools if functions or callable_functions else None
        prompt = await backend.in_pool(lambda: render(backend, body.messages, tools=tools))
        wanted = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        max_tokens = backend.model.default_max_tokens if wanted is None else wanted
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        jobs = [Job(prompt, body.params(i, max_tokens, logprobs), add_bos=False) for i in range(body.choices)]
        shape = ChatShape(backend, body)
        if functions:
            name = functions[0].name if isinstance(body.tool_choice, ToolChoice) else None
            shape = ToolCallShape(name, backend, body)
        elif callable_functions:
            shape = FreeCallShape({function.name for function in callable_functions}, backend, body)
        return await Answerer(backend, body, jobs, shape).respond(http)

    return router


def render(
    backend: Backend,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Tool] | None = None,
) -> str:
    """The prompt of a conversation, by the model's own template, which may show tools or not.

    Raises:
      InvalidArgument: the model has no template, or it refuses these messages.
    """
    if backend.chat_template is None:
        raise InvalidArgument(
            f"model {backend.model.name!r} has no chat template, so it cannot chat: use /v1/completions"
        )
    return backend.chat_template.render(
        [message.for_template() for message in messages],
        add_generation_prompt=add_generation_prompt,
        tools=[tool.model_dump(exclude_none=True) for tool in tools] if tools else None,
    )
