"""Replicas on NVIDIA's Dynamo runtime: it finds them, carries requests to them, and chooses between them by prefix.

The package `ai-dynamo-runtime` (the extra `dynamo`) is imported only here; it needs neither CUDA nor NATS. Of Dynamo,
this uses discovery (etcd, Kubernetes, or files for one machine), requests over TCP, and `KvRouter`, which remembers
which replica was sent which blocks of tokens, and how busy each is. Sessions do not fit its model of one request and
one stream of answers: so a session's first request opens it, and the stream is its output; what comes later are
requests of their own to the same replica. Messages are those of `streaming.proto`.
"""

import asyncio
import base64
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Sequence
from dataclasses import asdict
from typing import Any

from google.protobuf.message import Message

from s2l_jax.core.errors import InternalError, InvalidArgument, S2LError, Unavailable
from serving.client.prompt import PromptPieces
from serving.client.types import ModelInfo
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.replicas.protocol import ReplicaLost
from serving.replicas.worker import Worker
from serving.status import error_of

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_NOTHING: dict[str, Any] = {}


def connect(discovery: str) -> Any:
    """This process's Dynamo runtime, on the running event loop.

    Args:
      discovery: `etcd`, `kubernetes` or `file`; the environment says where: `ETCD_ENDPOINTS`, `DYN_FILE_KV`.

    Raises:
      InvalidArgument: the runtime is not installed, or discovery cannot be reached.
    """
    try:
        from dynamo.runtime import DistributedRuntime
    except ImportError as error:
        raise InvalidArgument("Dynamo's runtime is not installed: pip install 's2l-jax[dynamo]'") from error
    try:
        return DistributedRuntime(asyncio.get_running_loop(), discovery, "tcp")
    except Exception as error:
        raise InvalidArgument(f"Dynamo cannot be reached by way of {discovery}: {error}") from error


