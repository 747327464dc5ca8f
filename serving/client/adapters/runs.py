"""Which retriever run belongs to which: what a run has found replaces what the runs it started had found."""

import threading
from collections.abc import Hashable, Sequence

from serving.client.adapters.merging import Merger
from serving.client.context_documents import Document


class Runs:
    """Runs of retrievers and of whatever is between them, by id. May be used from several threads."""

    def __init__(self) -> None:
        self._parents: dict[Hashable, Hashable | None] = {}
        self._sources: dict[Hashable, int] = {}
        self._merger = Merger()
        self._lock = threading.Lock()

    def start(self, run: Hashable, parent: Hashable | None) -> None:
        """A run starts, as part of another or by itself."""
        with self._lock:
            self._parents[run] = parent

    def found(self, run: Hashable, documents: Sequence[Document]) -> list[Document]:
        """A run has found documents; returns all that is found now."""
        with self._lock:
            for other in [other for other in self._sources if self._is_within(other, run)]:
                self._merger.drop(self._sources.pop(other))
            places = {one: place for place, one in enumerate(self._parents)}  # in order of start
            self._sources[run] = places.get(run, len(places))
            self._merger.put(self._sources[run], documents)
            return self._merger.merged()

    def _is_within(self, run: Hashable, other: Hashable) -> bool:
        parent = self._parents.get(run)
        while parent is not None and parent != other:
            parent = self._parents.get(parent)
        return parent == other
