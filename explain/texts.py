"""What the attributions of words say: in a sentence, over all rows, and word by word for the page."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from explain.method import Attribution
from explain.question import Question
from explain.words import WORDS, Words
from study.record import Cell, Picture, Table

SHOWN = 8
"""Rows whose texts are shown."""
LONGEST = 200
"""Words that are shown of a text."""
BARS = 20
NAMED = 3
OVERALL = "Mean |attribution| of each word"
BY_WORD = "Attribution of each word, by row"
CHANGED = "Attribution of each word as it came and now, by row"


def strongest(found: Attribution, words: Words) -> str:
    """The words that speak loudest over all rows, with the mean of their signed attributions."""
    every = _overall(found, words)[:NAMED]
    return ", ".join(f"'{word}' {value:+.2g}" for word, _, _, value in every)


def tables(found: Attribution, question: Question) -> tuple[tuple[Table, ...], tuple[Picture, ...]]:
    """The loudest words over all rows, and the texts of the first rows with every word's attribution."""
    words = question.rows.words
    assert words is not None
    overall = Table(
        OVERALL,
        ("word", "mean |attribution|", "rows", "mean attribution"),
        tuple((word, size, rows, value) for word, size, rows, value in _overall(found, words)[:BARS]),
    )
    lines: list[tuple[Cell, ...]] = [
        (question.titles[row], word, float(value))
        for row in range(min(SHOWN, len(words.texts)))
        for word, value in list(zip(words.texts[row], found.values[WORDS][row], strict=False))[:LONGEST]
    ]
    text = f"What speaks for (red) and against (blue) the explained score by {found.by}, word by word"
    shown = Table(BY_WORD, ("row", "word", "attribution"), tuple(lines))
    return (overall, shown), (Picture("Texts", "text", BY_WORD, text),)


def changes(
    question: Question, before: Attribution, after: Attribution, rows: Sequence[int]
) -> tuple[tuple[Table, ...], tuple[Picture, ...]]:
    """The texts of these rows twice, with their words' attributions as it came and by this artifact."""
    words = question.rows.words
    if words is None or not rows or WORDS not in after.values:
        return (), ()
    lines: list[tuple[Cell, ...]] = [
        (f"{question.titles[row]} · {when}", word, float(value))
        for row in rows
        for when, found in (("as it came", before), ("now", after))
        for word, value in list(zip(words.texts[row], found.values[WORDS][row], strict=False))[:LONGEST]
    ]
    text = f"The rows whose words changed most by {after.by}: for (red) and against (blue) the score"
    table = Table(CHANGED, ("row", "word", "attribution"), tuple(lines))
    return (table,), (Picture("Texts that are read otherwise", "text", CHANGED, text),)


def _overall(found: Attribution, words: Words) -> list[tuple[str, float, int, float]]:
    """Of each word, in lower case: the mean size of its attribution in a row, rows, and the signed mean.

    A word that stands twice in a row counts with the sum. Words of one row come after those of several.
    """
    sums: defaultdict[str, list[float]] = defaultdict(list)
    for texts, values in zip(words.texts, found.values[WORDS], strict=True):
        row: defaultdict[str, float] = defaultdict(float)
        for word, value in zip(texts, values, strict=False):
            row[word.lower()] += float(value)
        for word, value in row.items():
            sums[word].append(value)
    every = [
        (word, float(np.abs(values).mean()), len(values), float(np.mean(values)))
        for word, values in sums.items()
        if any(values)
    ]
    return sorted(every, key=lambda one: (one[2] < 2, -one[1], one[0]))  # noqa: PLR2004 - several rows
