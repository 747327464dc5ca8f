"""What a retriever found, as a `Context` takes it: documents, which of them are the same, how many have room."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from s2l_jax.core.errors import InvalidArgument
from serving.client.prompt import document


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text that a retriever found.

    Attributes:
      text: its text.
      id: tells it from others, whatever its text. None: documents of equal title and text are the same.
      title: names its source in the prompt; empty leaves the heading out.
    """

    text: str
    id: str | None = None
    title: str = ""

    def __post_init__(self) -> None:
        for name in ("text", "title"):
            if not isinstance(getattr(self, name), str):
                raise InvalidArgument(f"a document's {name} is {getattr(self, name)!r}, but must be a str")
        if self.id is not None and not isinstance(self.id, str):
            raise InvalidArgument(f"a document's id is {self.id!r}, but must be a str, or None to compare by text")

    @property
    def key(self) -> Hashable:
        """Equal for two documents if they are the same one."""
        return (self.title, self.text) if self.id is None else self.id


def as_it_stands(one: Document) -> str:
    """How a document stands in a prompt unless told otherwise: its title as a heading, if it has one, and its text."""
    return document(one.title, one.text) if one.title else f"{one.text.strip()}\n\n"


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a retriever's list goes into the prompt: its beginning, as far as all limits allow.

    A document that has no room is left out together with all behind it; none is cut.

    Attributes:
      documents: at most so many; None: no limit.
      tokens: at most so many in all documents together, without what stands around them; None: no limit.
      count_tokens: counts the tokens of a document as it stands in the prompt; needed with `tokens`, since this
        library has no tokenizer. An estimate, such as a quarter of the characters, will do.
    """

    documents: int | None = None
    tokens: int | None = None
    count_tokens: Callable[[str], int] | None = None

    def __post_init__(self) -> None:
        for name, limit in (("max_documents", self.documents), ("max_tokens", self.tokens)):
            if limit is not None and limit < 1:
                raise InvalidArgument(f"{name} is {limit!r}, but must be at least 1, or None for no limit")
        if self.tokens is not None and self.count_tokens is None:
            raise InvalidArgument("max_tokens needs count_tokens, such as `lambda text: len(text) // 4`")

    def first(self, documents: Iterable["Document | str"], render: Callable[[Document], str]) -> list["Shown"]:
        """The documents that go into the prompt, best first, each once: its first place and its first text count.

        Raises:
          InvalidArgument: something is neither a document nor text, or was not rendered to text.
        """
        found: dict[Hashable, Shown] = {}
        left = self.tokens
        for item in documents:
            one = _as_document(item)
            if one.key in found:
                continue
            if self.documents is not None and len(found) == self.documents:
                break
            shown = Shown(one, render(one))
            if left is not None and self.count_tokens is not None:
                left -= self.count_tokens(shown.text)
                if left < 0:
                    break
            found[one.key] = shown
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Shown:
    """A document, and its text in the prompt."""

    document: Document
    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidArgument(f"render made {self.text!r} of {self.document!r}, but must return a str")


def _as_document(item: "Document | str") -> Document:
    if isinstance(item, Document):
        return item
    if isinstance(item, str):
        return Document(item)
    raise InvalidArgument(
        f"a list of documents holds a {type(item).__name__}, but may hold Document and str; "
        "serving.client.adapters converts those of LangChain and LlamaIndex"
    )
