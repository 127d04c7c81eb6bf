"""Texts whose words are coloured by what was attributed to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from diag.render.figures import plain
from study.record import Picture, Table

LEVELS = 4
"""Strengths of a colour; below half of the first a word has none."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, how strongly (1 to ``LEVELS``; 0: hardly) and on which side it speaks, and the figure."""

    text: str
    level: int = 0
    side: str = ""
    figure: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """One text."""

    title: str
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Coloured:
    """The texts of one picture."""

    title: str
    text: str
    passages: tuple[Passage, ...]


def coloured(pictures: Sequence[Picture], tables: Sequence[Table]) -> tuple[Coloured, ...]:
    """What the pictures of kind ``text`` show; each text has its own scale, by its loudest word."""
    known = {table.title: table for table in tables}
    return tuple(
        Coloured(picture.title, picture.text, _passages(known[picture.source]))
        for picture in pictures
        if picture.kind == "text" and picture.source in known
    )


def _passages(table: Table) -> tuple[Passage, ...]:
    rows: dict[str, list[tuple[str, float]]] = {}
    for title, word, value in table.rows:
        number = float(value) if isinstance(value, int | float) else 0.0
        rows.setdefault(str(title), []).append((str(word), number))
    return tuple(Passage(plain(title), tuple(_words(given))) for title, given in rows.items())


def _words(given: Sequence[tuple[str, float]]) -> list[Word]:
    loudest = max(abs(value) for _, value in given)
    words = []
    for text, value in given:
        share = abs(value) / loudest if loudest else 0.0
        level = ceil(share * LEVELS - 0.5)
        side = "for" if value > 0 else "against"
        words.append(Word(plain(text), level, side, f"{value:+.3g}") if level > 0 else Word(plain(text)))
    return words
