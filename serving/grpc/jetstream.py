"""JetStream's `Orchestrator` service, for its clients, and the adapter service beside it.

What its clients rely on, and we keep: one message per token, each with at least one sample; after `max_tokens` tokens
one last message with an empty sample; at end of sequence the last message carries that token and no text.
`InitialContent` is never sent: clients read the samples of every message. Requests with token ids are answered with
token ids alone.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import grpc.aio

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.outcome import Ack
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, TokenEvent
from serving.grpc.door import account_of
from serving.grpc.guard import guarded
from serving.outbox import Outbox
from serving.protos.jetstream.core.proto import (
    jetstream_pb2,
    jetstream_pb2_grpc,
    multi_lora_decoding_pb2,
    multi_lora_decoding_pb2_grpc,
)
from serving.tenants.account import Account
from serving.tenants.tenants import Tenants
from serving.writer import Writer

_StreamContent = jetstream_pb2.DecodeResponse.StreamContent
_EMPTY = _StreamContent.Sample()


@dataclass(frozen=True, slots=True)
class JetStreamConfig:
    """What JetStream's requests cannot say.

    Attributes:
      temperature: of all its requests; 0 is greedy, and then all samples of a request are equal.
      max_num_samples: samples that one request may ask for.
    """

    temperature: float = 0.0
    max_num_samples: int = 16


class OrchestratorServicer(jetstream_pb2_grpc.OrchestratorServicer):
    """Serves JetStream's clients.

    Args:
      tenants: whose sessions they are.
      pool: runs what tokenizes, so that the event loop never waits for it.
      eos_token_ids: tokens that end the output.
      is_live: answers `HealthCheck`.
      config: what requests cannot say.
      send_timeout_s: time for a client to take a message.
    """

    def __init__(
        self,
        tenants: Tenants,
        pool: Executor,
        eos_token_ids: Sequence[int],
        is_live: Callable[[], bool],
        config: JetStreamConfig,
        *,
        send_timeout_s: float,
    ) -> None:
        self._tenants = tenants
        self._pool = pool
        self._eos_token_ids = frozenset(eos_token_ids)
        self._is_live = is_live
        self._config = config
        self._send_timeout_s = send_timeout_s

    @guarded
    async def Decode(  # noqa: N802 - the wire's name
        self, request: jetstream_pb2.DecodeRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """Streams one message per token until all samples are complete."""
        _check(request, self._config)
        account = account_of(self._tenants, context.invocation_metadata())
        writer = Writer(context.write, self._send_timeout_s)
        params = SamplingParams(max_tokens=request.max_tokens, temperature=self._config.temperature)
        with_text = request.WhichOneof("content") == "text_content"
        samples = [_Sample(self._eos_token_ids, with_text=with_text) for _ in range(request.num_samples or 1)]
        try:
            for sample in samples:
                await sample.open(account, self._pool, request, params)
            while not all(sample.is_complete for sample in samples):
                content = _StreamContent(samples=[await sample.next() for sample in samples])
                await writer.write(jetstream_pb2.DecodeResponse(stream_content=content))
        finally:
            writer.close()
            for sample in samples:
                sample.close(account)

    @guarded
    async def HealthCheck(  # noqa: N802 - the wire's name
        self, request: jetstream_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> jetstream_pb2.HealthCheckResponse:
        """Says whether requests are served."""
        return jetstream_pb2.HealthCheckResponse(is_live=self._is_live())


class _Sample:
    """One of a request's samples: a session of its own."""

    def __init__(self, eos_token_ids: frozenset[int], *, with_text: bool) -> None:
        self._eos_token_ids = eos_token_ids
        self._with_text = with_text
        self._outbox = Outbox(merge_tokens=False)
        self._in_flight: Future[Ack] | None = None
        self._session_id: str | None = None
        self.is_complete = False

    async def open(
        self,
        account: Account,
        pool: Executor,
        request: jetstream_pb2.DecodeRequest,
        params: SamplingParams,
    ) -> None:
        """Opens the session; tokenization runs in the pool."""
        content = request.text_content.text if self._with_text else list(request.token_content.token_ids)

        def run() -> Ack:
            ack = account.open(
                sink=self._outbox.sink, params=params, content=content, final=True, add_bos=not request.has_bos
            )
            self._session_id = ack.session_id
            return ack

        self._in_flight = pool.submit(run)
        await asyncio.wrap_future(self._in_flight)

    async def next(self) -> jetstream_pb2.DecodeResponse.StreamContent.Sample:
        """The sample's part in the next message, empty once it is complete.

        Raises:
          S2LError: the session failed.
        """
        while not self.is_complete:
            match await self._outbox.get():
                case TokenEvent(ids=ids, text=text):
                    if ids[-1] in self._eos_token_ids:
                        self.is_complete = True
                        return _StreamContent.Sample(token_ids=ids)
                    return _StreamContent.Sample(token_ids=ids, text=text if self._with_text else "")
                case DoneEvent():
                    self.is_complete = True
                case FailedEvent(error=error):
                    raise error
        return _EMPTY

    def close(self, account: Account) -> None:
        """Ends the session if it is running, also one that a thread of the pool is just opening."""
        future = self._in_flight
        if future is not None and not future.done() and not future.cancel():
            future.add_done_callback(lambda _: self._cancel(account))
        else:
            self._cancel(account)

    def _cancel(self, account: Account) -> None:
        if self._session_id is not None and not self._outbox.is_ended:
            account.cancel(self._session_id)


def _check(request: jetstream_pb2.DecodeRequest, config: JetStreamConfig) -> None:
    if request.WhichOneof("content") is None:
        raise InvalidArgument("the request has no content: set text_content or token_content")
    if request.max_tokens < 1:
        raise InvalidArgument(f"max_tokens is {request.max_tokens}, but must be at least 1")
    if not 0 <= request.num_samples <= config.max_num_samples:
        raise InvalidArgument(
            f"num_samples is {request.num_samples}, but must be between 0 (one sample) and {config.max_num_samples}"
        )
    if request.lora_adapter_id:
        raise InvalidArgument(f"lora_adapter_id is {request.lora_adapter_id!r}, but this server has no adapters")


class AdapterServicer(multi_lora_decoding_pb2_grpc.v1Servicer):
    """Answers JetStream's adapter requests: there are none, and none can be loaded."""

    @guarded
    async def models(
        self, request: multi_lora_decoding_pb2.ListAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> multi_lora_decoding_pb2.ListAdaptersResponse:
        """Lists no adapter."""
        return multi_lora_decoding_pb2.ListAdaptersResponse(success=True)

    @guarded
    async def load_lora_adapter(
        self, request: multi_lora_decoding_pb2.LoadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> multi_lora_decoding_pb2.LoadAdapterResponse:
        """Refuses."""
        return multi_lora_decoding_pb2.LoadAdapterResponse(
            success=False, error_message=f"cannot load {request.adapter_id!r}: this server does not support adapters"
        )

    @guarded
    async def unload_lora_adapter(
        self, request: multi_lora_decoding_pb2.UnloadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> multi_lora_decoding_pb2.UnloadAdapterResponse:
        """Refuses."""
        return multi_lora_decoding_pb2.UnloadAdapterResponse(
            success=False, error_message=f"no adapter {request.adapter_id!r} is loaded"
        )
