"""Tagged sentences as text: a word and its tag a line, a blank line behind each sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import polars as pl

from study.data.rows.frame import Frame
from study.data.source import Reader, Source
from study.errors import InputError
from study.subject import Data

ENDINGS: Final = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".conllu")
UNIVERSAL: Final = ".conllu"
FORM, PART = 1, 3
"""Of CoNLL-U: the word, and its universal part of speech."""
DOCUMENT: Final = "-DOCSTART-"
"""What begins a document in CoNLL-2003; no word."""


@final
class Conll(Source):
    """A text file of the CoNLL shared tasks. It is read whole."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """By its name: any text could be one."""
        path = Path(data.source)
        return path.suffix.lower() in ENDINGS and path.is_file()

    @classmethod
    def open(cls, data: Data) -> Reader:
        """The first column are the words and the last the tags, whatever is between.

        What begins with ``#`` and has another number of columns than the words is a comment. Of CoNLL-U the
        tags are the parts of speech. A sentence in which a word has no tag is broken.
        """
        path = Path(data.source)
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{path} is no UTF-8 text: save it as UTF-8.") from None
        words, tags, lines = list[list[str]](), list[list[str]](), list[int]()
        broken: dict[int, str] = {}
        for line, sentence in _sentences(text, universal=path.suffix.lower() == UNIVERSAL):
            bare = next((at for at, cells in enumerate(sentence) if len(cells) == 1), None)
            if bare is not None:
                broken[len(words)] = f"has a word without a tag ('{sentence[bare][0]}', from line {line})"
            words.append([cells[0] for cells in sentence])
            tags.append([cells[-1] for cells in sentence])
            lines.append(line)
        if broken and len(broken) == len(words):
            raise InputError(f"{path} has no tags: write a word, a blank and its tag on each line.")
        return Frame.of(pl.DataFrame({"tokens": words, "tags": tags, "line": lines}), data, broken)


def _sentences(text: str, *, universal: bool) -> Iterator[tuple[int, list[list[str]]]]:
    """The line on which each sentence begins, and the columns of its words."""
    lines = [_cells(line) for line in text.split("\n")]
    width = next((len(cells) for cells in lines if cells and not cells[0].startswith(("#", DOCUMENT))), 0)
    found: list[list[str]] = []
    first = 0
    for number, cells in enumerate((*lines, []), 1):
        if not cells:
            if found:
                yield first, found
            found = []
        elif cells[0] != DOCUMENT and not (cells[0].startswith("#") and len(cells) != width):
            word = _universal(cells) if universal else cells
            if word:
                first = first if found else number
                found.append(word)


def _cells(line: str) -> list[str]:
    """The columns of a line, between tabs where it has some, else between blanks."""
    parts = line.split("\t") if "\t" in line.strip() else line.split()
    return [part.strip() for part in parts if part.strip()]


def _universal(cells: list[str]) -> list[str]:
    """Word and part of speech of a line of CoNLL-U; nothing where it is no word (``1-2``, ``8.1``)."""
    return [cells[FORM], cells[PART]] if cells[0].isdecimal() and len(cells) > PART else []
