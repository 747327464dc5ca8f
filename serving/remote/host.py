"""The engine's side: one thread that executes what its owner sends, in order."""

import itertools
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from s2l_jax.core.errors import FailedPrecondition, InternalError, InvalidArgument, NotFound, Unavailable
from s2l_jax.engine.errors import KVLost
from s2l_jax.engine.protocol import MAX_OUTSTANDING, Engine, PageAccess
from s2l_jax.transport.protocol import Pages
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.remote.codec import done_message, ints_of, plan_of
from serving.remote.offer import PROBED, Offer
from serving.remote.page_parts import whole

if TYPE_CHECKING:
    from serving.remote.device_link import DeviceLink

_log = logging.getLogger(__name__)
_LOOK_S = 0.001
LEAVE_S = 120.0
"""Steps of an owner who has gone end within this time, or the engine hangs."""


@dataclass
class _Owner:
    """Who owns the engine, and what is under way for it."""

    number: int
    replies: "queue.SimpleQueue[pb.EngineReply | None]" = field(default_factory=queue.SimpleQueue)
    attempt: int = 0
    has_left: threading.Event = field(default_factory=threading.Event)
    gathered: dict[int, Future[Pages]] = field(default_factory=dict)
    brought: dict[int, Pages] = field(default_factory=dict)

    def pages_of(self, key: int) -> Future[Pages]:
        """Pages that are gathered under this key; whoever takes them may ask before they are."""
        return self.gathered.setdefault(key, Future())


