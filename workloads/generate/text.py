"""Text for made-up sessions: passages of the crawl of Python's documentation that comes with this package."""

import functools
import zlib

import numpy as np

from workloads.crawl.docs import stored_crawl
from workloads.generate.content import QUESTION, TEMPLATE
from workloads.prompt import Prompt
from workloads.trace import read_trace

CHARS_PER_TOKEN = 4.26
"""Of this text under SmolLM2's tokenizer: 46974 characters are 11030 tokens."""
_KEPT_DOCUMENTS = 2048


class DocumentationText:
    """A source of readable text: each document is the passages of the crawl in an order of its own.

    Attributes:
      licence: of the text, in words.
    """

    def __init__(self, prompt: Prompt | None = None) -> None:
        """Reads the crawl; `prompt` is what stands around the documents."""
        self._prompt = prompt or Prompt()
        crawl = read_trace(stored_crawl())
        self.licence = crawl.header.source
        self._questions = [session.events[0].note for session in crawl.sessions]
        pages = [event.text or "" for event in crawl.events if event.op == "append"]
        # The last page of a session also carries the question, which is none of the documents'.
        self._passages = list(dict.fromkeys(page.partition(self._prompt.before_question)[0] for page in pages))
        self._kept = functools.lru_cache(_KEPT_DOCUMENTS)(self._document)

    def __call__(self, name: str, count: int) -> str:
        """The text of this name, about `count` tokens long; template and question are as long as they are."""
        seed = zlib.crc32(name.encode())
        if name == TEMPLATE:
            return self._prompt.head
        if name.startswith(QUESTION):
            return self._prompt.tail(self._questions[seed % len(self._questions)])
        return self._kept(seed, round(count * CHARS_PER_TOKEN))

    def _document(self, seed: int, chars: int) -> str:
        rng = np.random.default_rng(seed)
        text = ""
        while len(text) < chars:
            text += "".join(self._passages[place] for place in rng.permutation(len(self._passages)))
        return text[:chars].rsplit(maxsplit=1)[0] + "\n\n"
