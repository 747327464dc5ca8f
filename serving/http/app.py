"""The ASGI application: all routes, and what surrounds them."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from s2l_jax.core.errors import FailedPrecondition, InvalidArgument, NotFound, S2LError
from serving.http.backend import Backend
from serving.http.chat import chat_routes
from serving.http.completions import completion_routes
from serving.http.dashboard import PAGE_PATHS, dashboard_routes
from serving.http.door import PROBES, Door
from serving.http.errors import ErrorBody, error_response, invalid_request
from serving.http.guard import Guard
from serving.http.metrics import metric_routes
from serving.http.probes import probe_routes
from serving.http.profile import profile_routes
from serving.http.sessions import session_routes
from serving.http.stream_socket import stream_routes
from serving.http.tokens import token_routes
from serving.tenants.tenants import Tenants
from serving.tracing.context import TraceContext
from serving.watch.observation import Observation

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong."},
    401: {"model": ErrorBody, "description": "The server has keys, and the request has none of them."},
    404: {"model": ErrorBody, "description": "No such model or session."},
    422: {"model": ErrorBody, "description": "Not used: what is wrong with a request is status 400."},
    429: {"model": ErrorBody, "description": "No room: try again after `Retry-After`."},
    503: {"model": ErrorBody, "description": "The server drains, or its engine has stopped."},
    504: {"model": ErrorBody, "description": "It took longer than the server allows."},
}


def make_app(
    backend: Backend,
    tenants: Tenants,
    *,
    max_body_bytes: int,
    receive_timeout_s: float,
    open_paths: Collection[str],
    observation: Observation | None = None,
) -> FastAPI:
    """The application.

    Args:
      backend: the served model.
      tenants: who may ask.
      max_body_bytes: size of a request's body at most.
      receive_timeout_s: time for a body to come.
      open_paths: need no key, besides the probes.
      observation: what to show of the server, if it is watched.
    """
    app = FastAPI(
        title="s2l",
        version=backend.model.server_version,
        description="OpenAI's API, and context that is still arriving.",
        responses=_ERRORS,
        redoc_url=None,
        docs_url=None,  # the page would load its scripts from elsewhere
    )
    for routes in (completion_routes, chat_routes, session_routes, stream_routes, token_routes, probe_routes):
        app.include_router(routes(backend))
    if observation is not None:
        app.include_router(metric_routes(observation.exposition))
        app.include_router(dashboard_routes(observation))
        open_paths = {*open_paths, *PAGE_PATHS}
        if observation.profile_dir is not None:
            app.include_router(profile_routes(observation.profile_dir))
    app.add_exception_handler(S2LError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_middleware(TraceContext)
    app.add_middleware(Door, tenants=tenants, open_paths={*PROBES, *open_paths})
    app.add_middleware(Guard, max_body_bytes=max_body_bytes, receive_timeout_s=receive_timeout_s)
    if backend.origins:
        # Outermost: a browser asks for permission without a key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(backend.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "Retry-After-Ms"],
        )
    return app


async def _on_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, S2LError)
    return error_response(error)


async def _on_invalid(http: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(invalid_request(error.errors()))


async def _on_http(http: Request, error: Exception) -> Response:
    """What the routing itself refuses."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, S2LError):
        return error_response(error.__cause__, close=True)  # while the body was read
    where = f"{http.method} {http.url.path}"
    if error.status_code == 404:
        return error_response(NotFound(f"there is no {where}: see /openapi.json for what there is"))
    if error.status_code == 405:
        response = error_response(FailedPrecondition(f"{where}: the path takes other methods"))
        response.status_code = 405
        response.headers.update(error.headers or {})
        return response
    return error_response(InvalidArgument(f"{where}: {error.detail}"))
