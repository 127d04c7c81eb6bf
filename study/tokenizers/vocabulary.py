"""A list of tokens: what a plain network with an embedding was trained on."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self, final

import numpy as np

from study.errors import InputError
from study.record import JSON
from study.tokens import Text, Tokenizer, Tokens

UNKNOWN: Final = ("<unk>", "[UNK]", "<UNK>", "unk", "UNK", "<oov>", "<OOV>")
PADDING: Final = ("<pad>", "[PAD]", "<PAD>", "pad", "PAD")
MASK: Final = ("<mask>", "[MASK]", "<MASK>")
WORD: Final = re.compile(r"\w+|[^\w\s]")
HEAD: Final = 4096


@final
class Vocabulary(Tokenizer):
    """A text file with one token a line (its id is the number of the line), or JSON of token and id.

    Where all tokens but those in brackets are single characters a text is cut into characters, else into
    words and marks; it is put into lower case where no token has an upper-case letter.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        named = {*UNKNOWN, *PADDING, *MASK}
        plain = [token for token in ids if token not in named and not token.startswith("<")]
        self.size = max(ids.values()) + 1
        self.pad = next((ids[token] for token in PADDING if token in ids), None)
        self.inputs = ("input_ids", "attention_mask")
        self._ids = dict(ids)
        self._tokens = {identity: token for token, identity in ids.items()}
        self.unknown = next((ids[token] for token in UNKNOWN if token in ids), None)
        self.mask = next((ids[token] for token in MASK if token in ids), None)
        self._by_character = all(len(token) == 1 for token in plain)
        self._lower = all(token == token.lower() for token in plain)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Any text file."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return b"\0" not in file.read(HEAD)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read it; JSON may be a list of tokens or an object of token and id."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path} is no text: give a vocabulary as UTF-8.") from None
        tokens: object = [line for line in text.split("\n") if line]
        if text.lstrip()[:1] in ("{", "["):
            with suppress(json.JSONDecodeError):  # else a list of tokens, of which the first is a bracket
                tokens = json.loads(text)
        if isinstance(tokens, list):
            tokens = {str(token): at for at, token in enumerate(tokens)}
        if not isinstance(tokens, dict) or {type(at) for at in tokens.values()} != {int}:
            raise InputError(f"{path} is no vocabulary: give one token a line, or JSON of token and id.")
        return cls({str(token): int(at) for token, at in tokens.items()})

    def encode(self, texts: Sequence[Text], most: int = 0) -> list[Tokens]:
        """Tokens that the vocabulary lacks become its unknown token, or are left out where it has none."""
        if any(isinstance(text, tuple) for text in texts):
            raise InputError("A vocabulary knows no pairs of texts: give one text column with --columns.")
        encoded = [self._encode(text) for text in texts]
        return [one.first(most) for one in encoded] if most else encoded

    def token(self, identity: int) -> str:
        """As the file has it."""
        return self._tokens.get(int(identity), "?")

    def written(self) -> tuple[str, str]:
        """The ids by token."""
        return "vocabulary.json", json.dumps(self._ids, ensure_ascii=False, indent=0) + "\n"

    def settings(self) -> dict[str, JSON]:
        """How a text is cut."""
        return {"library": "", "lower_case": self._lower, "cut": "." if self._by_character else WORD.pattern}

    def _encode(self, text: Text) -> Tokens:
        ids, spans, words = [], [], []
        for place, (word, span) in enumerate(self._pieces(text)):
            identity = self._ids.get(word.lower() if self._lower else word, self.unknown)
            if identity is not None:
                ids.append(identity)
                spans.append(span)
                words.append(place)
        return Tokens(
            ids=np.array(ids, dtype=np.int64),
            spans=np.array(spans, dtype=np.int64).reshape(-1, 2),
            words=np.array(words, dtype=np.int64),
            parts=np.zeros(len(ids), dtype=np.int64),
        )

    def _pieces(self, text: Text) -> list[tuple[str, tuple[int, int]]]:
        if not isinstance(text, str):
            return [(str(word), (0, 0)) for word in text]
        if self._by_character:
            return [(letter, (at, at + 1)) for at, letter in enumerate(text)]
        return [(match.group(), match.span()) for match in WORD.finditer(text)]