class EngineHost:
    """Runs an engine for one owner at a time. The engine is called by one thread only, which this starts.

    What an owner leaves behind, steps and pages, goes with its stream; the next one starts anew. How long a step may
    take is the owner's to say: it leaves when it has waited too long. If the engine then does not come to an end with
    its steps, it hangs, and nothing but an end of the process helps.

    Args:
      engine: warm.
      pages: of the engine.
      page_shape: that pages must have: `[layers, kv_heads, block_size, kv_dim]`.
      dtype: of pages.
      link: through which pages are offered and pulled; None does without.

    Attributes:
      ended: set when the engine is of no use any more.
      failure: why it is of no use, None as long as it is.
    """

    def __init__(
        self,
        engine: Engine,
        pages: PageAccess,
        page_shape: tuple[int, ...],
        dtype: str,
        link: "DeviceLink | None" = None,
    ) -> None:
        self._engine = engine
        self._link = link
        self._pages = pages
        self._page_shape, self._dtype = page_shape, dtype
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._owner: _Owner | None = None
        # Not a SimpleQueue: CPython's waits for ever if it is slower to begin to wait than the time-out is long.
        self._commands: queue.Queue[tuple[_Owner, pb.EngineCommand | None] | None] = queue.Queue()
        self._steps: deque[_Owner] = deque()
        self.ended = threading.Event()
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._main, name="s2l-engine", daemon=True)
        self._thread.start()

    def run(self, commands: Iterator[pb.EngineCommand]) -> Iterator[pb.EngineReply]:
        """Serves an owner until its commands end.

        Raises:
          FailedPrecondition: another owner has the engine.
          Unavailable: the engine has failed.
        """
        with self._lock:
            if self.failure is not None:
                raise Unavailable(self.failure)
            if self._owner is not None:
                raise FailedPrecondition("another orchestrator has this engine: it takes one at a time")
            owner = self._owner = _Owner(next(self._numbers))
        reader = threading.Thread(target=self._read, args=(owner, commands), name="s2l-commands", daemon=True)
        reader.start()
        yield pb.EngineReply(owned=pb.Owned(owner=owner.number))
        while (reply := owner.replies.get()) is not None:
            yield reply
        if self.ended.is_set():
            raise Unavailable(str(self.failure))

    def put_pages(self, head: pb.PagePart, pages: np.ndarray) -> None:
        """Keeps pages until their owner has them scattered.

        Raises:
          InvalidArgument: they are not like this engine's.
          NotFound: the owner is gone.
        """
        self._check_pages(pages.shape, str(pages.dtype))
        self._find(head.owner).brought[head.key] = (pages,)

    def take_pages(self, owner: int, key: int, timeout_s: float) -> np.ndarray:
        """Pages that the owner has had gathered.

        Raises:
          NotFound: there are none of this name, or the owner is gone.
        """
        return whole(self._take(owner, key, timeout_s))

    def offer_pages(self, owner: int, key: int, timeout_s: float) -> Offer:
        """Offers them to another process instead; those of key 0 are a probe (`serving.remote.device_probe`).

        Raises:
          FailedPrecondition: this engine offers nothing.
          NotFound: as in `take_pages`.
        """
        link = self._need_link()
        return link.offer((np.asarray(PROBED, np.float32),) if key == 0 else self._take(owner, key, timeout_s))

    def pull_pages(self, owner: int, key: int, offer: Offer) -> None:
        """Pulls pages that another process offers, and keeps them as `put_pages` does, whose errors these are.

        Raises:
          FailedPrecondition: this engine pulls nothing.
          Unavailable: they have not come.
        """
        link = self._need_link()
        self._check_pages(offer.shape, offer.dtype)
        self._find(owner).brought[key] = link.pull(offer)

    def _take(self, owner: int, key: int, timeout_s: float) -> Pages:
        found = self._find(owner)
        try:
            return found.pages_of(key).result(timeout_s)
        except TimeoutError:
            raise NotFound(f"no pages {key} were gathered in {timeout_s:g} s") from None
        finally:
            found.gathered.pop(key, None)

    def _check_pages(self, shape: Sequence[int], dtype: str) -> None:
        if tuple(shape[1:]) != self._page_shape or dtype != self._dtype:
            raise InvalidArgument(
                f"pages of {list(shape[1:])} in {dtype} came, but this engine's are "
                f"{list(self._page_shape)} in {self._dtype}"
            )

    def _need_link(self) -> "DeviceLink":
        if self._link is None:
            raise FailedPrecondition("this engine was started without --kv-transport jax")
        return self._link

    def close(self, timeout_s: float = 60.0) -> None:
        """Ends the thread and the engine; a thread that is stuck in the device is left behind."""
        self._commands.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.error("the engine's thread is still in a step after %g s and is left behind", timeout_s)

    def _find(self, number: int) -> _Owner:
        owner = self._owner
        if owner is None or owner.number != number:
            raise NotFound(f"owner {number} has not, or no longer, this engine")
        return owner

    def _read(self, owner: _Owner, commands: Iterator[pb.EngineCommand]) -> None:
        try:
            for command in commands:
                self._commands.put((owner, command))
        except Exception:  # noqa: BLE001 - however a stream ends, its owner is gone
            _log.info("owner %d is gone", owner.number, exc_info=True)
        self._commands.put((owner, None))
        if not owner.has_left.wait(LEAVE_S):
            self._fail(f"the engine hangs: it has not ended the steps of an owner who left {LEAVE_S:g} s ago")

    def _fail(self, failure: str) -> None:
        """The engine is of no use any more: its owner, and whoever runs this, is told."""
        _log.critical("%s", failure)
        with self._lock:
            self.failure = failure
            owner = self._owner
        self.ended.set()
        if owner is not None:
            owner.replies.put(None)

    # On the engine's thread

    def _main(self) -> None:
        try:
            self._serve()
            self._engine.close()
            self.failure = "the engine has shut down"
        except BaseException as error:  # noqa: BLE001 - whatever it is, the owner may not be left waiting
            self._fail(f"the engine's thread has ended: {error!r:.500}")
        if (owner := self._owner) is not None:
            self._let_go(owner)

    def _serve(self) -> None:
        while True:
            try:
                command = self._commands.get(timeout=_LOOK_S if self._steps else None)
            except queue.Empty:
                if self._engine.is_ready():
                    self._collect()
                continue
            if command is None:
                return
            self._obey(*command)

    def _obey(self, owner: _Owner, command: pb.EngineCommand | None) -> None:
        if command is None:
            self._leave(owner)
            return
        match command.WhichOneof("command"):
            case "step":
                self._submit(owner, command.step)
            case "gather":
                self._gather(owner, command.gather)
            case "scatter":
                self._scatter(owner, command.scatter)
            case "forget":
                owner.gathered.pop(command.forget, None)
                owner.brought.pop(command.forget, None)

    def _submit(self, owner: _Owner, step: pb.Step) -> None:
        if step.attempt != owner.attempt:
            return  # sent before its sender knew of a failure
        while len(self._steps) == MAX_OUTSTANDING:
            self._collect()
        if step.attempt == owner.attempt and self._guard(owner, lambda: self._engine.submit(plan_of(step))):
            self._steps.append(owner)

    def _collect(self) -> None:
        owner = self._steps[0]

        def collect() -> None:
            owner.replies.put(pb.EngineReply(done=done_message(self._engine.collect())))
            self._steps.popleft()

        self._guard(owner, collect)

    def _gather(self, owner: _Owner, gather: pb.Gather) -> None:
        done = owner.pages_of(gather.key)
        try:
            if gather.attempt != owner.attempt:
                raise InternalError("the engine has failed before these pages were gathered")
            done.set_result(self._pages.gather(ints_of(gather.blocks).tolist()))
        except Exception as error:  # noqa: BLE001 - whoever fetches these pages is told
            done.set_exception(error)

    def _scatter(self, owner: _Owner, scatter: pb.Scatter) -> None:
        """Puts pages in. If that fails all KV counts as lost, for their session may be in no step that could fail."""
        try:
            pages = self._pages.place(owner.brought.pop(scatter.key))
        except Exception as error:  # noqa: BLE001 - as in `_guard`
            while self._steps:  # the engine has not heard of it, and they are all right
                self._collect()
            self._tell_failed(owner, error, kv_lost=True)
            return
        self._guard(owner, lambda: self._pages.scatter(ints_of(scatter.blocks).tolist(), pages), kv_lost=True)

    def _guard(self, owner: _Owner, call: Callable[[], None], *, kv_lost: bool = False) -> bool:
        """Calls the engine; if it fails, its outstanding steps are dropped, and the owner is told."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - an engine may fail in any way, and its owner is told
            self._steps.clear()
            self._tell_failed(owner, error, kv_lost=kv_lost or isinstance(error, KVLost))
            return False
        return True

    def _tell_failed(self, owner: _Owner, error: Exception, *, kv_lost: bool) -> None:
        _log.error("a command of owner %d failed", owner.number, exc_info=error)
        failed = pb.StepFailed(attempt=owner.attempt, kv_lost=kv_lost, message=f"{error!r:.500}")
        owner.attempt += 1
        owner.replies.put(pb.EngineReply(failed=failed))

    def _leave(self, owner: _Owner) -> None:
        while self._steps:
            self._collect()
        self._let_go(owner)

    def _let_go(self, owner: _Owner) -> None:
        with self._lock:
            if self._owner is owner:
                self._owner = None
        owner.replies.put(None)
        owner.has_left.set()
