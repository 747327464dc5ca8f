"""The client for ordinary, blocking code. Sessions of one client may be used from different threads."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

import grpc

from s2l_jax.core.errors import FailedPrecondition, S2LError
from s2l_jax.core.params import SamplingParams
from serving.client.channel import (
    CHANNEL_OPTIONS,
    DEFAULT_TARGET,
    address_of,
    credentials_of,
    metadata_of,
    model_from_wire,
    stats_from_wire,
)
from serving.client.tls import ClientTls
from serving.client.transcript import Transcript
from serving.client.types import Accepted, Event, ModelInfo, Result, ServerStats, Token
from serving.protos.s2l.v1 import info_pb2, info_pb2_grpc, streaming_pb2_grpc
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.status import from_status
from serving.wire import Content

_JOIN_TIMEOUT_S = 10.0


def _error_of(error: grpc.RpcError) -> S2LError:
    return from_status(error.code(), error.details(), error.trailing_metadata())


class Client:
    """Talks to one server.

    ```python
    with Client("grpc://127.0.0.1:9000") as client, client.session() as session:
        session.append("The sky is blue.")
        session.append(" What colour is the sky?")
        session.finish()
        for token in session.tokens():
            print(token.text, end="")
    ```

    Args:
      target: `grpc://HOST:PORT` or `HOST:PORT`, with TLS `grpcs://HOST:PORT`.
      timeout_s: deadline of each session and call that brings none of its own; None waits for ever.
      api_key: for servers that need one. Without TLS it can be read on its way.
      tls: certificates; None believes those that gRPC comes with.

    Raises:
      InvalidArgument: target, key or certificates are no such thing.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float | None = None,
        api_key: str | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._metadata = metadata_of(api_key)
        address, credentials = address_of(target), credentials_of(target, tls)
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._sessions = streaming_pb2_grpc.StreamingContextStub(self._channel)
        self._info = info_pb2_grpc.InfoStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; sessions still running on it are cancelled."""
        self._channel.close()

    def session(
        self,
        params: SamplingParams | None = None,
        *,
        content: Content = None,
        session_id: str = "",
        final: bool = False,
        add_bos: bool = False,
        priority: int = 0,
        first_token_within_s: float | None = None,
        timeout_s: float | None = None,
    ) -> "Session":
        """A session, opened on entering its `with` block and cancelled on leaving it unless it is done.

        Args:
          params: sampling parameters; None leaves them to the server.
          content: first piece of context.
          session_id: name for the server's logs; empty lets the server choose.
          final: the context is complete.
          add_bos: put the model's begin-of-sequence token first.
          priority: -1000 to 1000; the server's default policy lets sessions of higher priority go first.
          first_token_within_s: the first token is wanted within this time from open; the server's default policy tries.
            None: no matter.
          timeout_s: deadline of the whole session.
        """
        transcript = Transcript(time.perf_counter)
        deadline_s = self._timeout_s if timeout_s is None else timeout_s

        def open_request() -> pb.SessionRequest:
            return transcript.open(
                content,
                params,
                session_id=session_id,
                final=final,
                add_bos=add_bos,
                priority=priority,
                first_token_within_s=first_token_within_s,
            )

        return Session(self._sessions, transcript, open_request, deadline_s, self._metadata)

    def generate(
        self,
        content: Content,
        params: SamplingParams | None = None,
        *,
        add_bos: bool = False,
        priority: int = 0,
        first_token_within_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Sends a complete prompt and waits for the whole answer. Arguments are those of `session`."""
        with self.session(
            params,
            content=content,
            final=True,
            add_bos=add_bos,
            priority=priority,
            first_token_within_s=first_token_within_s,
            timeout_s=timeout_s,
        ) as session:
            return session.result()

    def wait_ready(self, timeout_s: float) -> bool:
        """Waits until the server accepts connections; False if it does not within `timeout_s`."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=timeout_s)
        except grpc.FutureTimeoutError:
            return False
        return True

    def model(self) -> ModelInfo:
        """What the server serves."""
        try:
            request = info_pb2.GetModelRequest()
            return model_from_wire(self._info.GetModel(request, timeout=self._timeout_s, metadata=self._metadata))
        except grpc.RpcError as error:
            raise _error_of(error) from error

    def stats(self) -> ServerStats:
        """The server's counters."""
        try:
            request = info_pb2.GetStatsRequest()
            return stats_from_wire(self._info.GetStats(request, timeout=self._timeout_s, metadata=self._metadata))
        except grpc.RpcError as error:
            raise _error_of(error) from error


