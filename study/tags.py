"""Tags: one label a word of a sentence. How they come, and what is wrong with them. numpy only."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from study.errors import counted
from study.task import IGNORED

Row: TypeAlias = NDArray[Any]
"""The tags of one row, a word each: int64, negative where a word does not count, or names (None there)."""
SENTENCES: Final = 2
"""Axes of tags that are one array: rows, steps."""


def tags_of(rows: Iterable[Sequence[Any] | None]) -> NDArray[np.object_]:
    """Lists of different lengths as labels: an array of arrays, None where a row has none."""
    every = list(rows)
    made = np.empty(len(every), dtype=object)
    for place, row in enumerate(every):
        made[place] = None if row is None else _row(row)
    return made


def _row(tags: Sequence[Any]) -> Row:
    if any(isinstance(tag, str) for tag in tags):
        return np.array(list(tags), dtype=object)
    return np.array([IGNORED if tag is None else tag for tag in tags]).astype(np.int64)


def is_tags(labels: NDArray[Any] | None) -> TypeGuard[NDArray[np.object_]]:
    """Whether labels are lists of tags, each as long as its row."""
    if labels is None or labels.dtype.kind != "O" or labels.ndim != 1:
        return False
    return any(isinstance(label, np.ndarray) for label in labels)


def row_of(label: Any) -> Row:
    """The tags of one row, however they came; a text has one tag before each blank."""
    if not isinstance(label, str):
        return np.asarray(label)
    words = label.split()
    whole = bool(words) and all(word.removeprefix("-").isdecimal() for word in words)
    return np.array(words, dtype=np.int64 if whole else object)


def in_words(row: Row) -> bool:
    """Whether the tags are names."""
    return row.dtype.kind in "OUS"


def encoded(row: Row, classes: Mapping[str, int]) -> NDArray[np.int64]:
    """Tags as class indices, ``IGNORED`` where a word does not count.

    Raises:
        KeyError: a tag is no class.
    """
    if not in_words(row):
        return row.astype(np.int64)
    return np.array([IGNORED if tag is None else classes[str(tag)] for tag in row.tolist()], dtype=np.int64)


def faults(labels: NDArray[np.object_], inputs: Mapping[str, NDArray[Any] | list[Any]]) -> dict[int, str]:
    """The rows whose tags cannot be used, with the reason; ``inputs`` are those of the same rows."""
    words = next(
        (column for column in inputs.values() if isinstance(column, list) and _are_words(column)), None
    )
    found = {}
    for place, label in enumerate(labels):
        if label is None:
            continue
        there = None if words is None or words[place] is None else len(words[place])
        if there is not None and there != len(label):
            found[place] = f"has {counted(there, 'word')} and {counted(len(label), 'tag')}"
        elif not len(label):
            found[place] = "is an empty sentence"
        elif not _counts(label):
            found[place] = "has no word whose tag counts"
    return found


def _are_words(column: Sequence[Any]) -> bool:
    return all(cell is None or isinstance(cell, list | tuple) for cell in column)


def _counts(label: Row) -> bool:
    if in_words(label):
        return any(tag is not None for tag in label)
    return bool((label >= 0).any())
