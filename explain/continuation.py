"""What is explained of a language model: the probability that it gave the continuation of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from explain.summed import Summed
from explain.words import Words
from study.errors import SkipError
from study.feed import Piece
from study.readings.language import ids_input, most_surprising, tokens_of
from study.task import Task
from study.tokens import OUTSIDE, Tokenizer, Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

AHEAD: Final = 4
"""The first quarter of a text is no continuation: too little goes before it."""
BLANK: Final = " "
SPACE: Final = "␣"
"""How a blank reads that stands for itself."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """The span of a text that is explained: how it reads, and which parts of the row's predictions it is."""

    text: str
    parts: slice


@dataclass(frozen=True, slots=True, eq=False)
class Continuations:
    """The continuation of each explained text."""

    words: Words
    """Those before the continuation, which are attributed."""
    summed: Summed
    spans: tuple[Continuation, ...]
    """One a row."""


def continuations(
    piece: Piece, order: Sequence[int], table: pl.DataFrame, task: Task, tokenizer: Tokenizer | None
) -> Continuations:
    """Of each row the span that surprised the model as it came most, the first quarter left aside.

    ``table`` has the predictions of the rows of the piece, in this order. What is hidden is what goes before
    the span: word by word where the rows are texts, else token by token.

    Raises:
        SkipError: not one text is long enough.
    """
    ids, there = (array[list(order)] for array in tokens_of(piece))
    weights, labels = np.zeros(ids.shape, np.float32), np.zeros(ids.shape, np.int64)
    labels[:, :-1] = ids[:, 1:]
    spans, words, said = [], [], []
    for row, losses in enumerate(table["part_loss"].to_list()):
        scored = np.flatnonzero(there[row, 1:] & there[row, :-1]) + 1
        parts = _most_surprising(np.array(losses, np.float32))
        chosen = scored[parts]
        weights[row, chosen - 1] = 1
        start, stop = (int(chosen[0]), int(chosen[-1]) + 1) if len(chosen) else (0, 0)
        line = _line(piece, order[row], ids[row], tokenizer)
        own = [(first, min(last, start)) for first, last in line.words(there[row]) if first < start]
        spans.append(tuple(own))
        words.append(tuple(line.read(*one).strip() or SPACE for one in own))
        said.append(Continuation(line.read(start, stop), parts))
    if not weights.any():
        raise SkipError("not one text has a token that others go before")
    found = Words(ids_input(piece), frozenset(piece.batch), tuple(spans), tuple(words))
    return Continuations(found, Summed(task, weights, labels), tuple(said))


def absent_id(tokenizer: Tokenizer | None, ids: "NDArray[np.int64]") -> tuple[int, str]:
    """The id that stands for an absent token, and its name.

    The mask; else a blank, which every text has; else the unknown token; else the most frequent one of these
    texts. Padding and the end of a text are none: a model was never trained to read on behind them.
    """
    if tokenizer is None:
        most = int(np.bincount(ids.ravel()).argmax())
        return most, f"the token {most}"
    blanks = [one.ids[one.words != OUTSIDE] for one in tokenizer.encode([BLANK])]
    blank = int(blanks[0][0]) if blanks and len(blanks[0]) == 1 else None
    blank = None if blank == tokenizer.unknown else blank
    known = (tokenizer.mask, blank, tokenizer.unknown)
    found = [one for one in known if one is not None and one not in tokenizer.ends]
    identity = found[0] if found else int(np.bincount(ids.ravel()).argmax())
    name = tokenizer.token(identity)
    return identity, "a blank" if identity == blank else f"the token {name}"


def _most_surprising(losses: "NDArray[np.float32]") -> slice:
    ahead = len(losses) // AHEAD
    start, size, _ = most_surprising(losses[ahead:])
    return slice(ahead + start, ahead + start + size)


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """One text: its token ids and, where it was given as a text, where in it they lie."""

    ids: "NDArray[np.int64]"
    tokens: Tokens | None
    text: str
    tokenizer: Tokenizer | None

    def read(self, start: int, stop: int) -> str:
        """These tokens as they stand in the text."""
        if self.tokens is not None and self.text:
            spans = self.tokens.spans[start:stop]
            return self.text[int(spans[:, 0].min()) : int(spans[:, 1].max())] if len(spans) else ""
        named = str if self.tokenizer is None else self.tokenizer.token
        return " ".join(named(int(one)) for one in self.ids[start:stop])

    def words(self, there: "NDArray[np.bool_]") -> list[tuple[int, int]]:
        """The first token of each word and the one behind its last; a blank belongs to the word after it."""
        if self.tokens is None or not self.text:
            return [(int(at), int(at) + 1) for at in np.flatnonzero(there)]
        found: list[tuple[int, int]] = []
        begun = False
        for at, (start, _stop) in enumerate(self.tokens.spans.tolist()):
            if self.tokens.words[at] == OUTSIDE:
                begun = False
                continue
            parted = self.text[start : start + 1].isspace() or self.text[start - 1 : start].isspace()
            if begun and not (parted and self.text[slice(*self._span(found[-1]))].strip()):
                found[-1] = (found[-1][0], at + 1)
            else:
                found.append((at, at + 1))
            begun = True
        return found

    def _span(self, word: tuple[int, int]) -> tuple[int, int]:
        assert self.tokens is not None
        spans = self.tokens.spans[word[0] : word[1]]
        return int(spans[:, 0].min()), int(spans[:, 1].max())


def _line(piece: Piece, row: int, ids: "NDArray[np.int64]", tokenizer: Tokenizer | None) -> _Line:
    columns = list(piece.rows.inputs.values())
    given = columns[0][row] if len(columns) == 1 else ""
    text = given if isinstance(given, str) else ""
    return _Line(ids, piece.tokens[row] if piece.tokens else None, text, tokenizer)
