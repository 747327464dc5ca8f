"""Full-text search over passages: SQLite's FTS5 with its BM25 ranking, which every Python brings along."""

import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from workloads.crawl.extract import Page

_WORD = re.compile(r"\w+")
_STOP_WORDS = (
    "a an and are as at be by can do does for from how i if in into is it its many me of on or s should such that the "
    "their there they this to use used using was what when where which who why will with would you your python"
)
# A word in the title or heading of a passage says more about it than one in its text, and a section says what it is
# about where it begins; a line or two answer nothing. FTS5's bm25() is negative, most negative for the best match.
_SCORE = "-bm25(passages, 0.0, 0.0, 3.0, 6.0, 1.0) * iif(leads, 1.5, 1.0) * min(1.0, 0.3 + length(text) / 300.0)"


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that matches a query; a higher score is a better match."""

    url: str
    title: str
    heading: str
    text: str
    score: float


class PassageIndex:
    """An in-memory index of passages. One thread at a time."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute(
            "CREATE VIRTUAL TABLE passages USING fts5("
            "url UNINDEXED, leads UNINDEXED, title, heading, text, tokenize = \"porter unicode61 tokenchars '_'\")"
        )

    def add(self, url: str, page: Page) -> None:
        """Adds all passages of a page."""
        rows = [(url, passage.leads, page.title, passage.heading, passage.text) for passage in page.passages]
        self._db.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?)", rows)

    def search(self, query: str, limit: int) -> list[Hit]:
        """The best passages for a question in plain words, best first."""
        words = query_words(query)
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        rows = self._db.execute(
            f"SELECT url, title, heading, text, {_SCORE} AS score FROM passages WHERE passages MATCH ? "
            "ORDER BY score DESC, rowid LIMIT ?",
            (match, limit),
        )
        return [Hit(*row) for row in rows]

    def search_pages(self, query: str, limit: int) -> list[Hit]:
        """The best pages, each by its best passage, best first."""
        best: dict[str, Hit] = {}
        for hit in self.search(query, limit * 20):
            best.setdefault(hit.url, hit)
        return list(best.values())[:limit]

    def headings(self) -> list[str]:
        """What passages are about, each heading once, in order."""
        rows = self._db.execute("SELECT DISTINCT heading FROM passages WHERE leads ORDER BY rowid")
        return [heading for (heading,) in rows]

    def close(self) -> None:
        """Frees the index."""
        self._db.close()


def best_passage(page: Page, query: str) -> Hit | None:
    """The passage of a page that fits a query best; its first one if none matches, None if the page is empty."""
    index = PassageIndex()
    try:
        index.add("", page)
        hits = index.search(query, 1)
    finally:
        index.close()
    if hits:
        return hits[0]
    if page.passages:
        return Hit("", page.title, page.passages[0].heading, page.passages[0].text, 0.0)
    return None


def query_words(query: str) -> list[str]:
    """Words of a query that say something, in lower case, each once, in order."""
    stop_words = _STOP_WORDS.split()
    words: Iterable[str] = (word.lower() for word in _WORD.findall(query))
    return list(dict.fromkeys(word for word in words if word not in stop_words))
