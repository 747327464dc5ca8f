"""Chat templates: from messages to the prompt the model was trained on."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from s2l_jax.core.errors import InvalidArgument

type Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A Jinja template, run in a sandbox: it comes with the weights and is not trusted.

    Args:
      source: the template.
      bos_token: spelling of the begin-of-sequence token, which many templates put first.
      eos_token: spelling of the end-of-sequence token.
      now: clock for templates that ask for the date.

    Raises:
      InvalidArgument: the template has a syntax error.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.source = source
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidArgument(f"chat template, line {error.lineno}: {error.message}") from error

    def render(self, messages: Messages, *, add_generation_prompt: bool = True, **variables: object) -> str:
        """The prompt of a conversation.

        Args:
          messages: `{"role": ..., "content": ...}` each, oldest first.
          add_generation_prompt: end where the assistant's answer begins.
          **variables: what else the template knows, such as `tools` or `enable_thinking`.

        Raises:
          InvalidArgument: the template refuses these messages; the message says why.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **(self._variables | variables)
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise InvalidArgument(f"the chat template does not take these messages: {error}") from error


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's words for training; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012  (the interface of Jinja's extensions)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: object, **options: Any) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    options.setdefault("ensure_ascii", False)
    return json.dumps(value, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
