"""What every route of the HTTP server works with."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.chat import ChatTemplate
from s2l_jax.models.tokenizer import Tokenizer
from serving.client.types import ModelInfo
from serving.http.errors import InvalidField, NoSuchModel
from serving.http.free_calls import OPENING
from serving.session_owner import SessionOwner


@dataclass(frozen=True, slots=True)
class Backend:
    """The served model and what runs it.

    Attributes:
      orchestrator: owns the sessions.
      model: what is served.
      tokenizer: of the model.
      chat_template: how a conversation becomes a prompt, None if the model has none.
      pool: runs what tokenizes or renders, so that the event loop never waits for it.
      max_choices: answers that one request may ask for.
      send_timeout_s: a client that does not take what was sent to it for this long is cut off.
      open_timeout_s: time for the first message of a WebSocket to come.
      origins: sites other than the server's own whose pages may use it; `*` is any.
    """

    orchestrator: SessionOwner
    model: ModelInfo
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    pool: Executor
    max_choices: int
    send_timeout_s: float
    open_timeout_s: float
    origins: frozenset[str]

    def check_model(self, name: str | None) -> None:
        """Raises NoSuchModel unless a request names the served model, or none."""
        if name is not None and name != self.model.name:
            raise NoSuchModel(f"no model {name!r}: this server has {self.model.name!r}")

    def check_answers(self, count: int) -> None:
        """Raises InvalidArgument for more answers than one request may have; called before any is prepared."""
        limit = min(self.max_choices, self.orchestrator.config.max_sessions)
        if count > limit:
            raise InvalidArgument(f"the request asks for {count} answers, but {limit} is the most: send several")

    def check_free_calls(self) -> None:
        """Raises InvalidField unless the model writes calls into free text in the way in which they are found there."""
        if self.chat_template is None or OPENING not in self.chat_template.source:
            raise InvalidField(
                f"tool_choice is auto, but the chat template of {self.model.name!r} does not ask for {OPENING}, the "
                "only way of calling that is found in free text: name a function, or give required or none",
                "tool_choice",
            )

    async def in_pool[T](self, function: Callable[[], T]) -> T:
        """Runs a function in the pool and waits for it."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function)
