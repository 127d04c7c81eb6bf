"""Texts as tokens: what turns one into the other, whichever library wrote it down."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from study.catalog import Catalog
from study.errors import InputError
from study.ragged import Ragged
from study.record import JSON

Text: TypeAlias = str | tuple[str, str] | Sequence[str]
"""A text, a pair of texts, or a text that is cut into words already (a list)."""
OUTSIDE = -1
"""The word of a token that belongs to none (a separator)."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One text as tokens: everything has one entry a token.

    ``spans`` (tokens, 2) are the places in the text where it begins and ends (0, 0 where it stands for no
    part of it) and ``words`` the number of its word, counted from 0; ``OUTSIDE`` where it has none.
    """

    ids: NDArray[np.int64]
    spans: NDArray[np.int64]
    words: NDArray[np.int64]
    parts: NDArray[np.int64]
    """Which text of a pair (0 or 1)."""

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> "Tokens":
        """The first so many tokens."""
        return Tokens(self.ids[:count], self.spans[:count], self.words[:count], self.parts[:count])


class Tokenizer(ABC):
    """One kind of tokenizer file."""

    size: int
    """Ids are below it."""
    pad: int | None
    """The id that fills shorter texts up; None where it has none."""
    unknown: int | None
    """The id of what the vocabulary lacks."""
    mask: int | None
    """The id that stands for a word that is hidden."""
    ends: frozenset[int] = frozenset()
    """The ids at which a text begins or ends."""
    inputs: tuple[str, ...]
    """The arrays that ``arrays`` gives, under the names of its library."""

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the file or folder holds such a tokenizer, by looking at it."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path) -> Self:
        """Read it.

        Raises:
            InputError: it cannot be read, or a package that it needs is not installed.
        """

    @abstractmethod
    def encode(self, texts: Sequence[Text], most: int = 0) -> list[Tokens]:
        """Each text as tokens, cut to ``most`` where that is not 0."""

    @abstractmethod
    def token(self, identity: int) -> str:
        """The token of an id, as people read it."""

    @abstractmethod
    def written(self) -> tuple[str, str]:
        """The name and the text of one file that a program without us can turn texts into tokens by."""

    @abstractmethod
    def settings(self) -> dict[str, JSON]:
        """What such a program must know beside that file."""


TOKENIZERS: Catalog[Tokenizer] = Catalog(
    "tokenizer",
    {
        "huggingface": "study.tokenizers.huggingface:HuggingFace",
        "vocabulary": "study.tokenizers.vocabulary:Vocabulary",
    },
)
"""In the order in which they are asked whether they recognise a file."""


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in this file or folder.

    Raises:
        InputError: there is none.
    """
    if path.name == "tokenizer.json":
        path = path.parent
    for name in TOKENIZERS:
        kind = TOKENIZERS.get(name)
        if path.exists() and kind.recognises(path):
            return kind.open(path)
    raise InputError(
        f"{path} holds no tokenizer: give a folder with tokenizer.json, or a vocabulary: one token a line, "
        "or as JSON."
    )


def arrays(tokenizer: Tokenizer, encoded: Sequence[Tokens]) -> Mapping[str, Ragged]:
    """The model inputs of these texts by the names of the tokenizer's library: ids, mask, parts of a pair."""
    filled = 0 if tokenizer.pad is None else tokenizer.pad
    columns: dict[str, tuple[list[NDArray[Any]], int]] = {
        "input_ids": ([one.ids for one in encoded], filled),
        "attention_mask": ([np.ones(len(one), dtype=np.int64) for one in encoded], 0),
        "token_type_ids": ([one.parts for one in encoded], 0),
    }
    return {name: Ragged.of(*columns[name], "int64") for name in tokenizer.inputs}
