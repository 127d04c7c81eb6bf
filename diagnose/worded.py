"""What the prediction table keeps of a text, and the columns by which texts are sliced."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from study.view import View

if TYPE_CHECKING:
    from study.feed import Piece
    from study.tokens import Tokenizer

TEXT: Final = "text"
TOKENS: Final = "text.tokens"
UNKNOWN: Final = "text.unknown"
WORDS: Final = "meta.words"
"""Where the words of a text are counted already, its tokens would say the same."""
LONGEST: Final = 2000
"""Characters that are kept of a text."""
SLICED: Final = 12
"""So many frequent words are columns."""
RARE, COMMON = 0.05, 0.5
"""A word in fewer rows slices off too little, one in more is no slice."""
WORD = re.compile(r"[^\W\d_]\w+")


def columns_of_texts(piece: "Piece", tokenizer: "Tokenizer | None") -> dict[str, pl.Series]:
    """The text of each row, its tokens and the share that the vocabulary lacks; nothing of other rows."""
    from study.texts import joined, text_columns

    names = text_columns(piece.rows.inputs)
    if not piece.tokens or tokenizer is None or not names:
        return {}
    texts = joined([piece.rows.inputs[name] for name in names])
    whole = [text if isinstance(text, str) else " ".join(text or ()) for text in texts]
    lacking = [
        0.0 if tokenizer.unknown is None else float((one.ids == tokenizer.unknown).mean())
        for one in piece.tokens
    ]
    return {
        TEXT: pl.Series([text[:LONGEST] for text in whole], dtype=pl.String),
        TOKENS: pl.Series([len(one) for one in piece.tokens], dtype=pl.Int64),
        UNKNOWN: pl.Series(lacking, dtype=pl.Float64),
    }


def sliced_texts(view: View, chosen: pl.Expr) -> dict[str, pl.Series]:
    """Of the chosen rows: length, share of unknown tokens, and whether a frequent word is in the text.

    The words are chosen by how many rows have them, never by how the model does on those.
    """
    table = view.table("predictions")
    names = table.collect_schema().names()
    if TEXT not in names:
        return {}
    frame = table.filter(chosen).select(TEXT, TOKENS, UNKNOWN).collect()
    held = [set(WORD.findall(text.lower())) for text in frame[TEXT].to_list()]
    counts = Counter(word for words in held for word in words)
    often = [
        word
        for word, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        if RARE * len(held) <= count <= COMMON * len(held)
    ]
    columns = {"unknown tokens": frame[UNKNOWN]}
    if WORDS not in names:
        columns["tokens"] = frame[TOKENS]
    columns |= {
        f"has '{word}'": pl.Series(np.array([word in words for words in held], dtype=bool))
        for word in often[:SLICED]
    }
    return columns


def shown_texts(view: View, positions: list[int], most: int = 160) -> dict[int, str]:
    """The beginnings of the texts at these positions; empty where the rows are no texts."""
    table = view.table("predictions")
    if TEXT not in table.collect_schema().names():
        return {}
    found = table.filter(pl.col("position").is_in(positions)).select("position", TEXT).collect()
    return {
        position: text if len(text) <= most else f"{text[:most]}…" for position, text in found.iter_rows()
    }