class Session:
    """One session; see `Client.session`.

    Requests are sent at once and not waited for: their answers come as `Accepted` events, and an error ends the session
    and is raised by whatever is called next. A thread of its own receives, so that times are those of arrival.
    """

    def __init__(
        self,
        stub: streaming_pb2_grpc.StreamingContextStub,
        transcript: Transcript,
        open_request: Callable[[], pb.SessionRequest],
        timeout_s: float | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        self._stub = stub
        self._metadata = metadata
        self._transcript = transcript
        self._open_request = open_request
        self._timeout_s = timeout_s
        self._requests: queue.SimpleQueue[pb.SessionRequest | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._error: S2LError | None = None
        self._ended = False
        self._exhausted = False
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._requests.put(self._open_request())
        requests = iter(self._requests.get, None)
        self._call = self._stub.Session(requests, timeout=self._timeout_s, metadata=self._metadata)
        self._reader = threading.Thread(target=self._read, name="s2l-client-reader", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._ended:
            self._call.cancel()
        if self._reader is not None:
            self._reader.join(_JOIN_TIMEOUT_S)

    @property
    def session_id(self) -> str:
        """The session's id; empty until the server has chosen one."""
        return self._transcript.session_id

    @property
    def accepted(self) -> Mapping[int, Accepted]:
        """The server's answers so far, by number of event; a view that grows."""
        return MappingProxyType(self._transcript.accepted)

    def append(self, content: Content, *, final: bool = False) -> int:
        """Puts content behind the context; `final` completes it. Returns the event's number."""
        return self._send(self._transcript.append(content, final=final))

    def update(self, content: Content, *, keep_tokens: int = 0, keep_chars: int = 0, final: bool = False) -> int:
        """Replaces the context but for its first `keep_chars` characters (text) or `keep_tokens` tokens (ids).

        Returns:
          The event's number.
        """
        return self._send(self._transcript.update(content, keep_tokens=keep_tokens, keep_chars=keep_chars, final=final))

    def finish(self) -> int:
        """Declares the context complete: the answer starts. Returns the event's number."""
        return self._send(self._transcript.finish())

    def cancel(self) -> None:
        """Ends the session; `result` then says `cancelled`."""
        self._send(self._transcript.cancel())

    def events(self) -> Iterator[Event]:
        """All events from here to the end of the session.

        Raises:
          S2LError: the session failed.
        """
        while not self._exhausted:
            event = self._events.get()
            if event is None:
                self._exhausted = True
                break
            yield event
        if self._error is not None:
            raise self._error

    def tokens(self) -> Iterator[Token]:
        """Output as it comes, to the end of the session."""
        return (event for event in self.events() if isinstance(event, Token))

    def result(self) -> Result:
        """Waits for the end of the session.

        Raises:
          S2LError: the session failed.
        """
        for _ in self.events():
            pass
        return self._transcript.result()

    def _send(self, request: pb.SessionRequest) -> int:
        if self._reader is None:
            raise FailedPrecondition("the session is not open yet: use it in a `with` block")
        if self._error is not None:
            raise self._error
        self._requests.put(request)
        return request.seq

    def _read(self) -> None:
        try:
            for response in self._call:
                event = self._transcript.fold(response)
                if event is not None:
                    self._events.put(event)
        except grpc.RpcError as error:
            self._error = _error_of(error)
        finally:
            self._ended = True
            self._requests.put(None)
            self._events.put(None)
