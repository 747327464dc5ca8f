"""Stop strings in output that arrives in pieces."""

from collections.abc import Sequence


class StopFilter:
    """Passes text on up to the first stop string, and holds back what could become one.

    The first stop string is the one that is complete first, and of two that end together the longer one. That does not
    depend on how the text is cut into pieces.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._matchers = [_Matcher(text) for text in stop]
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Takes the next piece.

        Returns:
          The text that may be shown now, and True if a stop string is complete: then that text ends before it, and
          nothing more may be pushed.
        """
        if not self._matchers:
            return text, False
        whole = self._held + text
        for end, char in enumerate(text, len(self._held) + 1):
            for matcher in self._matchers:
                matcher.feed(char)
            longest = max((len(matcher.text) for matcher in self._matchers if matcher.is_complete), default=0)
            if longest:
                self._held = ""
                return whole[: end - longest], True
        cut = len(whole) - max(matcher.matched for matcher in self._matchers)
        self._held = whole[cut:]
        return whole[:cut], False

    def flush(self) -> str:
        """Gives out what is held back, for no more text comes."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """Knuth-Morris-Pratt matcher of one string.

    Attributes:
      text: the string looked for.
      matched: length of its longest prefix that ends the characters fed so far.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._fallback = [0] * len(text)
        prefix = 0
        for i in range(1, len(text)):
            while prefix and text[i] != text[prefix]:
                prefix = self._fallback[prefix - 1]
            prefix += text[i] == text[prefix]
            self._fallback[i] = prefix

    @property
    def is_complete(self) -> bool:
        return self.matched == len(self.text)

    def feed(self, char: str) -> None:
        """Takes one character; not to be called once complete."""
        while self.matched and char != self.text[self.matched]:
            self.matched = self._fallback[self.matched - 1]
        self.matched += char == self.text[self.matched]
