"""Weights as safetensors keeps them: JSON that says where each tensor lies, then their bytes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from study.errors import InputError
from study.loading.weight_file import WeightFile

if TYPE_CHECKING:
    import torch

HEADER_LIMIT: Final = 100_000_000
"""The format's own limit of its header."""


@final
class Safetensors(WeightFile):
    """Eight bytes of header length, the header's JSON, then exactly the bytes that it announces."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the header, which must be whole and announce no more bytes than there are."""
        with path.open("rb") as file:
            head = file.read(9)
            length = int.from_bytes(head[:8], "little")
            if head[8:] != b"{" or length > HEADER_LIMIT:
                return False
            file.seek(8)
            text = file.read(length)
        try:
            header = json.loads(text)
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            if len(text) < length:
                raise _cut_off(path) from None
            return False
        if path.stat().st_size < 8 + length + max(ends, default=0):
            raise _cut_off(path)
        return True

    @classmethod
    def read(cls, path: Path) -> "Iterator[tuple[str, torch.Tensor]]":
        """Mapped, not copied."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping: it has keys() and no iterator
                yield name, file.get_tensor(name)


def _cut_off(path: Path) -> InputError:
    return InputError(f"{path} is damaged or cut off: copy or save it again.")
