"""Questions about a context, laid out so that the context comes first and may still be arriving."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

_INSTRUCTION = "Answer the question using the documents below.\n\n"
_QUESTION = "\n\nQuestion: "
_CONTEXT_MARK = "\x02s2l-context\x03"
_QUESTION_MARK = "\x02s2l-question\x03"


@dataclass(frozen=True, slots=True)
class PromptPieces:
    """A prompt with two holes: `before_context + context + before_question + question + after_question`.

    Attributes:
      before_context: what stands before the first document; known before any of them.
      before_question: between the last document and the question.
      after_question: from the question to where the answer starts.
      add_bos: the model wants its begin-of-sequence token first, and the text does not spell it.
    """

    before_context: str = _INSTRUCTION
    before_question: str = _QUESTION
    after_question: str = "\n\nAnswer:"
    add_bos: bool = True

    def tail(self, question: str) -> str:
        """All that follows the context."""
        return f"{self.before_question}{question}{self.after_question}"

    def whole(self, documents: Iterable[str], question: str) -> str:
        """The prompt in one piece, equal to head, documents and tail sent one after the other."""
        return self.before_context + "".join(documents) + self.tail(question)


def pieces_of_template(render: Callable[[list[dict[str, str]]], str]) -> PromptPieces:
    """Cuts a chat template open around context and question.

    Args:
      render: turns chat messages (`role`, `content`) into the model's prompt, with the answer's beginning.

    Raises:
      ValueError: the template drops, repeats or changes the content of a user message.
    """
    content = f"{_INSTRUCTION}{_CONTEXT_MARK}{_QUESTION}{_QUESTION_MARK}"
    text = render([{"role": "user", "content": content}])
    if text.count(_CONTEXT_MARK) != 1 or text.count(_QUESTION_MARK) != 1:
        raise ValueError("the chat template does not pass a user message through unchanged, so it cannot be cut open")
    before_context, rest = text.split(_CONTEXT_MARK)
    before_question, after_question = rest.split(_QUESTION_MARK)
    return PromptPieces(before_context, before_question, after_question, add_bos=False)


def document(source: str, text: str) -> str:
    """One document as it stands in a prompt: a heading that names its source, and its text."""
    return f"## {source}\n{text.strip()}\n\n"
