"""The words of the explained texts: which tokens each is made of, and what stands for its absence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from study.errors import SkipError
from study.feed import Piece
from study.texts import joined, text_columns
from study.tokens import OUTSIDE, Text, Tokenizer, Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORDS = "words"
"""The name under which attributions of words are kept, whatever the input is called."""
STEPS = 2


@dataclass(frozen=True, slots=True)
class Words:
    """The words of some rows; padding, separators and other special tokens are in none of them."""

    input: str
    """The input that takes the token ids."""
    encoded: frozenset[str]
    """Every input that the texts became: ids, masks, lengths."""
    spans: tuple[tuple[tuple[int, int], ...], ...]
    """Of each row, of each word: its first token and the one behind its last."""
    texts: tuple[tuple[str, ...], ...]
    """Of each row, each word as it stands in the text."""

    @property
    def most(self) -> int:
        """Words of the longest row."""
        return max((len(row) for row in self.spans), default=0)

    def first(self, count: int) -> "Words":
        """Those of the first so many rows."""
        return replace(self, spans=self.spans[:count], texts=self.texts[:count])

    def empty(self) -> "NDArray[np.float32]":
        """An attribution of 0 for every word, (rows, words); NaN where a row has no so many."""
        values = np.full((len(self.spans), self.most), np.nan, np.float32)
        for row, spans in enumerate(self.spans):
            values[row, : len(spans)] = 0
        return values

    def summed(self, tokens: "NDArray[Any]") -> "NDArray[np.float32]":
        """The attributions of tokens, (rows, tokens), as those of words: each is the sum of its pieces."""
        values = self.empty()
        for row, spans in enumerate(self.spans):
            for at, (start, stop) in enumerate(spans):
                values[row, at] = tokens[row, start:stop].sum(dtype=np.float64)
        return values

    def without(self, ids: "NDArray[Any]", absent: "NDArray[Any]") -> "NDArray[Any]":
        """The token ids, (rows, tokens), with each word's replaced; separators and padding stay."""
        changed = ids.copy()
        for row, spans in enumerate(self.spans):
            for start, stop in spans:
                changed[row, start:stop] = absent[start:stop]
        return changed


def words_of(piece: Piece, batch: "Mapping[str, NDArray[Any]]", order: Sequence[int]) -> Words | None:
    """The words of these rows of a piece, of which ``batch`` are the inputs; None where they are no texts."""
    if not piece.tokens:
        return None
    tokens = [piece.tokens[at] for at in order]
    name = next((name for name, array in batch.items() if _is_ids(array, tokens)), "")
    columns = text_columns(piece.rows.inputs)
    if not name or not columns:
        return None
    texts = joined([piece.rows.inputs[column] for column in columns])
    found = [_words(one, texts[at]) for one, at in zip(tokens, order, strict=True)]
    return Words(
        name,
        piece.encoded,
        tuple(tuple(span for span, _ in row) for row in found),
        tuple(tuple(word for _, word in row) for row in found),
    )


def absent_token(tokenizer: Tokenizer) -> tuple[int, str]:
    """The id that stands for an absent word, and its name: the mask, else the unknown token, else padding.

    Raises:
        SkipError: the vocabulary has none of them.
    """
    for identity in (tokenizer.mask, tokenizer.unknown, tokenizer.pad):
        if identity is not None:
            return identity, tokenizer.token(identity)
    raise SkipError("its vocabulary has neither a mask nor an unknown token that could stand for a word")


def _is_ids(array: "NDArray[Any]", tokens: Sequence[Tokens]) -> bool:
    """Whether these are the token ids, filled up."""
    return array.ndim == STEPS and all(
        np.array_equal(row[: len(one)], one.ids) for row, one in zip(array, tokens, strict=True)
    )


def _words(tokens: Tokens, text: Text | None) -> list[tuple[tuple[int, int], str]]:
    """Each word's tokens and its text, in order."""
    found: list[tuple[tuple[int, int], str]] = []
    start = 0
    while start < len(tokens):
        same = (tokens.words == tokens.words[start]) & (tokens.parts == tokens.parts[start])
        stop = start + int(np.argmin(np.append(same[start:], False)))
        if tokens.words[start] != OUTSIDE:
            found.append(((start, stop), _read(tokens, start, stop, text)))
        start = stop
    return found


def _read(tokens: Tokens, start: int, stop: int, text: Text | None) -> str:
    """The word as it stands in the text."""
    if text is None:
        return ""
    if isinstance(text, list):  # cut into words already: spans are places within a word
        return str(text[tokens.words[start]])
    whole = text if isinstance(text, str) else str(text[tokens.parts[start]])
    return whole[tokens.spans[start, 0] : tokens.spans[stop - 1, 1]].strip()
