"""Weights as safetensors keeps them: JSON that says where each tensor lies, then their bytes."""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from study.errors import InputError
from study.loading.weight_file import WeightFile

if TYPE_CHECKING:
    import torch

HEADER_LIMIT: Final = 100_000_000
"""The format's own limit of its header."""

_DTYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


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
        """Mapped, not copied: the library's own reader copies each tensor."""
        import torch
        from safetensors import safe_open

        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        data: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
        with safe_open(path, framework="pt") as checked:
            for name in checked.keys():  # noqa: SIM118 - no mapping: it has keys() and no iterator
                entry = header[name]
                dtype: torch.dtype | None = getattr(torch, _DTYPES.get(entry["dtype"], ""), None)
                begin = 8 + length + entry["data_offsets"][0]
                if dtype is None or begin % dtype.itemsize:
                    yield name, checked.get_tensor(name)
                    continue
                place = begin // dtype.itemsize
                yield (
                    name,
                    torch.empty(0, dtype=dtype).set_(data, place, entry["shape"], _strides(entry["shape"])),
                )


def _strides(shape: list[int]) -> list[int]:
    """Of a tensor that lies row by row."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _cut_off(path: Path) -> InputError:
    return InputError(f"{path} is damaged or cut off: copy or save it again.")
