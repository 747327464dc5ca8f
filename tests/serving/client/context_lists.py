"""Lists of documents as a retriever may bring them, and a session that is its own server."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from serving.client import Accepted, Document

texts = st.text(st.sampled_from("ab\n é"), max_size=5)
documents = st.one_of(
    st.builds(Document, text=texts, id=st.none() | st.sampled_from("xyz"), title=st.sampled_from(["", "t"])),
    st.builds(Document, text=st.sampled_from(["one", "two", "three", "four", "five"])),
)
lists = st.lists(st.lists(documents, max_size=6), min_size=1, max_size=6)


@dataclass
class EchoSession:
    """Keeps the text that a server would have, and answers like one whose tokens are characters."""

    text: str = ""
    is_final: bool = False
    ops: list[str] = field(default_factory=list)
    accepted: dict[int, Accepted] = field(default_factory=dict)

    def append(self, content: str, *, final: bool = False) -> int:
        return self._apply("append", len(self.text), content, final)

    def update(self, content: str, *, keep_chars: int = 0, final: bool = False) -> int:
        return self._apply("update", keep_chars, content, final)

    def _apply(self, op: str, keep: int, content: str, final: bool) -> int:
        assert 0 <= keep <= len(self.text) and not self.is_final
        before, self.text, self.is_final = self.text, self.text[:keep] + content, final
        kept = next((at for at, (a, b) in enumerate(zip(before, self.text, strict=False)) if a != b), None)
        kept = min(len(before), len(self.text)) if kept is None else kept
        self.ops.append(op)
        seq = len(self.ops) + 1  # opening it was 1
        self.accepted[seq] = Accepted("echo", seq, len(self.text), kept, len(before) - kept)
        return seq


class AsyncEchoSession:
    """The same for asyncio."""

    def __init__(self) -> None:
        self.echo = EchoSession()
        self.accepted = self.echo.accepted

    async def append(self, content: str, *, final: bool = False) -> int:
        return self.echo.append(content, final=final)

    async def update(self, content: str, *, keep_chars: int = 0, final: bool = False) -> int:
        return self.echo.update(content, keep_chars=keep_chars, final=final)
