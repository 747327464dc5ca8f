"""The orchestrator's side: an engine in another process, behind the same protocols as one in this."""

import itertools
import queue
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from s2l_jax.core.errors import InternalError, Unavailable
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.engine.errors import EngineGone, KVLost
from s2l_jax.engine.protocol import Progress
from serving.client.tls import ClientTls
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.protos.s2l.v1 import engine_pb2_grpc
from serving.remote.codec import ints_to_bytes, offer_message, offer_of, result_of, step_message
from serving.remote.offer import Offer
from serving.remote.page_parts import join, parts_of, whole

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""A peer that says nothing for ten seconds, its machine or the link included, counts as dead."""

_CLIENT_OPTIONS = (
    *CHANNEL_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # else a new connection would wait for what became of the last one
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

CONNECT_S = 10.0
PAGES_S = 30.0


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class RemotePages:
    """Pages that another process keeps, at most as long as this object lives.

    Attributes:
      engine: where.
      key: what they are called there.
    """

    engine: "RemoteEngine"
    key: int

    def fetch(self) -> np.ndarray:
        """The pages themselves, `[pages, layers, kv_heads, block_size, kv_dim]`."""
        return self.engine.fetch(self.key)


class RemoteEngine:
    """Executes plans in another process, and reaches its pages. It is warm there already.

    The thread that calls `warmup` owns it, as with any engine; `place`, `fetch` and `close` may be called from any
    thread. Once the connection has ended calls raise `EngineGone`: it is of no use any more.

    Args:
      address: `HOST:PORT`.
      tls: certificates; None is without TLS.

    Attributes:
      address: see above.
      pulls: pages can be pulled by it and from it, as it has said and nothing has shown otherwise since.
      gone: set once the connection has ended, for whatever reason.
      why_gone: the reason.
    """

    def __init__(self, address: str, tls: ClientTls | None = None) -> None:
        self.address = address
        self.pulls = False
        self.gone = threading.Event()
        self.why_gone = EngineGone(f"no engine has answered at {address} yet")
        if tls is None:
            self._channel = grpc.insecure_channel(address, options=_CLIENT_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), options=_CLIENT_OPTIONS)
        self._stub = engine_pb2_grpc.EngineStub(self._channel)
        self._keys = itertools.count(1)
        self._commands: queue.SimpleQueue[pb.EngineCommand | None] = queue.SimpleQueue()
        # Not a SimpleQueue, as it is waited for with a time-out: see `EngineHost`.
        self._replies: queue.Queue[pb.EngineReply | Exception] = queue.Queue()
        self._outstanding: deque[StepPlan] = deque()
        self._attempt = 0
        self._owner = 0

    def describe(self) -> pb.EngineDescription:
        """What it is.

        Raises:
          Unavailable: nobody answers there.
        """
        try:
            found = self._stub.Describe(pb.DescribeRequest(), timeout=CONNECT_S, wait_for_ready=True)
        except grpc.RpcError as error:
            raise Unavailable(f"no engine answers at {self.address}: {_details(error)}") from error
        self.pulls = found.pulls_pages
        return found

    def warmup(self, progress: Progress | None = None) -> None:
        """Takes possession of it; see `Engine.warmup`."""
        if self.gone.is_set():
            raise self.why_gone
        replies = self._stub.Run(iter(self._commands.get, None))
        threading.Thread(target=self._read, args=(replies,), name="s2l-remote", daemon=True).start()
        try:
            self._owner = self._next_reply(CONNECT_S).owned.owner
        except queue.Empty:
            raise EngineGone(f"the engine at {self.address} has not answered for {CONNECT_S:g} s") from None
        if progress is not None:
            progress(1, 1, self.address)

    def submit(self, plan: StepPlan) -> None:
        """See `Engine.submit`."""
        self._outstanding.append(plan)
        self._commands.put(pb.EngineCommand(step=step_message(plan, self._attempt)))

    def collect(self) -> StepResult:
        """See `Engine.collect`."""
        reply = self._next_reply()
        if reply.WhichOneof("reply") == "failed":
            self._outstanding.clear()
            self._attempt += 1
            kind = KVLost if reply.failed.kv_lost else InternalError
            raise kind(f"{reply.failed.message} at {self.address}")
        return result_of(reply.done, self._outstanding.popleft())

    def is_ready(self) -> bool:
        """See `Engine.is_ready`."""
        return bool(self._outstanding) and not self._replies.empty()

    def execute(self, plan: StepPlan) -> StepResult:
        """See `Engine.execute`."""
        self.submit(plan)
        return self.collect()

    def gather(self, blocks: Sequence[int]) -> RemotePages:
        """See `PageAccess.gather`."""
        key = next(self._keys)
        self._commands.put(
            pb.EngineCommand(gather=pb.Gather(key=key, blocks=ints_to_bytes(blocks), attempt=self._attempt))
        )
        return self._kept(key)

    def place(self, pages: Sequence[np.ndarray]) -> RemotePages:
        """See `PageAccess.place`: sends pages over. They are in this process's memory."""
        key = next(self._keys)
        together = whole(pages)
        kept = self._kept(key)
        try:
            self._stub.PutPages(parts_of(together, self._owner, key), timeout=PAGES_S)
        except grpc.RpcError as error:
            raise Unavailable(f"pages could not be sent to {self.address}: {_details(error)}") from error
        return kept

    def fetch(self, key: int) -> np.ndarray:
        """Pages that were gathered.

        Raises:
          Unavailable: they did not come.
        """
        request = pb.GetPagesRequest(owner=self._owner, key=key)
        try:
            return join(self._stub.GetPages(request, timeout=PAGES_S))[1]
        except grpc.RpcError as error:
            raise Unavailable(f"pages could not be had from {self.address}: {_details(error)}") from error

    def offer(self, key: int) -> Offer:
        """Has pages that were gathered offered to whoever pulls them; those of key 0 are a probe.

        Raises:
          Unavailable: it does not do that, or they are not there.
        """
        request = pb.GetPagesRequest(owner=self._owner, key=key)
        try:
            return offer_of(self._stub.OfferPages(request, timeout=PAGES_S))
        except grpc.RpcError as error:
            raise Unavailable(f"pages could not be had from {self.address}: {_details(error)}") from error

    def pull(self, offer: Offer) -> RemotePages:
        """Has pages pulled that another process offers.

        Raises:
          Unavailable: they have not come there.
        """
        key = next(self._keys)
        kept = self._kept(key)
        request = pb.PullPagesRequest(owner=self._owner, key=key, offer=offer_message(offer))
        try:
            self._stub.PullPages(request, timeout=2 * PAGES_S)
        except grpc.RpcError as error:
            raise Unavailable(f"pages could not be pulled by {self.address}: {_details(error)}") from error
        return kept

    def scatter(self, blocks: Sequence[int], pages: RemotePages) -> None:
        """See `PageAccess.scatter`. What goes wrong there shows as a failure of the next step."""
        self._commands.put(pb.EngineCommand(scatter=pb.Scatter(key=pages.key, blocks=ints_to_bytes(blocks))))

    def close(self) -> None:
        """Lets go of it. May be called again."""
        if self._owner == 0:  # nobody reads replies
            self.gone.set()
        self._commands.put(None)
        self._channel.close()

    def _read(self, replies: Iterator[pb.EngineReply]) -> None:
        """Runs on a thread of its own."""
        try:
            for reply in replies:
                self._replies.put(reply)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for a reply
            self.why_gone = EngineGone(f"the engine at {self.address} is gone: {_details(error)}")
        else:
            self.why_gone = EngineGone(f"the engine at {self.address} has shut down", was_asked=True)
        self._replies.put(self.why_gone)
        self.gone.set()

    def _kept(self, key: int) -> RemotePages:
        """Pages over there that nobody scatters or fetches, since their session has ended, go with their name here."""
        pages = RemotePages(self, key)
        weakref.finalize(pages, self._commands.put, pb.EngineCommand(forget=key)).atexit = False
        return pages

    def _next_reply(self, timeout_s: float | None = None) -> pb.EngineReply:
        reply = self._replies.get(timeout=timeout_s)
        if isinstance(reply, Exception):
            self._replies.put(reply)  # for whoever asks next
            raise reply
        return reply


def _details(error: Exception) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else repr(error)
