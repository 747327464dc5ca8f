"""Streaming context in plain requests: `/v1/sessions`."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from s2l_jax.core.errors import InvalidArgument
from serving.http.backend import Backend
from serving.http.door import Caller
from serving.http.session_events import Accepted, SessionEvent, accepted_of
from serving.http.session_requests import AppendRequest, FinishRequest, OpenRequest, UpdateRequest
from serving.http.session_table import SessionTable
from serving.http.sse import event

SessionId = Annotated[str, Path(description="The session, as it was answered when it was opened.")]


def session_routes(backend: Backend) -> APIRouter:
    """The routes of sessions."""
    router = APIRouter(prefix="/v1/sessions", tags=["streaming context"])
    table = SessionTable(backend)

    @router.post(
        "",
        status_code=201,
        response_model=Accepted,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/SessionEvent"}}},
                "description": "With `stream`: events, the first one `accepted`.",
            }
        },
    )
    async def open_session(body: OpenRequest, caller: Caller) -> Response:
        """Opens a session. Its context may be complete, begun or empty; what is there is computed at once."""
        backend.check_model(body.model)
        if body.session_id is not None and "/" in body.session_id:
            raise InvalidArgument(f"session_id is {body.session_id!r}, but `/` cannot be part of it in a path")
        session, ack = await table.open(caller, body)
        accepted = accepted_of(ack)
        if body.stream:
            return table.read(session, event(SessionEvent(accepted=accepted).to_json()))
        return Response(accepted.model_dump_json(), 201, media_type="application/json")

    @router.post("/{session_id}/append")
    async def append(session_id: SessionId, body: AppendRequest, caller: Caller) -> Accepted:
        """Adds to the end of the context."""
        name = table.find(caller, session_id).id
        ack = await backend.in_pool(lambda: caller.append(name, body.content, final=body.final, seq=body.seq))
        return accepted_of(ack)

    @router.post("/{session_id}/update")
    async def update(session_id: SessionId, body: UpdateRequest, caller: Caller) -> Accepted:
        """Replaces what follows the kept part of the context; KV of the longest common prefix stays."""
        name = table.find(caller, session_id).id
        ack = await backend.in_pool(
            lambda: caller.update(
                name,
                body.content,
                keep_tokens=body.keep_tokens,
                keep_chars=body.keep_chars,
                final=body.final,
                seq=body.seq,
            )
        )
        return accepted_of(ack)

    @router.post("/{session_id}/finish")
    async def finish(session_id: SessionId, caller: Caller, body: FinishRequest | None = None) -> Accepted:
        """Says that the context is complete; output follows."""
        name = table.find(caller, session_id).id
        seq = 0 if body is None else body.seq
        return accepted_of(await backend.in_pool(lambda: caller.finish(name, seq=seq)))

    @router.get(
        "/{session_id}/output",
        response_model=SessionEvent,  # only names the schema: the answer is a stream of them
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/SessionEvent"}}},
                "description": "Events `data: {...}`, the last one `done` or `error`.",
            }
        },
    )
    async def output(session_id: SessionId, caller: Caller) -> Response:
        """The output in events, from the first token on, whenever it is asked for. It can be read once.

        A client that goes before the end cancels the session.
        """
        return table.read(table.find(caller, session_id))

    @router.delete("/{session_id}", status_code=204)
    async def cancel(
        session_id: SessionId,
        caller: Caller,
        seq: Annotated[int, Query(ge=0, lt=1 << 53, description="The event's number.")] = 0,
    ) -> None:
        """Ends a session, whatever it is doing."""
        table.cancel(table.find(caller, session_id), seq)

    return router
