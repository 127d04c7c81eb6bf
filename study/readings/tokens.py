"""Token classification: every word has a tag, which is scored at the word's first piece."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.errors import InputError
from study.feed import Piece
from study.host import to_numpy
from study.parts import counted_labels, lines, pair_counts, reduced
from study.reading import Reading
from study.tags import encoded, row_of
from study.task import IGNORED, Task, scored_output
from study.texts import text_columns
from study.tokens import OUTSIDE
from study.tokens import Tokens as Encoded

if TYPE_CHECKING:
    from torch import Tensor

STEPS: Final = 2
"""Axes of inputs that are sequences: rows, steps."""
LONGEST: Final = 60
"""Characters that are kept of a word."""


@dataclass(frozen=True, slots=True, eq=False)
class Sentence:
    """The words of one row that count: the step at which each is scored, its number, and its class.

    ``label`` is ``IGNORED`` for all where the rows have no labels. ``unscored`` words have a tag and no step.
    """

    step: NDArray[np.int64]
    word: NDArray[np.int64]
    label: NDArray[np.int64]
    unscored: int = 0


@final
class Tokens(Reading):
    """A row is a sentence; its parts are its words that count, in their order."""

    @classmethod
    def columns(cls, task: Task, piece: Piece, outputs: Mapping[str, Any]) -> dict[str, pl.Series]:
        """Sums over the words; ``label``, ``prediction`` and ``word`` have one entry a word that counts.

        ``unscored`` are the words that have a tag and no token: behind what was cut off, or of signs that the
        vocabulary lacks.
        """
        scores = by_step(task, scored_output(task, outputs))
        names = _sentences(piece)
        sentences = [sentence(task, piece, row, int(scores.shape[1])) for row in range(len(piece))]
        rows = [
            reduced(task, scores[row][one.step], one.label, np.ones(len(one.step), dtype=bool))
            for row, one in enumerate(sentences)
        ]
        words = [_named(names, row, one.word) for row, one in enumerate(sentences)]
        unscored = [one.unscored for one in sentences]
        columns = lines(rows, each=True, classes=max(task.width, 2))
        columns["word"] = pl.Series(words, dtype=pl.List(pl.String))
        columns["unscored"] = pl.Series(unscored, dtype=pl.Int64)
        columns["meta.words"] = pl.Series([len(one.label) for one in rows], dtype=pl.Int64)
        if piece.rows.labels is None:
            columns["hits"] = pl.Series([None] * len(rows), dtype=pl.Int64)
            return columns
        return columns | pair_counts(rows, max(task.width, 2))


def sentence(task: Task, piece: Piece, row: int, steps: int) -> Sentence:
    """The words of a row of the piece, whose outputs have so many steps.

    Raises:
        InputError: a text has another number of words than tags.
    """
    labels = piece.rows.labels
    step, word = _scored(piece, row, steps)
    if labels is None:
        return Sentence(step, word, np.full(len(step), IGNORED))
    tags = encoded(row_of(labels[row]), {name: at for at, name in enumerate(task.classes)})
    _must_be_as_many(piece, row, len(tags))
    counts = counted_labels(task, tags)
    kept = np.zeros(len(word), dtype=bool)
    there = word < len(tags)
    kept[there] = counts[word[there]]
    return Sentence(step[kept], word[kept], tags[word[kept]], int(counts.sum() - kept.sum()))


def by_step(task: Task, output: Any) -> "Tensor":
    """The scores as (rows, steps, classes), where they are."""
    import torch

    scores = output if isinstance(output, torch.Tensor) else torch.from_numpy(to_numpy(output))
    if task.class_axis == 0:
        return scores[..., None]
    return scores.movedim(task.class_axis, -1)


def first_pieces(tokens: Encoded, text: object) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens that begin a word, and which word; the words of a text lie between its blanks."""
    words = tokens.words
    if isinstance(text, str):
        blank = np.array([letter.isspace() for letter in text], dtype=bool)
        begins = np.flatnonzero(~blank & np.concatenate([[True], blank[:-1]]))
        at = np.searchsorted(begins, tokens.spans[:, 0], side="right") - 1
        words = np.where(tokens.spans[:, 1] > tokens.spans[:, 0], at, OUTSIDE)
    there = np.flatnonzero(words != OUTSIDE)
    word, first = np.unique(words[there], return_index=True)
    return there[first], word


def _scored(piece: Piece, row: int, steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The steps of a row at which a word is scored, and the number of the word."""
    if piece.tokens:
        names = text_columns(piece.rows.inputs)
        step, word = first_pieces(piece.tokens[row], piece.rows.inputs[names[0]][row])
        return step[step < steps], word[step < steps]
    there = np.ones(steps, dtype=bool)
    for name, array in piece.batch.items():
        if "mask" in name.lower() and array.shape[1:] == (steps,):
            there &= array[row].astype(bool)
        elif "len" in name.lower() and array.ndim == 1:
            there &= np.arange(steps) < int(array[row])
    if piece.rows.labels is None and piece.ragged:
        given = [len(column[row]) for column in piece.rows.inputs.values() if isinstance(column, list)]
        there &= np.arange(steps) < max(given, default=steps)
    step = np.flatnonzero(there)
    return step, step


def _must_be_as_many(piece: Piece, row: int, tags: int) -> None:
    """Refuse a text that has another number of words than tags (of lists, such rows are counted out).

    Raises:
        InputError: it has.
    """
    texts = text_columns(piece.rows.inputs)
    text = piece.rows.inputs[texts[0]][row] if texts else None
    if isinstance(text, str) and len(text.split()) != tags:
        raise InputError(
            f"Row '{piece.rows.ids[row]}' has {tags} tags and {len(text.split())} words between blanks: give "
            "the words as a list, with a tag for each."
        )


def _sentences(piece: Piece) -> Sequence[Sequence[Any]]:
    """The words of each row: as they were given, or the ids that were fed."""
    names = text_columns(piece.rows.inputs)
    if names:
        return [cell.split() if isinstance(cell, str) else cell for cell in piece.rows.inputs[names[0]]]
    fed = (array for array in piece.batch.values() if array.ndim == STEPS and array.dtype.kind in "iu")
    ids = next(fed, None)
    return [] if ids is None else ids.tolist()


def _named(sentences: Sequence[Sequence[Any]], row: int, words: NDArray[np.int64]) -> list[str]:
    if not sentences:
        return []
    there = sentences[row]
    return [str(there[at])[:LONGEST] for at in words.tolist() if at < len(there)]
