"""Which tokens may come next, so that the whole output is what its client asked for.

The work is done by `llguidance` (MIT, 3 MB, no dependencies, wheels of the stable ABI for x86-64 and AArch64). It
derives a mask from a grammar as the output comes, in microseconds, and bounds what a grammar may cost. Of the others,
`xgrammar` asks for torch and transformers, and `outlines-core` first computes an index of each pattern over the whole
vocabulary.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import llguidance
import numpy as np

from s2l_jax.core.constraint import Constraint, InvalidConstraint
from s2l_jax.core.plan import MASK_WORD_BITS
from s2l_jax.models.tokenizer import Tokenizer

MAX_GRAMMARS = 64
"""Compiled grammars that are kept."""

_COMMA, _COLON = ", ?", ": ?"  # other white space costs tokens, and a small model may go on with it for ever
_MAX_REASON_CHARS = 400


class GrammarState:
    """A grammar, and how far an output has come in it. Not thread-safe.

    It is a function of the output's tokens: whoever asks for a mask names them, and a state that has seen others, or
    fewer, is made anew from them.
    """

    def __init__(self, matcher: llguidance.LLMatcher, eos_token_ids: Sequence[int], *, ignore_eos: bool) -> None:
        """Starts at the beginning.

        Args:
          matcher: at the beginning; belongs to the state from now on.
          eos_token_ids: tokens that end an output.
          ignore_eos: they are not to come as long as anything else may.
        """
        self._matcher = matcher
        self._eos_token_ids = eos_token_ids if ignore_eos else ()
        self._seen = 0

    def mask(self, output: np.ndarray) -> np.ndarray:
        """The tokens that may follow.

        Args:
          output: int32 `[n]`, all tokens so far.

        Returns:
          int32 `[words]`: bit `i % 32` of word `i // 32` is set if token `i` may follow; at least one is.

        Raises:
          InvalidConstraint: the grammar has become too complex, or the output is not of its language.
        """
        if self._seen > len(output):
            self._matcher.reset()
            self._seen = 0
        for token_id in output[self._seen :].tolist():
            self.push(token_id)
        words = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
        if self._eos_token_ids:
            others = _without(words, self._eos_token_ids)
            words = others if others.any() else words
        if self._matcher.is_error() or not words.any():
            why = _reason(self._matcher.get_error()) or "no token of the vocabulary may follow"
            raise InvalidConstraint(f"the output's constraint failed after {len(output)} tokens: {why}")
        return words

    def push(self, token_id: int) -> bool:
        """Takes the next token of the output; returns True if it is complete, so that nothing may follow."""
        self._matcher.consume_token(token_id)
        self._seen += 1
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()


class GrammarCompiler:
    """Compiles constraints for one tokenizer, and keeps the last `MAX_GRAMMARS` of them. Any thread may call it.

    Compiling takes from under a millisecond to most of a second, so it is for threads that may wait. Python's lock is
    released meanwhile.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = sorted(tokenizer.eos_token_ids)
        self._lock = threading.Lock()
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[Constraint, llguidance.LLMatcher] = OrderedDict()
        self._limits = llguidance.LLParserLimits(
            # Bounds of work are a fraction of the library's own: on one core these are about 0.2 s to compile, and some
            # milliseconds for a mask.
            initial_lexer_fuel=300_000,
            step_lexer_fuel=50_000,
            step_max_items=20_000,
            max_lexer_states=50_000,
            max_grammar_size=200_000,
            verbose_errors=False,
        )

    def start(self, constraint: Constraint, *, ignore_eos: bool = False) -> GrammarState:
        """The state before the first token.

        Args:
          constraint: what the output must look like.
          ignore_eos: see `GrammarState`.

        Raises:
          InvalidConstraint: the constraint is not well formed, uses what is not supported, is too complex, or lets
            nothing but the empty output through; the message says which.
        """
        with self._lock:
            matcher = self._compiled.get(constraint)
            if matcher is not None:
                self._compiled.move_to_end(constraint)
            vocabulary = self._vocabulary = self._vocabulary or self._read_vocabulary()
        if matcher is None:
            matcher = self._compile(constraint, vocabulary)
            with self._lock:
                self._compiled[constraint] = matcher
                while len(self._compiled) > MAX_GRAMMARS:
                    self._compiled.popitem(last=False)
        return GrammarState(matcher.deep_copy(), self._eos_token_ids, ignore_eos=ignore_eos)

    def _compile(self, constraint: Constraint, vocabulary: llguidance.LLTokenizer) -> llguidance.LLMatcher:
        what = f"the {constraint.kind} constraint cannot be used: "
        try:
            matcher = llguidance.LLMatcher(vocabulary, _grammar_of(constraint), log_level=0, limits=self._limits)
        except (TypeError, ValueError) as error:
            raise InvalidConstraint(what + _reason(str(error))) from error
        # The first mask takes what is lazy about the grammar; here it keeps no engine waiting.
        words = np.frombuffer(b"" if matcher.is_error() else matcher.compute_bitmask(), np.int32)
        if matcher.is_error():
            raise InvalidConstraint(what + _reason(matcher.get_error()))
        if not _without(words, self._eos_token_ids).any():
            raise InvalidConstraint(what + "nothing but the empty output satisfies it")
        return matcher

    def _read_vocabulary(self) -> llguidance.LLTokenizer:
        vocabulary = _Vocabulary(self._tokenizer)
        eos = self._eos_token_ids or [vocabulary.eos_token_id]
        return llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(vocabulary), n_vocab=len(vocabulary.tokens), eos_token=eos
        )


class _Vocabulary:
    """A tokenizer as the library wants it.

    Tokens without text, which are special ones, are never part of an output that is constrained. A model without an
    end-of-sequence token gets one that it cannot sample.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        if not tokenizer.eos_token_ids:
            self.tokens.append(b"")
        self.special_token_ids = [token_id for token_id, text in enumerate(self.tokens) if not text]
        for token_id in self.special_token_ids:
            self.tokens[token_id] = f"<|{token_id}|>".encode()
        self.eos_token_id = min(tokenizer.eos_token_ids, default=len(self.tokens) - 1)
        self.bos_token_id = tokenizer.bos_token_id

    def __call__(self, text: bytes) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text.decode("utf-8", "replace")).tolist()
        return ids


def _without(words: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
    """A mask in which some tokens may not come."""
    rest = words.copy()
    for token_id in token_ids:
        rest[token_id // MASK_WORD_BITS] &= ~np.left_shift(np.int32(1), np.int32(token_id % MASK_WORD_BITS))
    return rest


def _grammar_of(constraint: Constraint) -> str:
    if constraint.kind == "json":
        return llguidance.LLMatcher.grammar_from_json_schema(
            constraint.text,
            overrides={"whitespace_flexible": False, "item_separator": _COMMA, "key_separator": _COLON},
        )
    if constraint.kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(constraint.text)
    return llguidance.grammar_from("choice", constraint.text)


def _reason(message: str) -> str:
    """What a message of the library says, on one line, without what it knows of its own insides."""
    text = " ".join(message.split("\n<", maxsplit=1)[0].split())
    return text[:_MAX_REASON_CHARS]