async def serve_worker(runtime: Any, namespace: str, worker: Worker, model: ModelInfo, block_size: int) -> None:
    """Makes this process a replica, until its runtime is shut down.

    Args:
      runtime: of `connect`.
      namespace: whose replica it is.
      worker: serves.
      model: what it serves.
      block_size: tokens of a KV block.
    """
    from dynamo.llm import ModelInput, ModelRuntimeConfig, ModelType, WorkerType, register_model

    async def answer(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            match request:
                case {"open": text, "tenant": tenant}:
                    async with contextlib.aclosing(worker.open(_request(text), tenant)) as responses:
                        async for response in responses:
                            yield {"response": _text(response)}
                case {"send": text, "session": session_id}:
                    yield {"response": _text(await worker.send(session_id, _request(text)))}
                case _:
                    yield {"model": asdict(model)}
        except S2LError as error:
            yield {"error": [error.status, str(error), getattr(error, "retry_after_s", None)]}
        except Exception:  # noqa: BLE001 - a router is told no more than this
            _log.exception("a router's request failed")
            yield {"error": [InternalError.status, "the replica failed", None]}

    endpoint = _endpoint(runtime, namespace)
    # The least that lets `KvRouter` choose this process; Dynamo's own front has no use for it.
    await register_model(
        ModelInput.Tokens,
        ModelType.Empty,
        endpoint,
        model.name,
        model.name,
        worker_type=WorkerType.Aggregated,
        kv_cache_block_size=block_size,
        runtime_config=ModelRuntimeConfig(),
        skip_model_assets=True,
    )
    await endpoint.serve_endpoint(answer)


async def leave(runtime: Any, namespace: str) -> None:
    """Takes this process out of discovery; what it is doing goes on."""
    await _endpoint(runtime, namespace).unregister_endpoint_instance()


class DynamoReplicas:
    """All replicas of a namespace. Belongs to the event loop it is made in; see `Replicas`.

    Args:
      client: of the replicas' endpoint.
      router: Dynamo's own, which chooses.
    """

    def __init__(self, client: Any, router: Any) -> None:
        self._client = client
        self._router = router
        self._chosen: dict[str, int] = {}
        self._tasks: set[asyncio.Task[object]] = set()

    @classmethod
    async def find(cls, runtime: Any, namespace: str, block_size: int) -> "DynamoReplicas":
        """Those of a namespace, which come and go.

        Args:
          runtime: of `connect`.
          namespace: whose replicas.
          block_size: tokens of a KV block, of which whole ones that are known make a replica worth choosing.
        """
        from dynamo.llm import KvRouter, KvRouterConfig

        endpoint = _endpoint(runtime, namespace)
        client = await endpoint.client()
        await client.wait_for_instances()
        return cls(client, KvRouter(endpoint, block_size, KvRouterConfig(use_kv_events=False)))

    async def model(self) -> ModelInfo:
        """What the replicas serve, as one of them says.

        Raises:
          ReplicaLost: it does not answer.
        """
        (replica, *_) = self._client.instance_ids()
        async for answer in self._call(replica, _NOTHING):
            fields = answer["model"]
            prompt, eos = PromptPieces(**fields.pop("prompt")), tuple(fields.pop("eos_token_ids"))
            return ModelInfo(**fields, prompt=prompt, eos_token_ids=eos)
        raise ReplicaLost("it says nothing about its model")

    # Replicas

    def present(self) -> Collection[int]:
        """See `Replicas.present`. A replica that has gone is there for about 10 s, until discovery notices."""
        ids: list[int] = self._client.instance_ids()
        return ids

    async def choose(self, session_id: str, tokens: Sequence[int], avoid: Collection[int], tenant: str) -> int:
        """See `Replicas.choose`."""
        able = [replica for replica in self.present() if replica not in avoid]
        if not able:
            raise Unavailable("no server is there that the session could be given to: try again in 1 s", 1.0)
        chosen = -1
        if tokens:
            try:
                chosen, _, _ = await self._router.best_worker(
                    list(tokens), request_id=session_id, update_indexer=True, cache_namespace=tenant or None
                )
                self._chosen[session_id] = chosen
            except Exception as error:  # noqa: BLE001 - it has no types of its own for replicas that have just gone
                _log.info("Dynamo chooses nobody: %s", error)
        if chosen not in able:
            load = Counter(self._chosen.values())
            chosen = min(able, key=lambda replica: load[replica])
        self._chosen[session_id] = chosen
        return chosen

    def ended(self, session_id: str) -> None:
        """See `Replicas.ended`."""
        if self._chosen.pop(session_id, None) is not None:
            self._in_background(self._router.free(session_id))

    async def open(self, replica: int, request: pb.SessionRequest, tenant: str) -> AsyncGenerator[pb.SessionResponse]:
        """See `Replicas.open`."""
        session_id, is_over, is_waiting = request.open.session_id, False, True
        try:
            async for answer in self._call(replica, {"open": _text(request), "tenant": tenant}):
                response = pb.SessionResponse.FromString(base64.b64decode(answer["response"]))
                if is_waiting and (response.HasField("token") or not request.open.final):
                    # From now on, it counts as one that generates.
                    is_waiting = False
                    self._in_background(self._router.mark_prefill_complete(session_id))
                is_over = response.HasField("done")
                yield response
        except S2LError:
            is_over = True
            raise
        finally:
            if not is_over:
                cancel = pb.SessionRequest(cancel=pb.Cancel())
                self._in_background(self.send(replica, session_id, cancel))

    async def send(self, replica: int, session_id: str, request: pb.SessionRequest) -> pb.Accepted:
        """See `Replicas.send`."""
        async for answer in self._call(replica, {"send": _text(request), "session": session_id}):
            return pb.Accepted.FromString(base64.b64decode(answer["response"]))
        raise ReplicaLost("no answer to an event")

    # How it is done

    async def _call(self, replica: int, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The answers to a request.

        Raises:
          S2LError: the replica says so.
          ReplicaLost: the connection breaks, or discovery has lost the replica.
        """
        pending: asyncio.Future[Any] | None = None
        try:
            stream = await self._client.direct(request, replica, annotated=False)
            while True:
                pending = asyncio.ensure_future(anext(stream))
                while not (await asyncio.wait({pending}, timeout=_LOOK_S))[0]:
                    if replica not in self.present():
                        raise ReplicaLost("discovery has lost it")
                answer = pending.result()
                if "error" in answer:
                    break
                yield answer
        except StopAsyncIteration:
            return
        except (ReplicaLost, GeneratorExit, asyncio.CancelledError):
            raise
        except Exception as error:
            raise ReplicaLost(str(error)) from error
        finally:
            if pending is not None:
                pending.cancel()
        status, message, retry_after_s = answer["error"]
        raise error_of(status, message, retry_after_s)

    def _in_background(self, call: Coroutine[Any, Any, object]) -> None:
        """Does something that nobody waits for, and that may fail if a replica has gone."""
        task = asyncio.ensure_future(_quietly(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _quietly(call: Coroutine[Any, Any, object]) -> None:
    try:
        await call
    except Exception as error:  # noqa: BLE001 - as above
        _log.debug("what was done in the background failed: %s", error)


def _endpoint(runtime: Any, namespace: str) -> Any:
    return runtime.endpoint(f"{namespace}.s2l.sessions")


def _text(message: Message) -> str:
    """Dynamo carries JSON."""
    return base64.b64encode(message.SerializeToString()).decode()


def _request(text: str) -> pb.SessionRequest:
    return pb.SessionRequest.FromString(base64.b64decode(text))
