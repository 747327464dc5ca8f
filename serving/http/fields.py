"""OpenAI's fields that this server does not act on: which may be sent all the same, and which are refused.

A field that would change the output is refused unless its value says "as usual", so nobody gets an answer to another
question than was asked. A field that cannot change it is taken and has no effect.
"""

from collections.abc import Container, Mapping
from typing import Any

from serving.http.errors import InvalidField

HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

# Values that change nothing, besides null, and what to do instead.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), "this server answers with text alone"),
    "echo": ((False,), "this server returns the output alone: put the prompt in front of it yourself"),
    "function_call": (("none",), "functions are not supported"),
    "functions": (([],), "functions are not supported"),
    "logit_bias": (({},), "biases are not supported"),
    "modalities": ((["text"],), "this server answers with text alone"),
    "moderation": ((), "moderation is not supported"),
    "reasoning_effort": ((), "the effort of reasoning cannot be chosen"),
    "suffix": (("",), "insertion is not supported"),
    "tool_choice": (("none", "auto"), "tools are for chat"),
    "tools": (([],), "tools are for chat"),
    "verbosity": ((), "verbosity cannot be chosen: ask for it in the prompt"),
    "web_search_options": ((), "this server does not search the web"),
}


def without_effect(body: Mapping[str, Any], known: Container[str] = ()) -> dict[str, Any]:
    """The fields of a request that this server acts on, or does not know.

    Args:
      body: all fields.
      known: those that this kind of request acts on.

    Raises:
      InvalidField: a field asks for something that this server cannot do.
    """
    rest = {}
    for name, value in body.items():
        if name in HARMLESS:
            continue
        if name in known or name not in _REFUSED:
            rest[name] = value
            continue
        neutral, advice = _REFUSED[name]
        if value is not None and not any(value == one and type(value) is type(one) for one in neutral):
            raise InvalidField(f"{name} would change the output, and cannot be honoured: {advice}", name)
    best_of = rest.pop("best_of", None)
    if best_of is not None and best_of != (rest.get("n") or 1):
        raise InvalidField(
            "best_of would change the output, and cannot be honoured: leave it out, or let it be n", "best_of"
        )
    return rest
