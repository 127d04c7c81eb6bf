"""One running text, cut into windows of tokens: what a language model is judged on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import polars as pl

from study.data.rows.frame import Frame
from study.data.source import Reader, Source
from study.errors import InputError
from study.subject import Data
from study.tokens import Tokenizer, open_tokenizer

WINDOW: Final = 256
"""Tokens of a window where nothing says it."""
LONGEST: Final = 1024
SLACK: Final = 8
"""Tokens that a window may gain when it is cut in the middle of a word, and separators."""
AT_ONCE: Final = 1_000_000
"""Characters that are turned into tokens at once."""


@final
class Text(Source):
    """A ``.txt`` file beside a tokenizer. It is read whole."""

    @classmethod
    def recognises(cls, data: Data) -> bool:
        """By its name, where texts are to become tokens and no column is asked for."""
        path = Path(data.source)
        plain = path.suffix.lower() == ".txt" and path.is_file()
        return plain and bool(data.tokenizer) and not (data.label or data.columns)

    @classmethod
    def open(cls, data: Data) -> Reader:
        """Windows of ``--max-tokens`` tokens, else of as many as the model takes; each is a row.

        A shorter one at the end is left out where there is a whole one: nothing fills it up.
        """
        path = Path(data.source)
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{path} is no UTF-8 text: save it as UTF-8.") from None
        tokenizer = open_tokenizer(Path(data.tokenizer))
        size = data.max_tokens or min(data.longest - SLACK if data.longest > 2 * SLACK else WINDOW, LONGEST)
        windows = list(_windows(text, tokenizer, size))
        whole = [window for window in windows if window[2] == size] or windows
        if not whole:
            raise InputError(f"{path} has no token that the vocabulary knows: give the model's tokenizer.")
        texts = [text[start:stop] for start, stop, _ in whole]
        lines, line, at = [], 1, 0
        for start, _, _ in whole:
            line, at = line + text.count("\n", at, start), start
            lines.append(line)
        return Frame.of(pl.DataFrame({"text": texts, "line": lines}), data)


def _windows(text: str, tokenizer: Tokenizer, size: int) -> Iterator[tuple[int, int, int]]:
    """Where each window begins and ends in the text, and its tokens."""
    spans: list[tuple[int, int]] = []
    for start in range(0, len(text), AT_ONCE):
        (encoded,) = tokenizer.encode([text[start : start + AT_ONCE]])
        spans += [(start + low, start + high) for low, high in encoded.spans.tolist() if high > low]
        while len(spans) >= size:
            yield spans[0][0], spans[size - 1][1], size
            del spans[:size]
    if spans:
        yield spans[0][0], spans[-1][1], len(spans)
