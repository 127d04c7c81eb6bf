"""Texts among the raw rows -> token arrays under the names of the model's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from study.data.source import Column
from study.errors import InputError
from study.ragged import Ragged
from study.subject import Data
from study.tokens import Text, Tokenizer, Tokens, arrays

IDS: Final = "input_ids"
MASK: Final = "attention_mask"
PAIR: Final = 2


@dataclass(frozen=True, slots=True)
class Encoded:
    """The texts that are whole, as tokens and as model inputs; the places of the others with the reason."""

    tokens: tuple[Tokens, ...]
    inputs: Mapping[str, Ragged | NDArray[np.int64]]
    broken: Mapping[int, str]


def is_texts(column: Column) -> bool:
    """Whether a raw column is texts, or texts that are cut into words already; some may be missing."""
    given = [cell for cell in column if cell is not None] if isinstance(column, list) else []
    return bool(given) and all(
        isinstance(cell, str)
        or (isinstance(cell, list | tuple) and bool(cell) and all(isinstance(word, str) for word in cell))
        for cell in given
    )


def joined(columns: Sequence[Column]) -> list[Text | None]:
    """One text column as it is, two as pairs; None where one is missing.

    Raises:
        InputError: there are more than two.
    """
    if len(columns) > PAIR:
        raise InputError("There are more than two columns of texts: name the one (or a pair) with --columns.")
    if len(columns) == 1:
        return [list(cell) if isinstance(cell, tuple) else cell for cell in columns[0]]
    return [
        None if first is None or second is None else (str(first), str(second))
        for first, second in zip(*columns, strict=True)
    ]


def encode(
    texts: Sequence[Text | None], tokenizer: Tokenizer, data: Data, wanted: tuple[str, ...]
) -> Encoded:
    """Each text as tokens. One that is missing, empty or too long is broken.

    ``wanted`` are the names of the model's inputs (empty: any).
    """
    broken = {place: why for place, text in enumerate(texts) if (why := _no_text(text))}
    places = [place for place in range(len(texts)) if place not in broken]
    given = [text for text in texts if not _no_text(text) and text is not None]
    tokens = tokenizer.encode(given, data.max_tokens) if given else []
    kept = []
    for place, one in zip(places, tokens, strict=True):
        if not len(one):
            broken[place] = "has no token that the vocabulary knows"
        elif data.longest and len(one) > data.longest:
            broken[place] = (
                f"has {len(one)} tokens, and the model takes {data.longest}: "
                f"--max-tokens {data.longest} would cut it"
            )
        else:
            kept.append(one)
    return Encoded(tuple(kept), named(tokenizer, kept, wanted) if kept else {}, broken)


def named(
    tokenizer: Tokenizer, tokens: Sequence[Tokens], wanted: tuple[str, ...]
) -> dict[str, Ragged | NDArray[np.int64]]:
    """The arrays under the model's names: ids, and a mask or lengths where an input is called so.

    Raises:
        InputError: the tokenizer has no padding and the texts have different lengths.
    """
    made = dict(arrays(tokenizer, tokens))
    lengths = made[IDS].lengths
    told = MASK in wanted or any(is_lengths(name) for name in wanted)
    if tokenizer.pad is None and not told and lengths.min() != lengths.max():
        raise InputError(
            "The texts have different lengths, and the vocabulary has no <pad> to fill shorter ones up with: "
            "add one, or cut all to one length with --max-tokens."
        )
    if not wanted or IDS in wanted:
        return {name: array for name, array in made.items() if not wanted or name in wanted}
    found: dict[str, Ragged | NDArray[np.int64]] = {}
    for name in wanted:
        if "mask" in name.lower() and MASK in made:
            found[name] = made[MASK]
        elif is_lengths(name):
            found[name] = lengths
        elif IDS in made:
            found[name] = made.pop(IDS)
    return found


def is_lengths(name: str) -> bool:
    """Whether a model input takes the number of tokens of each text (``study.loading.bags`` of offsets)."""
    return "len" in name.lower() or name == "offsets"


def _no_text(text: Text | None) -> str:
    if text is None:
        return "has no text"
    given = [text] if isinstance(text, str) else text
    return "" if any(part.strip() for part in given) else "is an empty text"


def refuse_vocabulary(tokenizer: Tokenizer, vocabulary: int, path: str) -> None:
    """Refuse a tokenizer whose ids are beyond the embedding.

    Raises:
        InputError: it has more tokens than the model knows.
    """
    if vocabulary and tokenizer.size > vocabulary:
        raise InputError(
            f"The tokenizer in {path} has {tokenizer.size} tokens and the model's embedding {vocabulary}: "
            "give the tokenizer that the model was trained with."
        )


def text_columns(raw: Mapping[str, Column]) -> list[str]:
    """The names of the raw inputs that are texts."""
    return [name for name, column in raw.items() if is_texts(column)]
