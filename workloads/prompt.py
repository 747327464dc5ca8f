"""What stands around retrieved pages in a prompt: instructions before them, the question behind them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """Pieces of a chat prompt whose context comes first and whose question comes last.

    All but the tail can be computed while pages still arrive. The defaults are what SmolLM2-Instruct was trained on:
    ChatML and its own system message.

    Attributes:
      head: sent when the session opens.
      before_question: ends the pages.
      after_question: ends the user's turn and begins the model's.
    """

    head: str = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nUse the following documentation to answer the question.\n\n"
    )
    before_question: str = "Question: "
    after_question: str = " Answer in one sentence.<|im_end|>\n<|im_start|>assistant\n"

    def page(self, title: str, heading: str, text: str) -> str:
        """A page as it stands in the context."""
        name = heading if heading == title or not title else f"{title}: {heading}" if heading else title
        return f"## {name}\n{text}\n\n"

    def tail(self, question: str) -> str:
        """The question, and all that follows it."""
        return f"{self.before_question}{question}{self.after_question}"
