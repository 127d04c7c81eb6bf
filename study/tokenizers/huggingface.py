"""Tokenizers as Hugging Face's libraries keep them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np

from study.errors import InputError
from study.offline import offline
from study.record import JSON
from study.tokens import OUTSIDE, Text, Tokenizer, Tokens

FILES: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
KNOWN: Final = ("input_ids", "token_type_ids", "attention_mask")


@final
class HuggingFace(Tokenizer):
    """A folder with ``tokenizer.json``, or with what a tokenizer of transformers was saved as."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size = len(tokenizer)
        self.pad = tokenizer.pad_token_id
        self.unknown = tokenizer.unk_token_id
        self.mask = tokenizer.mask_token_id
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.ends = frozenset(one for one in ends if one is not None)
        self.inputs = KNOWN

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder that holds one of its files."""
        return path.is_dir() and any((path / name).is_file() for name in FILES)

    @classmethod
    def open(cls, path: Path) -> Self:
        """By ``AutoTokenizer``, without any code of the folder and without the net."""
        try:
            with offline():
                from transformers import AutoTokenizer

                tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, use_fast=True)
        except ImportError:
            raise InputError(
                f"{path} holds a tokenizer of transformers: pip install 'diag-toolkit[transformers]'."
            ) from None
        except Exception as error:  # its loaders raise whatever they meet
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"{path} holds no tokenizer that transformers can read: {line}") from error
        if not tokenizer.is_fast:
            raise InputError(
                f"{path} holds a tokenizer without tokenizer.json: save it as a fast one, which knows where "
                "in the text each token lies."
            )
        return cls(tokenizer)

    def encode(self, texts: Sequence[Text], most: int = 0) -> list[Tokens]:
        """With the separators that the tokenizer puts in."""
        first = texts[0]
        split = isinstance(first, list)
        pair = isinstance(first, tuple)
        given = [list(one) for one in zip(*texts, strict=True)] if pair else [list(texts)]
        encoded = self._tokenizer(
            *given,
            is_split_into_words=split,
            truncation=bool(most),
            max_length=most or None,
            add_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        ).encodings
        return [
            Tokens(
                ids=np.array(one.ids, dtype=np.int64),
                spans=np.array(one.offsets, dtype=np.int64).reshape(-1, 2),
                words=np.array([OUTSIDE if at is None else at for at in one.word_ids], dtype=np.int64),
                parts=np.array(one.type_ids, dtype=np.int64),
            )
            for one in encoded
        ]

    def token(self, identity: int) -> str:
        """As the vocabulary has it."""
        return str(self._tokenizer.convert_ids_to_tokens(int(identity)))

    def written(self) -> tuple[str, str]:
        """``tokenizer.json``, which the package tokenizers reads."""
        return "tokenizer.json", str(self._tokenizer.backend_tokenizer.to_str())

    def settings(self) -> dict[str, JSON]:
        """The separators are put in by the file itself."""
        return {"library": "tokenizers", "pad_token": self._tokenizer.pad_token}
