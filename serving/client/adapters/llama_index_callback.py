"""A callback handler for LlamaIndex; importing this imports llama-index-core."""

from typing import Any

from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload

from serving.client.adapters import llama_index
from serving.client.adapters.runs import Runs
from serving.client.context import Context


class ContextCallback(BaseCallbackHandler):
    """Shows what retrievers find; see `llama_index.callback`."""

    def __init__(self, context: Context) -> None:
        super().__init__(event_starts_to_ignore=[], event_ends_to_ignore=[])
        self._context = context
        self._runs = Runs()

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **_: Any,
    ) -> str:
        """Remembers what the event is part of."""
        self._runs.start(event_id, parent_id or None)
        return event_id

    def on_event_end(
        self, event_type: CBEventType, payload: dict[str, Any] | None = None, event_id: str = "", **_: Any
    ) -> None:
        """Shows all that is found now."""
        if event_type is CBEventType.RETRIEVE and payload and EventPayload.NODES in payload:
            found = llama_index.to_documents(payload[EventPayload.NODES])
            self._context.show(self._runs.found(event_id, found))

    def start_trace(self, trace_id: str | None = None) -> None:
        """Nothing to do."""

    def end_trace(self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None) -> None:
        """Nothing to do."""
